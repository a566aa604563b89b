/* SPDX-License-Identifier: Apache-2.0 */
#include "grad.h"

void tlc_dense_input_grad_f32(const tlc_dense_grad_t *p, tlc_rows_t *w, float *dy, float *dx) {
    if (!p->add) {
        tlc_clear_f32(dx, p->samples * p->in);
    }
    tlc_scale_f32(dy, p->samples, p->out, p->w_scale, p->per_channel);
    for (uint32_t o = 0; o < p->out; ++o) {
        const int8_t *const row = tlc_rows_next(w);
        for (uint32_t n = 0; n < p->samples; ++n) {
            const float g = dy[n * p->out + o];
            float *const to = dx + n * p->in;
            if (g != 0.0f) {
                for (uint32_t i = 0; i < p->in; ++i) {
                    to[i] += g * (float)row[i];
                }
            }
        }
    }
}
