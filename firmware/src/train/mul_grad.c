/* SPDX-License-Identifier: Apache-2.0 */
#include "../kernels/walk.h"
#include "grad.h"

void tlc_mul_grad_f32(const tlc_mul_grad_t *p, const int8_t *other, const float *dy, float *dx) {
    const int32_t *const run = p->loops + (p->rank - 1) * TLC_LOOP_WORDS;
    const int32_t count = run[0], step_x = run[1], step_other = run[2];
    tlc_clear_f32(dx, p->clear);
    tlc_walk_t at = {0};
    do {
        float *to = dx + at.a;
        const int8_t *factor = other + at.b;
        for (int32_t i = 0; i < count; ++i, to += step_x, factor += step_other) {
            *to += *dy++ * p->other_scale * (float)(*factor - p->other_zp);
        }
    } while (tlc_walk_next(&at, p->loops, p->rank));
}
