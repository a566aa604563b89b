/* SPDX-License-Identifier: Apache-2.0 */
#include "tlc/train.h"

void tlc_mask_grad_f32(const tlc_mask_grad_t *p, const int8_t *y, float *dy) {
    for (uint32_t i = 0; i < p->elements; ++i) {
        if (y[i] <= p->low || y[i] >= p->high) {
            dy[i] = 0.0f;
        }
    }
}
