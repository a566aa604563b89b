/* SPDX-License-Identifier: Apache-2.0 */
#include "tlc/kernels.h"
#include "tlc/requant.h"

void tlc_dense_s8(const tlc_dense_t *p, const int8_t *x, tlc_rows_t *w, const int32_t *bias, int8_t *y) {
    for (uint32_t o = 0; o < p->out; ++o) {
        const int8_t *row = tlc_rows_next(w);
        const uint32_t channel = p->per_channel ? o : 0;
        for (uint32_t n = 0; n < p->samples; ++n) {
            const int8_t *in = x + n * p->in;
            int32_t acc = bias[o];
            for (uint32_t i = 0; i < p->in; ++i) {
                acc += (int32_t)in[i] * row[i];
            }
            const int32_t out = tlc_requant(acc, p->mult[channel], p->shift[channel]) + p->out_zp;
            y[n * p->out + o] = tlc_clamp_s8(out, p->act_min, p->act_max);
        }
    }
}
