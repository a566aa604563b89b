/* SPDX-License-Identifier: Apache-2.0 */
#include "tlc/train.h"

/* The bits of `count` values, at most 8; `span` values from `first` pass. */
static inline uint32_t bits_of(const int8_t *y, uint32_t count, int32_t first, uint32_t span) {
    uint32_t byte = 0;
#pragma GCC unroll 8
    for (uint32_t i = 0; i < count; ++i) {
        byte |= (uint32_t)((uint32_t)(y[i] - first) < span) << i;
    }
    return byte;
}

void tlc_keep_mask_s8(const tlc_mask_grad_t *p, const int8_t *y, uint8_t *bits) {
    const int32_t first = p->low + 1;
    const uint32_t span = (uint32_t)(p->high > first ? p->high - first : 0), rest = p->elements & 7u;
    for (const int8_t *const end = y + (p->elements - rest); y != end; y += 8) {
        *bits++ = (uint8_t)bits_of(y, 8, first, span);
    }
    if (rest != 0) {
        *bits = (uint8_t)bits_of(y, rest, first, span);
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
