/* SPDX-License-Identifier: Apache-2.0 */
#include "tlc/train.h"

void tlc_dense_weight_grad_f32(const tlc_dense_grad_t *p, const int8_t *x, const float *dy, float *dw) {
    for (uint32_t n = 0; n < p->samples; ++n) {
        for (uint32_t o = 0; o < p->out; ++o) {
            const float g = dy[n * p->out + o] * p->in_scale;
            if (g != 0.0f) {
                for (uint32_t i = 0; i < p->in; ++i) {
                    dw[o * p->in + i] += g * (float)(x[n * p->in + i] - p->in_zp);
                }
            }
        }
    }
}
