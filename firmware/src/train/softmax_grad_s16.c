/* SPDX-License-Identifier: Apache-2.0 */
#include "../kernels/exp.h"
#include "odd.h"

/* exp of a distance to the maximum, as Q31; 0 below diff_min, as in the forward pass. */
static int32_t exp_of(const tlc_softmax_grad_s16_t *p, int32_t difference) {
    return difference < p->diff_min ? 0 : tlc_exp_q5(tlc_requant(difference, p->mult, p->shift));
}

static inline __attribute__((always_inline)) void softmax_grad(const tlc_softmax_grad_s16_t *p, const int8_t *x,
                                                               const tlc_grad_t *dy, tlc_grad_t *dx, void *scratch,
                                                               tlc_writer_t w) {
    int32_t *const shares = scratch; /* Q31: below one, since an exp is at most 2^31 - 1 */
    const int16_t *g = tlc_grad_const_values(dy);
    uint32_t at = 0;
    for (uint32_t row = 0; row < p->rows; ++row, x += p->classes, g += p->classes) {
        int32_t most = INT8_MIN;
        for (uint32_t c = 0; c < p->classes; ++c) {
            most = x[c] > most ? x[c] : most;
        }
        uint64_t sum = 0;
        for (uint32_t c = 0; c < p->classes; ++c) {
            shares[c] = exp_of(p, x[c] - most);
            sum += (uint32_t)shares[c];
        }
        int64_t mean = 0;
        for (uint32_t c = 0; c < p->classes; ++c) {
            const uint64_t share = ((uint64_t)(uint32_t)shares[c] << 31) / sum;
            shares[c] = (int32_t)(share > INT32_MAX ? INT32_MAX : share);
            mean += (int64_t)g[c] * shares[c];
        }
        for (uint32_t c = 0; c < p->classes; ++c) {
            const int64_t apart = ((int64_t)g[c] * ((int64_t)1 << 31) - mean) >> 16;
            const int32_t value = tlc_odd_wide(apart * shares[c], 32);
            tlc_writer_put(&w, at++, tlc_odd_wide((int64_t)value * p->beta, 15));
        }
    }
    tlc_writer_end(&w, dx);
}

void tlc_softmax_grad_s16(const tlc_softmax_grad_s16_t *p, const int8_t *x, const tlc_grad_t *dy, tlc_grad_t *dx,
                          void *scratch) {
    softmax_grad(p, x, dy, dx, scratch, tlc_writer(dx, tlc_grad_times(dy->scale, p->exponent), p->add));
}

void tlc_softmax_static_grad_s16(const tlc_softmax_grad_s16_t *p, const int8_t *x, const tlc_grad_t *dy, tlc_grad_t *dx,
                                 void *scratch) {
    softmax_grad(p, x, dy, dx, scratch,
                 tlc_writer_static(dx, tlc_grad_times(dy->scale, p->exponent), p->add, p->written, p->kept));
}
