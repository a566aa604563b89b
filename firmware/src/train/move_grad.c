/* SPDX-License-Identifier: Apache-2.0 */
#include "../kernels/walk.h"
#include "grad.h"

void tlc_move_grad_f32(const tlc_move_grad_t *p, const float *dy, float *dx) {
    const int32_t *const run = p->loops + (p->rank - 1) * TLC_LOOP_WORDS;
    const int32_t count = run[0], step_x = run[1], step_y = run[2];
    tlc_clear_f32(dx, p->clear);
    tlc_walk_t at = {0};
    do {
        float *to = dx + at.a;
        const float *from = dy + p->offset + at.b;
        if (p->add) {
            for (int32_t i = 0; i < count; ++i, to += step_x, from += step_y) {
                *to += *from * p->scale;
            }
        } else {
            for (int32_t i = 0; i < count; ++i, to += step_x, from += step_y) {
                *to = *from * p->scale;
            }
        }
    } while (tlc_walk_next(&at, p->loops, p->rank));
}
