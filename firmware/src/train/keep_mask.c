/* SPDX-License-Identifier: Apache-2.0 */
#include "tlc/train.h"

void tlc_keep_mask_s8(const tlc_mask_grad_t *p, const int8_t *y, uint8_t *bits) {
    const int32_t low = p->low, high = p->high;
    uint32_t byte = 0;
    for (uint32_t i = 0; i < p->elements; ++i) {
        byte |= (uint32_t)(y[i] > low && y[i] < high) << (i & 7u);
        if ((i & 7u) == 7u || i + 1 == p->elements) {
            *bits++ = (uint8_t)byte;
            byte = 0;
        }
    }
}

void tlc_masked_grad_f32(const tlc_masked_grad_t *p, const uint8_t *bits, float *dy) {
    for (uint32_t i = 0; i < p->elements; i += 8, dy += 8) {
        const uint32_t count = p->elements - i < 8 ? p->elements - i : 8;
        uint32_t zeros = ~(uint32_t)*bits++ & ((1u << count) - 1u);
        for (float *to = dy; zeros != 0; zeros >>= 1, ++to) {
            if (zeros & 1u) {
                *to = 0.0f;
            }
        }
    }
}
