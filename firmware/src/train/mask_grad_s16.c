/* SPDX-License-Identifier: Apache-2.0 */
#include "tlc/train_int.h"

void tlc_mask_grad_s16(const tlc_mask_grad_t *p, const int8_t *y, tlc_grad_t *dy) {
    const int32_t low = p->low, high = p->high;
    int16_t *q = tlc_grad_values(dy);
    for (const int8_t *const end = y + p->elements; y != end; ++y, ++q) {
        if (*y <= low || *y >= high) {
            *q = 0;
        }
    }
}
