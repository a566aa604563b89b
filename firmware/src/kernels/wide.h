/* SPDX-License-Identifier: Apache-2.0
 *
 * wide.h: four patches of the image, widened to int16 once, against the weights of all output channels. Internal to the
 * kernels; for cores with the DSP extension.
 */
#ifndef TLC_KERNELS_WIDE_H
#define TLC_KERNELS_WIDE_H

#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FEATURE_UNALIGNED) && defined(__GNUC__)
#define TLC_WIDE 1

#include <string.h>

#include "conv.h"

/* x (count), a multiple of 4, of one of four patches -> of each four values the even ones, then the odd ones. */
static inline void tlc_widen(const int8_t *x, int32_t count, uint32_t *wide) {
    for (const int8_t *end = x + count; x != end; x += 4, wide += 8) {
        uint32_t word, even, odd;
        memcpy(&word, x, sizeof word);
        __asm__("sxtb16 %0, %2\n\tsxtb16 %1, %2, ror #8" : "=&r"(even), "=r"(odd) : "r"(word));
        wide[0] = even;
        wide[1] = odd;
    }
}

/* Four weights against four values of each patch. */
#define TLC_WIDE_STEP                                                                                                  \
    "ldr %[word], [%[w]], #4\n\t"                                                                                      \
    "sxtb16 %[odd], %[word], ror #8\n\t"                                                                               \
    "sxtb16 %[word], %[word]\n\t" TLC_WIDE_MAC("s0") TLC_WIDE_MAC("s1") TLC_WIDE_MAC("s2") TLC_WIDE_MAC("s3")
#define TLC_WIDE_MAC(sum)                                                                                              \
    "ldrd %[a], %[b], [%[x]], #8\n\t"                                                                                  \
    "smlad %[" sum "], %[a], %[word], %[" sum "]\n\t"                                                                  \
    "smlad %[" sum "], %[b], %[odd], %[" sum "]\n\t"

/* Adds the products of a row of weights, `count` of them, and the four patches; count is a multiple of 4, not 0. */
static inline void tlc_dot_wide(const int8_t *w, const uint32_t *x, int32_t count, tlc_sum4_t *acc) {
    uint32_t word, odd, a, b;
    __asm__("tst %[count], #4\n\t"
            "beq 1f\n\t" TLC_WIDE_STEP "cmp %[w], %[end]\n\t"
            "beq 2f\n"
            "1:\n\t" TLC_WIDE_STEP TLC_WIDE_STEP "cmp %[w], %[end]\n\t"
            "bne 1b\n"
            "2:"
            : [w] "+r"(w), [x] "+r"(x), [s0] "+r"(acc->p0), [s1] "+r"(acc->p1), [s2] "+r"(acc->p2), [s3] "+r"(acc->p3),
              [word] "=&r"(word), [odd] "=&r"(odd), [a] "=&r"(a), [b] "=&r"(b)
            : [end] "r"(w + count), [count] "r"(count)
            : "cc", "memory");
}

#undef TLC_WIDE_STEP
#undef TLC_WIDE_MAC

/* Whether all outputs are scaled down and lie between -128 and 127, as nearly always. */
static inline int tlc_is_plain(const tlc_conv2d_t *p) {
    int is_plain = p->act_min == INT8_MIN && p->act_max == INT8_MAX;
    for (int32_t i = 0; i < (p->per_channel ? p->out_c : 1); ++i) {
        is_plain = is_plain && p->shift[i] < 0;
    }
    return is_plain;
}

/* The rare case, which inlined would take registers from the frequent one. */
static __attribute__((noinline)) void tlc_put_wide(const tlc_conv2d_t *p, int32_t mult, int32_t shift,
                                                   const tlc_sum4_t *acc, int8_t *y) {
    const tlc_output_t output = {mult, shift, p->out_zp, p->act_min, p->act_max};
    tlc_output4(&output, acc, y, p->out_c);
}

/* Channels [0, channels): w (channels, row), x (4, count) widened -> y (4, out_c). count is a multiple of 4, and at
 * most 3 more than `row`: beyond a patch x is 0, and what of the weights is read there does not matter. */
static inline void tlc_wide_channels(const tlc_conv2d_t *p, int is_plain, int32_t channels, const int8_t *w,
                                     int32_t row, const uint32_t *x, int32_t count, const int32_t *bias, int8_t *y) {
    const int32_t out_c = p->out_c, zp = p->out_zp, next = p->per_channel ? 1 : 0;
    const int32_t *mult = p->mult;
    const int8_t *shift = p->shift;
    for (const int32_t *const end = bias + channels; bias != end; ++bias, w += row, mult += next, shift += next, ++y) {
        const uint32_t start = (uint32_t)*bias;
        tlc_sum4_t acc = {start, start, start, start};
        tlc_dot_wide(w, x, count, &acc);
        if (is_plain) {
            const int32_t right = -*shift, by = *mult;
            int8_t *const half = y + 2 * out_c;
            y[0] = tlc_saturate_s8(tlc_requant_add((int32_t)acc.p0, by, right, zp));
            y[out_c] = tlc_saturate_s8(tlc_requant_add((int32_t)acc.p1, by, right, zp));
            half[0] = tlc_saturate_s8(tlc_requant_add((int32_t)acc.p2, by, right, zp));
            half[out_c] = tlc_saturate_s8(tlc_requant_add((int32_t)acc.p3, by, right, zp));
        } else {
            tlc_put_wide(p, *mult, *shift, &acc, y);
        }
    }
}

#endif

#endif /* TLC_KERNELS_WIDE_H */
