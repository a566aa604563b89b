/* SPDX-License-Identifier: Apache-2.0
 *
 * panel.h: what the gradients of layers spend their time in: four dot products of int16 values that share one factor.
 * The other four stand in a panel: two values of the first, two of the second, ... and then the next two of each, so
 * that a CPU with dual multiplications takes them as they lie. Internal to the kernels.
 */
#ifndef TLC_PANEL_H
#define TLC_PANEL_H

#include <stdint.h>

typedef struct {
    int32_t p0, p1, p2, p3;
} tlc_panel_sum_t;

/* Where value k of row r lies in a panel. */
static inline uint32_t tlc_panel_at(uint32_t k, uint32_t r) { return 8u * (k >> 1) + 2u * r + (k & 1u); }

#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FEATURE_UNALIGNED) && defined(__GNUC__)

#define TLC_PANEL_STEP                                                                                                 \
    "ldr %[v], [%[b]], #4\n\t"                                                                                         \
    "ldrd %[w0], %[w1], [%[a]], #8\n\t"                                                                                \
    "smlad %[s0], %[w0], %[v], %[s0]\n\t"                                                                              \
    "smlad %[s1], %[w1], %[v], %[s1]\n\t"                                                                              \
    "ldrd %[w0], %[w1], [%[a]], #8\n\t"                                                                                \
    "smlad %[s2], %[w0], %[v], %[s2]\n\t"                                                                              \
    "smlad %[s3], %[w1], %[v], %[s3]\n\t"

/* Adds the products of `pairs` pairs; the panel is aligned to 4. */
static inline void tlc_panel(const int16_t *panel, const int16_t *b, uint32_t pairs, tlc_panel_sum_t *sum) {
    int32_t s0 = sum->p0, s1 = sum->p1, s2 = sum->p2, s3 = sum->p3;
    const int16_t *a = panel;
    uint32_t v, w0, w1;
    for (const int16_t *const end = panel + 8u * (pairs & ~3u); a != end;) {
        __asm__(TLC_PANEL_STEP TLC_PANEL_STEP TLC_PANEL_STEP TLC_PANEL_STEP
                : [a] "+r"(a), [b] "+r"(b), [s0] "+r"(s0), [s1] "+r"(s1), [s2] "+r"(s2), [s3] "+r"(s3), [v] "=&r"(v),
                  [w0] "=&r"(w0), [w1] "=&r"(w1)
                :
                : "memory");
    }
    for (const int16_t *const end = panel + 8u * pairs; a != end;) {
        __asm__(TLC_PANEL_STEP
                : [a] "+r"(a), [b] "+r"(b), [s0] "+r"(s0), [s1] "+r"(s1), [s2] "+r"(s2), [s3] "+r"(s3), [v] "=&r"(v),
                  [w0] "=&r"(w0), [w1] "=&r"(w1)
                :
                : "memory");
    }
    *sum = (tlc_panel_sum_t){s0, s1, s2, s3};
}

#undef TLC_PANEL_STEP

/* Four values of `a` and four of `b`, turned round: a, b of the first, a, b of the second, ...; `to` is aligned to 4.
 */
static inline void tlc_panel_turn(const int8_t *a, const int8_t *b, int16_t *to) {
    uint32_t even, odd, first, second, pair;
    __asm__ __volatile__(
        "ldr %[first], [%[a]]\n\t"
        "ldr %[second], [%[b]]\n\t"
        "sxtb16 %[even], %[first]\n\t"
        "sxtb16 %[odd], %[first], ror #8\n\t"
        "sxtb16 %[first], %[second]\n\t"
        "sxtb16 %[second], %[second], ror #8\n\t"
        "pkhbt %[pair], %[even], %[first], lsl #16\n\t"
        "pkhtb %[even], %[first], %[even], asr #16\n\t"
        "pkhbt %[first], %[odd], %[second], lsl #16\n\t"
        "pkhtb %[odd], %[second], %[odd], asr #16\n\t"
        "strd %[pair], %[first], [%[to]]\n\t"
        "strd %[even], %[odd], [%[to], #8]"
        : [even] "=&r"(even), [odd] "=&r"(odd), [first] "=&r"(first), [second] "=&r"(second), [pair] "=&r"(pair)
        : [a] "r"(a), [b] "r"(b), [to] "r"(to)
        : "memory");
}

#else

static inline void tlc_panel(const int16_t *panel, const int16_t *b, uint32_t pairs, tlc_panel_sum_t *sum) {
    int32_t s0 = sum->p0, s1 = sum->p1, s2 = sum->p2, s3 = sum->p3;
    for (const int16_t *const end = panel + 8u * pairs; panel != end; panel += 8, b += 2) {
        const int32_t first = b[0], second = b[1];
        s0 += panel[0] * first + panel[1] * second;
        s1 += panel[2] * first + panel[3] * second;
        s2 += panel[4] * first + panel[5] * second;
        s3 += panel[6] * first + panel[7] * second;
    }
    *sum = (tlc_panel_sum_t){s0, s1, s2, s3};
}

static inline void tlc_panel_turn(const int8_t *a, const int8_t *b, int16_t *to) {
    for (int i = 0; i < 4; ++i) {
        to[2 * i] = a[i];
        to[2 * i + 1] = b[i];
    }
}

#endif

#endif /* TLC_PANEL_H */
