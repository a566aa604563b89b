/* SPDX-License-Identifier: Apache-2.0 */
#include "tlc/kernels.h"
#include "tlc/requant.h"

/* The sum over both reduced axes, from the first value. */
static int32_t tlc_sum_of(const tlc_mean_t *p, const int8_t *x) {
    const uint32_t step1 = p->kept2, step0 = p->reduced1 * p->kept1 * step1;
    int32_t sum = 0;
    for (uint32_t i = 0; i < p->reduced0; ++i, x += step0) {
        const int8_t *in = x;
        for (uint32_t j = 0; j < p->reduced1; ++j, in += step1) {
            sum += *in;
        }
    }
    return sum;
}

void tlc_mean_s8(const tlc_mean_t *p, const int8_t *x, int8_t *y) {
    const uint32_t block = p->reduced1 * p->kept2;
    for (uint32_t i = 0; i < p->kept0; ++i, x += p->reduced0 * p->kept1 * block) {
        for (uint32_t j = 0; j < p->kept1; ++j) {
            for (uint32_t k = 0; k < p->kept2; ++k) {
                const int32_t acc = tlc_sum_of(p, x + j * block + k) + p->offset;
                *y++ = tlc_clamp_s8(tlc_requant(acc, p->mult, p->shift) + p->out_zp, INT8_MIN, INT8_MAX);
            }
        }
    }
}
