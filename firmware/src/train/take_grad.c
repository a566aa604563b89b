/* SPDX-License-Identifier: Apache-2.0
 *
 * take_grad.c: the gradient at the cut, from floats by their bits: no instruction here computes with one.
 */
#include <string.h>

#include "odd.h"

#define MANTISSA 0x7FFFFFu
#define HIDDEN 0x800000u

static uint32_t bits_of(const uint8_t *bytes, uint32_t i) {
    uint32_t bits;
    memcpy(&bits, bytes + 4u * i, sizeof bits);
    return bits;
}

void tlc_take_grad_f32(const uint8_t *bytes, uint32_t elements, tlc_grad_t *grad) {
    uint32_t most = 0;
    for (uint32_t i = 0; i < elements; ++i) {
        const uint32_t magnitude = bits_of(bytes, i) & 0x7FFFFFFFu;
        most = magnitude > most ? magnitude : most;
    }
    const int32_t exponent = (int32_t)(most >> 23);
    int16_t *const q = tlc_grad_values(grad);
    for (uint32_t i = 0; i < elements; ++i) {
        const uint32_t bits = bits_of(bytes, i);
        const int32_t own = (int32_t)(bits >> 23 & 255u), value = (int32_t)((bits & MANTISSA) | HIDDEN);
        const int32_t shift = exponent - own + 9;
        q[i] = own == 0 ? 0 : (int16_t)tlc_odd(bits >> 31 ? -value : value, shift < 31 ? shift : 31);
    }
    grad->scale = exponent == 0 ? 0u : (uint32_t)(exponent - 141) + TLC_GRAD_ONE;
}

/* The magnitude of the float32 product: 24 bits, to the nearest, ties to even. */
static uint32_t product(uint32_t mantissa, uint8_t byte) {
    const int32_t value = (int8_t)byte;
    const uint32_t exact = mantissa * (uint32_t)(value < 0 ? -value : value);
    const int32_t over = tlc_bits(exact) - 24;
    if (over <= 0) {
        return exact;
    }
    const uint32_t half = (uint32_t)1 << (over - 1);
    return (exact + half - 1u + (exact >> over & 1u)) >> over << over;
}

void tlc_take_grad_s8(const uint8_t *bytes, uint32_t elements, uint32_t scale, tlc_grad_t *grad) {
    const int32_t exponent = (int32_t)(scale >> 23 & 255u);
    const uint32_t mantissa = exponent == 0 ? 0u : (scale & MANTISSA) | HIDDEN;
    uint32_t most = 0;
    for (uint32_t i = 0; i < elements; ++i) {
        const uint32_t magnitude = product(mantissa, bytes[i]);
        most = magnitude > most ? magnitude : most;
    }
    const int32_t shift = most == 0 ? 0 : tlc_bits(most) - TLC_GRAD_BITS;
    int16_t *const q = tlc_grad_values(grad);
    for (uint32_t i = 0; i < elements; ++i) { /* upwards: the bytes may lie in the gradient's last ones */
        const uint8_t byte = bytes[i];
        const int32_t value = (int32_t)product(mantissa, byte);
        q[i] = (int16_t)tlc_odd(byte >> 7 != scale >> 31 ? -value : value, shift);
    }
    grad->scale = most == 0 ? 0u : (uint32_t)(exponent - 150 + shift) + TLC_GRAD_ONE;
}
