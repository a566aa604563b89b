/* SPDX-License-Identifier: Apache-2.0
 *
 * random.h: the random words of stochastic rounding. Internal to the optimizers.
 */
#ifndef TLC_RANDOM_H
#define TLC_RANDOM_H

#include <stdint.h>

#include "tlc/model.h"

/* A 32-bit mix with full avalanche (xorshift-multiply): one random word for (seed, step, tensor, element), with no
 * state to keep, so any element can be computed in any order. */
static inline uint32_t tlc_random(uint32_t x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    x ^= x >> 16;
    return x;
}

/* Of tensor `salt` at a step; element i has the word tlc_random(key + i). */
static inline uint32_t tlc_random_key(const tlc_step_t *step, uint32_t salt) {
    return tlc_random(tlc_random(tlc_random(step->seed) ^ step->step) ^ salt);
}

#endif /* TLC_RANDOM_H */
