/* SPDX-License-Identifier: Apache-2.0 */
#include "odd.h"

static inline __attribute__((always_inline)) void sum_up(const tlc_bias_grad_s16_t *p, const tlc_grad_t *dy,
                                                         tlc_grad_t *db, tlc_writer_t w) {
    const int16_t *const values = tlc_grad_const_values(dy) + p->out_first;
    const uint32_t channels = p->channels;
    for (uint32_t c = 0; c < p->outs; ++c) {
        int32_t sum = 0;
        const int16_t *g = values + c;
        for (uint32_t r = p->rows; r > 0; --r, g += channels) {
            sum += *g;
        }
        tlc_writer_put(&w, c, sum);
    }
    tlc_writer_end(&w, db);
}

void tlc_bias_grad_s16(const tlc_bias_grad_s16_t *p, const tlc_grad_t *dy, tlc_grad_t *db) {
    sum_up(p, dy, db, tlc_writer(db, dy->scale, 1));
}

void tlc_bias_static_grad_s16(const tlc_bias_grad_s16_t *p, const tlc_grad_t *dy, tlc_grad_t *db) {
    sum_up(p, dy, db, tlc_writer_static(db, dy->scale, 0, p->written, 0));
}
