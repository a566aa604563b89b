/* SPDX-License-Identifier: Apache-2.0 */
#include "dot.h"
#include "tlc/kernels.h"
#include "tlc/requant.h"

static void tlc_put(const tlc_dense_t *p, int8_t *y, uint32_t n, uint32_t o, int32_t acc) {
    const uint32_t channel = p->per_channel ? o : 0;
    const int32_t out = tlc_requant(acc, p->mult[channel], p->shift[channel]) + p->out_zp;
    y[n * p->out + o] = tlc_clamp_s8(out, p->act_min, p->act_max);
}

void tlc_dense_s8(const tlc_dense_t *p, const int8_t *x, tlc_rows_t *w, const int32_t *bias, int8_t *y) {
    uint32_t o = 0;
    /* Rows that lie in flash one behind the other are taken by four: then each input is fetched once for four. */
    for (; tlc_rows_are_raw(w) && o + 4 <= p->out; o += 4) {
        const int8_t *rows = tlc_rows_next(w);
        for (int i = 0; i < 3; ++i) {
            (void)tlc_rows_next(w);
        }
        for (uint32_t n = 0; n < p->samples; ++n) {
            tlc_sum4_t acc = {(uint32_t)bias[o], (uint32_t)bias[o + 1], (uint32_t)bias[o + 2], (uint32_t)bias[o + 3]};
            tlc_dot4_s8(rows, (int32_t)p->in, x + n * p->in, p->in, &acc);
            tlc_put(p, y, n, o, (int32_t)acc.p0);
            tlc_put(p, y, n, o + 1, (int32_t)acc.p1);
            tlc_put(p, y, n, o + 2, (int32_t)acc.p2);
            tlc_put(p, y, n, o + 3, (int32_t)acc.p3);
        }
    }
    for (; o < p->out; ++o) {
        const int8_t *row = tlc_rows_next(w);
        for (uint32_t n = 0; n < p->samples; ++n) {
            tlc_put(p, y, n, o, tlc_dot_s8(x + n * p->in, row, p->in, bias[o]));
        }
    }
}
