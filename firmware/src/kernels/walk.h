/* SPDX-License-Identifier: Apache-2.0
 *
 * walk.h: nested loops over two operands. The compiler turns broadcasts, transpositions and pads into at most
 * TLC_MAX_LOOPS of them, outermost first; the innermost is the kernel's own tight loop, the others are here.
 */
#ifndef TLC_WALK_H
#define TLC_WALK_H

#include <stdbool.h>
#include <stdint.h>

#define TLC_MAX_LOOPS 4
#define TLC_LOOP_WORDS 3 /* count, step of the first operand, step of the second, in elements */

typedef struct {
    int32_t a, b; /* where the innermost loop begins, in elements */
    int32_t index[TLC_MAX_LOOPS - 1];
} tlc_walk_t;

/* To the innermost loop's next start; false after the last one. */
static inline bool tlc_walk_next(tlc_walk_t *at, const int32_t *loops, uint32_t rank) {
    for (uint32_t axis = rank - 1; axis-- > 0;) {
        const int32_t *loop = loops + axis * TLC_LOOP_WORDS;
        at->a += loop[1];
        at->b += loop[2];
        if (++at->index[axis] < loop[0]) {
            return true;
        }
        at->index[axis] = 0;
        at->a -= loop[0] * loop[1];
        at->b -= loop[0] * loop[2];
    }
    return false;
}

/* Copies each element of x (the first operand) to its place in y (the second). */
static inline void tlc_walk_copy(const int32_t *loops, uint32_t rank, const int8_t *x, int8_t *y) {
    const int32_t *run = loops + (rank - 1) * TLC_LOOP_WORDS;
    const int32_t count = run[0], step_x = run[1], step_y = run[2];
    tlc_walk_t at = {0};
    do {
        const int8_t *from = x + at.a;
        int8_t *to = y + at.b;
        for (int32_t i = 0; i < count; ++i, from += step_x, to += step_y) {
            *to = *from;
        }
    } while (tlc_walk_next(&at, loops, rank));
}

#endif /* TLC_WALK_H */
