/* SPDX-License-Identifier: Apache-2.0 */
#include "tlc/kernels.h"
#include "tlc/requant.h"
#include "walk.h"

void tlc_mul_s8(const tlc_mul_t *p, const int8_t *a, const int8_t *b, int8_t *y) {
    const int32_t *run = p->loops + (p->rank - 1) * TLC_LOOP_WORDS;
    const int32_t count = run[0], step_a = run[1], step_b = run[2];
    tlc_walk_t at = {0};
    do {
        const int8_t *pa = a + at.a, *pb = b + at.b;
        for (int32_t i = 0; i < count; ++i, pa += step_a, pb += step_b) {
            const int32_t product = (*pa - p->a_zp) * (*pb - p->b_zp);
            *y++ = tlc_clamp_s8(tlc_requant(product, p->mult, p->shift) + p->out_zp, p->act_min, p->act_max);
        }
    } while (tlc_walk_next(&at, p->loops, p->rank));
}
