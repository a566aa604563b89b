/* SPDX-License-Identifier: Apache-2.0
 *
 * pair.h: products of int16 values, two at a time where the CPU can. Sums are modulo 2^32. Internal to the kernels.
 */
#ifndef TLC_KERNELS_PAIR_H
#define TLC_KERNELS_PAIR_H

#include <stdint.h>
#include <string.h>

static inline int32_t tlc_mac_one(int32_t acc, int32_t x, int32_t w) {
    return (int32_t)((uint32_t)acc + (uint32_t)(x * w));
}

#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FEATURE_UNALIGNED) && defined(__GNUC__)

typedef uint32_t tlc_pair_t;

static inline tlc_pair_t tlc_pair(const int16_t *from) {
    uint32_t pair;
    memcpy(&pair, from, sizeof pair);
    return pair;
}

static inline int32_t tlc_mac_pair(int32_t acc, const int16_t *x, tlc_pair_t w) {
    __asm__("smlad %0, %1, %2, %0" : "+r"(acc) : "r"(tlc_pair(x)), "r"(w));
    return acc;
}

#else

typedef struct {
    int32_t first, second;
} tlc_pair_t;

static inline tlc_pair_t tlc_pair(const int16_t *from) { return (tlc_pair_t){from[0], from[1]}; }

static inline int32_t tlc_mac_pair(int32_t acc, const int16_t *x, tlc_pair_t w) {
    return tlc_mac_one(tlc_mac_one(acc, x[0], w.first), x[1], w.second);
}

#endif

#endif /* TLC_KERNELS_PAIR_H */
