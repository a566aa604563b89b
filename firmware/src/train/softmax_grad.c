/* SPDX-License-Identifier: Apache-2.0 */
#include "exp_f32.h"
#include "tlc/train.h"

void tlc_softmax_grad_f32(const tlc_softmax_grad_t *p, const int8_t *x, const float *dy, float *dx, void *scratch) {
    float *const exps = scratch;
    for (uint32_t row = 0; row < p->rows; ++row, x += p->classes, dy += p->classes, dx += p->classes) {
        int32_t most = INT8_MIN;
        for (uint32_t c = 0; c < p->classes; ++c) {
            most = x[c] > most ? x[c] : most;
        }
        float sum = 0.0f, dot = 0.0f;
        for (uint32_t c = 0; c < p->classes; ++c) {
            const float e = tlc_exp_f32((float)(x[c] - most) * p->scale);
            exps[c] = e;
            sum += e;
            dot += dy[c] * e;
        }
        const float inverse = 1.0f / sum, mean = dot * inverse;
        for (uint32_t c = 0; c < p->classes; ++c) {
            const float value = exps[c] * inverse * (dy[c] - mean) * p->beta;
            dx[c] = p->add ? dx[c] + value : value;
        }
    }
}
