/* SPDX-License-Identifier: Apache-2.0 */
#include "odd.h"

void tlc_bias_grad_s16(const tlc_bias_grad_s16_t *p, const tlc_grad_t *dy, tlc_grad_t *db) {
    const int16_t *const values = tlc_grad_const_values(dy) + p->out_first;
    const uint32_t channels = p->channels;
    tlc_writer_t w = tlc_writer(db, dy->scale, 1);
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
