/* SPDX-License-Identifier: Apache-2.0 */
#include "tlc/train.h"

void tlc_copy_grad_f32(const tlc_copy_grad_t *p, const float *dy, float *dx) {
    for (uint32_t i = 0; i < p->elements; ++i) {
        dx[i] = p->add ? dx[i] + dy[i] : dy[i];
    }
}
