/* SPDX-License-Identifier: Apache-2.0 */
#include "tlc/train_int.h"

void tlc_masked_grad_s16(const tlc_masked_grad_t *p, const uint8_t *bits, tlc_grad_t *dy) {
    int16_t *q = tlc_grad_values(dy);
    for (uint32_t i = 0; i < p->elements; i += 8, q += 8) {
        const uint32_t count = p->elements - i < 8 ? p->elements - i : 8;
        uint32_t zeros = ~(uint32_t)*bits++ & ((1u << count) - 1u);
        for (int16_t *to = q; zeros != 0; zeros >>= 1, ++to) {
            if (zeros & 1u) {
                *to = 0;
            }
        }
    }
}
