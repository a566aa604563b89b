/* SPDX-License-Identifier: Apache-2.0
 *
 * requant.h: int32 accumulators to int8, LiteRT's fixed point with TFLM's default (double) rounding.
 */
#ifndef TLC_REQUANT_H
#define TLC_REQUANT_H

#include <stdint.h>

/* round(a * b / 2^31), saturated: gemmlowp's SaturatingRoundingDoublingHighMul. */
static inline int32_t tlc_high_mul(int32_t a, int32_t b) {
    if (a == INT32_MIN && b == INT32_MIN) {
        return INT32_MAX;
    }
    const int64_t product = (int64_t)a * b;
    const int64_t nudge = product >= 0 ? (int64_t)1 << 30 : 1 - ((int64_t)1 << 30);
    return (int32_t)((product + nudge) / ((int64_t)1 << 31));
}

/* x / 2^exponent, ties away from zero: gemmlowp's RoundingDivideByPOT; exponent in [0, 31]. */
static inline int32_t tlc_divide_by_pot(int32_t x, int exponent) {
    const int32_t mask = (int32_t)(((uint32_t)1 << exponent) - 1u);
    const int32_t remainder = x & mask;
    const int32_t threshold = (mask >> 1) + (x < 0 ? 1 : 0);
    return (x >> exponent) + (remainder > threshold ? 1 : 0);
}

/* tlc_high_mul(x, mult) for mult >= 0: nothing saturates, and sending ties up is one addition and one shift. */
static inline int32_t tlc_high_mul_up(int32_t x, int32_t mult) {
    return (int32_t)(((int64_t)x * mult + ((int64_t)1 << 30)) >> 31);
}

/* x * mult * 2^(-right - 31), mult >= 0, right >= 1: tlc_divide_by_pot(tlc_high_mul(x, mult), right). A tie goes away
 * from zero: up where the quotient is positive; one less before the same where it is negative. */
static inline int32_t tlc_requant_down(int32_t x, int32_t mult, int right) {
    const int32_t high = tlc_high_mul_up(x, mult);
    const int32_t nudged = high + (high >> 31);
    return (nudged >> right) + ((nudged >> (right - 1)) & 1);
}

/* tlc_requant_down(x, mult, right) + add where mult is at least 2^30, as it is unless an operator divides it. */
static inline int32_t tlc_requant_add(int32_t x, int32_t mult, int right, int32_t add) {
#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FEATURE_UNALIGNED) && defined(__GNUC__)
    /* (x * 2 * mult + 2^31) >> 32, where the register holds 2 * mult - 2^32, and x * 2^32 is added back. The last bit
     * that the shift drops is the carry. */
    const int32_t twice = (int32_t)((uint32_t)mult << 1);
    int32_t result;
    __asm__("smmlar %[r], %[x], %[twice], %[x]\n\t"
            "add %[r], %[r], %[r], asr #31\n\t"
            "asrs %[r], %[r], %[right]\n\t"
            "adc %[r], %[r], %[add]"
            : [r] "=&r"(result)
            : [x] "r"(x), [twice] "r"(twice), [right] "r"(right), [add] "r"(add)
            : "cc");
    return result;
#else
    return tlc_requant_down(x, mult, right) + add;
#endif
}

/* x * mult * 2^(shift - 31), mult >= 0: tlc_divide_by_pot(tlc_high_mul(x << left, mult), right). */
static inline int32_t tlc_requant(int32_t x, int32_t mult, int shift) {
    if (shift < 0) {
        return tlc_requant_down(x, mult, -shift);
    }
    return tlc_high_mul_up((int32_t)((uint32_t)x << shift), mult);
}

/* Between -128 and 127. */
static inline int8_t tlc_saturate_s8(int32_t x) {
#if defined(__ARM_FEATURE_SAT) && defined(__GNUC__)
    __asm__("ssat %0, #8, %1" : "=r"(x) : "r"(x));
    return (int8_t)x;
#else
    x = x < INT8_MIN ? INT8_MIN : x;
    return (int8_t)(x > INT8_MAX ? INT8_MAX : x);
#endif
}

static inline int8_t tlc_clamp_s8(int32_t x, int32_t low, int32_t high) {
    x = x < low ? low : x;
    x = x > high ? high : x;
    return (int8_t)x;
}

#endif /* TLC_REQUANT_H */
