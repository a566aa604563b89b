/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "../kernels/walk.h"
#include "odd.h"

static inline __attribute__((always_inline)) void sum_grad(const tlc_move_grad_s16_t *p, const tlc_grad_t *dy,
                                                           tlc_grad_t *dx, void *scratch, tlc_writer_t w) {
    const int32_t *const run = p->loops + (p->rank - 1) * TLC_LOOP_WORDS;
    const int32_t count = run[0], step_x = run[1], step_y = run[2];
    int32_t *const sums = scratch;
    memset(sums, 0, p->elements * sizeof *sums);
    tlc_walk_t at = {0};
    do {
        int32_t *to = sums + at.a;
        const int16_t *from = tlc_grad_const_values(dy) + p->offset + at.b;
        for (int32_t i = 0; i < count; ++i, to += step_x, from += step_y) {
            *to += p->mult * tlc_odd(*from, p->shift);
        }
    } while (tlc_walk_next(&at, p->loops, p->rank));
    for (uint32_t i = 0; i < p->elements; ++i) {
        tlc_writer_put(&w, i, sums[i]);
    }
    tlc_writer_end(&w, dx);
}

void tlc_sum_grad_s16(const tlc_move_grad_s16_t *p, const tlc_grad_t *dy, tlc_grad_t *dx, void *scratch) {
    sum_grad(p, dy, dx, scratch, tlc_writer(dx, tlc_grad_times(dy->scale, p->exponent), p->add));
}

void tlc_sum_static_grad_s16(const tlc_move_grad_s16_t *p, const tlc_grad_t *dy, tlc_grad_t *dx, void *scratch) {
    sum_grad(p, dy, dx, scratch,
             tlc_writer_static(dx, tlc_grad_times(dy->scale, p->exponent), p->add, p->written, p->kept));
}
