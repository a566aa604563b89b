/* SPDX-License-Identifier: Apache-2.0
 *
 * exp.h: exp and reciprocal in fixed point, equal to gemmlowp's bit for bit. Qm has m integer bits and 31 - m of
 * fraction.
 */
#ifndef TLC_EXP_H
#define TLC_EXP_H

#include <stdint.h>

#include "tlc/requant.h"

/* x * 2^bits, saturated. */
static inline int32_t tlc_shift_left(int32_t x, int bits) {
    const int32_t most = INT32_MAX >> bits;
    return x > most ? INT32_MAX : x < -most ? INT32_MIN : x * (1 << bits);
}

/* exp(x) as Q0, x <= 0 as Q5: a polynomial on [-1/4, 0), then a multiplication for each bit of the multiple of 1/4. */
static inline int32_t tlc_exp_q5(int32_t x) {
    static const int32_t powers[7] = {/* exp(-1/4), exp(-1/2), ... exp(-16) as Q0 */
                                      1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242};
    const int32_t quarter = 1 << 24, third = 715827883, at_center = 1895147668; /* exp(-1/8) */
    if (x == 0) {
        return INT32_MAX;
    }
    const int32_t within = (x & (quarter - 1)) - quarter;
    const int32_t t = within * 32 + (1 << 28); /* Q0, from the interval's center */
    const int32_t t2 = tlc_high_mul(t, t);
    const int32_t t3 = tlc_high_mul(t2, t);
    const int32_t t4 = tlc_high_mul(t2, t2);
    const int32_t higher = tlc_high_mul(tlc_divide_by_pot(t4, 2) + t3, third) + t2; /* t^4/12 + t^3/3 + t^2 */
    int32_t result = at_center + tlc_high_mul(at_center, t + tlc_divide_by_pot(higher, 1));
    uint32_t rest = (uint32_t)(within - x) >> 24;
    for (int bit = 0; bit < 7; ++bit, rest >>= 1) {
        if (rest & 1u) {
            result = tlc_high_mul(result, powers[bit]);
        }
    }
    return result;
}

/* 1 / (1 + x) as Q0, x in [0, 1) as Q0: three Newton-Raphson steps for d = (1 + x) / 2 from 48/17 - 32/17 * d, as Q2.
 */
static inline int32_t tlc_reciprocal_q0(int32_t x) {
    const int32_t half = (int32_t)(((uint32_t)x + 0x80000000u) >> 1);
    int32_t guess = 1515870810 + tlc_high_mul(half, -1010580540);
    for (int step = 0; step < 3; ++step) {
        const int32_t error = (1 << 29) - tlc_high_mul(half, guess);
        guess += tlc_shift_left(tlc_high_mul(guess, error), 2);
    }
    return tlc_shift_left(guess, 1);
}

#endif /* TLC_EXP_H */
