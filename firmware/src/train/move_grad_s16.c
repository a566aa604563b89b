/* SPDX-License-Identifier: Apache-2.0 */
#include "../kernels/walk.h"
#include "odd.h"

void tlc_move_grad_s16(const tlc_move_grad_s16_t *p, const tlc_grad_t *dy, tlc_grad_t *dx) {
    const int32_t *const run = p->loops + (p->rank - 1) * TLC_LOOP_WORDS;
    const int32_t count = run[0], step_x = run[1], step_y = run[2], mult = p->mult, shift = p->shift;
    tlc_walk_t at = {0};
    do {
        int16_t *to = tlc_grad_values(dx) + at.a;
        const int16_t *from = tlc_grad_const_values(dy) + p->offset + at.b;
        for (int32_t i = 0; i < count; ++i, to += step_x, from += step_y) {
            const int32_t value = tlc_odd(*from * mult, shift);
            *to = (int16_t)(value > INT16_MAX ? INT16_MAX : value); /* the negative of -2^15 */
        }
    } while (tlc_walk_next(&at, p->loops, p->rank));
    dx->scale = tlc_grad_times(dy->scale, p->exponent);
}
