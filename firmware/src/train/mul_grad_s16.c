/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "../kernels/walk.h"
#include "odd.h"

static inline __attribute__((always_inline)) void mul_grad(const tlc_mul_grad_s16_t *p, const int8_t *other,
                                                           const tlc_grad_t *dy, tlc_grad_t *dx, void *scratch,
                                                           tlc_writer_t w) {
    const int32_t *const run = p->loops + (p->rank - 1) * TLC_LOOP_WORDS;
    const int32_t count = run[0], step_x = run[1], step_other = run[2];
    const int16_t *g = tlc_grad_const_values(dy);
    int32_t *const sums = scratch;
    memset(sums, 0, p->elements * sizeof *sums);
    tlc_walk_t at = {0};
    do {
        int32_t *to = sums + at.a;
        const int8_t *factor = other + at.b;
        for (int32_t i = 0; i < count; ++i, to += step_x, factor += step_other) {
            *to += tlc_odd(*g++, p->shift) * (*factor - p->other_zp);
        }
    } while (tlc_walk_next(&at, p->loops, p->rank));
    for (uint32_t i = 0; i < p->elements; ++i) {
        tlc_writer_put(&w, i, tlc_odd_wide((int64_t)sums[i] * p->mult, 15));
    }
    tlc_writer_end(&w, dx);
}

void tlc_mul_grad_s16(const tlc_mul_grad_s16_t *p, const int8_t *other, const tlc_grad_t *dy, tlc_grad_t *dx,
                      void *scratch) {
    mul_grad(p, other, dy, dx, scratch, tlc_writer(dx, tlc_grad_times(dy->scale, p->exponent), p->add));
}

void tlc_mul_static_grad_s16(const tlc_mul_grad_s16_t *p, const int8_t *other, const tlc_grad_t *dy, tlc_grad_t *dx,
                             void *scratch) {
    mul_grad(p, other, dy, dx, scratch,
             tlc_writer_static(dx, tlc_grad_times(dy->scale, p->exponent), p->add, p->written, p->kept));
}
