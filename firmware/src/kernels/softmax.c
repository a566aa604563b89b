/* SPDX-License-Identifier: Apache-2.0 */
#include "exp.h"
#include "tlc/kernels.h"
#include "tlc/requant.h"

#define TLC_SUM_BITS 12 /* integer bits of a sum of exps: up to 4095 of them */

/* exp of the distance of a value to the row's maximum, as Q0; 0 where it is too far. */
static inline int32_t tlc_softmax_exp(const tlc_softmax_t *p, int32_t diff) {
    return diff < p->diff_min ? 0 : tlc_exp_q5(tlc_requant(diff, p->mult, p->shift));
}

void tlc_softmax_s8(const tlc_softmax_t *p, const int8_t *x, int8_t *y) {
    for (uint32_t row = 0; row < p->rows; ++row, x += p->classes, y += p->classes) {
        int32_t most = INT8_MIN;
        for (uint32_t c = 0; c < p->classes; ++c) {
            most = x[c] > most ? x[c] : most;
        }
        int32_t sum = 0;
        for (uint32_t c = 0; c < p->classes; ++c) {
            sum += tlc_divide_by_pot(tlc_softmax_exp(p, x[c] - most), TLC_SUM_BITS);
        }
        int zeros = 0; /* before the leading one; the maximum itself counts 1.0, so there is one */
        while ((((uint32_t)sum << zeros) & 0x80000000u) == 0) {
            ++zeros;
        }
        const int32_t scale = tlc_reciprocal_q0((int32_t)(((uint32_t)sum << zeros) - 0x80000000u));
        const int exponent = TLC_SUM_BITS - zeros + 31 - 8; /* 8 bits of fraction stay */
        for (uint32_t c = 0; c < p->classes; ++c) {
            /* Above 31 even the largest product rounds to 0. */
            const int32_t product = exponent > 31 ? 0 : tlc_high_mul(scale, tlc_softmax_exp(p, x[c] - most));
            y[c] =
                tlc_clamp_s8(tlc_divide_by_pot(product, exponent > 31 ? 0 : exponent) + INT8_MIN, INT8_MIN, INT8_MAX);
        }
    }
}
