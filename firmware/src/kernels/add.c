/* SPDX-License-Identifier: Apache-2.0 */
#include "tlc/kernels.h"
#include "tlc/requant.h"
#include "walk.h"

#define TLC_ADD_LEFT_SHIFT 20 /* 255 << 20 leaves room for a sum in int32 */

/* Both terms in units of twice the larger input scale, with TLC_ADD_LEFT_SHIFT bits of fraction. The second is
 * subtracted after it has been rounded: rounded with a negative multiplier, its ties would fall to the other side. */
/* tlc_requant(x, mult, shift) + add */
static inline int32_t scaled(int32_t x, int32_t mult, int32_t shift, int32_t add) {
    return shift < 0 ? tlc_requant_add(x, mult, -shift, add) : tlc_requant(x, mult, shift) + add;
}

static inline void tlc_add_or_sub(const tlc_add_t *told, const int8_t *a, const int8_t *b, int8_t *y, bool subtract) {
    const tlc_add_t copy = *told; /* which a store of an int8_t cannot change */
    const tlc_add_t *const p = &copy;
    const int32_t *run = p->loops + (p->rank - 1) * TLC_LOOP_WORDS;
    const int32_t count = run[0], step_a = run[1], step_b = run[2];
    tlc_walk_t at = {0};
    do {
        const int8_t *pa = a + at.a, *pb = b + at.b;
        for (int32_t i = 0; i < count; ++i, pa += step_a, pb += step_b) {
            const int32_t first = scaled((*pa - p->a_zp) * (1 << TLC_ADD_LEFT_SHIFT), p->a_mult, p->a_shift, 0);
            const int32_t second = scaled((*pb - p->b_zp) * (1 << TLC_ADD_LEFT_SHIFT), p->b_mult, p->b_shift, 0);
            const int32_t sum = subtract ? first - second : first + second;
            *y++ = tlc_clamp_s8(scaled(sum, p->out_mult, p->out_shift, p->out_zp), p->act_min, p->act_max);
        }
    } while (tlc_walk_next(&at, p->loops, p->rank));
}

void tlc_add_s8(const tlc_add_t *p, const int8_t *a, const int8_t *b, int8_t *y) { tlc_add_or_sub(p, a, b, y, false); }

void tlc_sub_s8(const tlc_add_t *p, const int8_t *a, const int8_t *b, int8_t *y) { tlc_add_or_sub(p, a, b, y, true); }
