/* SPDX-License-Identifier: Apache-2.0 */
#include "tlc/train.h"

void tlc_bias_grad_f32(const tlc_bias_grad_t *p, const float *dy, float *db) {
    for (uint32_t r = 0; r < p->rows; ++r) {
        for (uint32_t c = 0; c < p->channels; ++c) {
            db[c] += dy[r * p->channels + c];
        }
    }
}
