/* SPDX-License-Identifier: Apache-2.0
 *
 * dot.h: int8 dot products, what convolution and dense layers spend their time in. Sums are modulo 2^32, so their order
 * does not matter, and each form gives the same bits. Internal to the kernels.
 */
#ifndef TLC_KERNELS_DOT_H
#define TLC_KERNELS_DOT_H

#include <stdint.h>

/* a + b modulo 2^32: a folded bias may lie beyond the sum that it leads to. */
static inline int32_t tlc_wrap_add(int32_t a, int32_t b) { return (int32_t)((uint32_t)a + (uint32_t)b); }

/* Four sums that belong together; not an array, so that they stay in registers. Unsigned: they may wrap. */
typedef struct {
    uint32_t p0, p1, p2, p3;
} tlc_sum4_t;

#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FEATURE_UNALIGNED) && defined(__GNUC__)

/* Four products: bytes 0 and 2, then 1 and 3, widened to int16 pairs. GCC has no intrinsic with the rotation, and left
 * alone it loads all pixels first and spills, hence one block. */
#define TLC_WIDEN "sxtb16 %[even], %[word]\n\tsxtb16 %[odd], %[word], ror #8\n\t"
#define TLC_MAC4(sum)                                                                                                  \
    "sxtb16 %[lane], %[word]\n\tsxtb16 %[word], %[word], ror #8\n\t"                                                   \
    "smlad %[" sum "], %[lane], %[even], %[" sum "]\n\t"                                                               \
    "smlad %[" sum "], %[word], %[odd], %[" sum "]\n\t"

static inline void tlc_mac4(const int8_t **x, const int8_t **w, int32_t *sum) {
    uint32_t word, lane, even, odd;
    __asm__("ldr %[word], [%[w]], #4\n\t" TLC_WIDEN "ldr %[word], [%[x]], #4\n\t" TLC_MAC4("sum")
            : [x] "+r"(*x), [w] "+r"(*w), [sum] "+r"(*sum), [word] "=&r"(word), [lane] "=&r"(lane), [even] "=&r"(even),
              [odd] "=&r"(odd)
            :
            : "memory");
}

static inline void tlc_mac4x4(const int8_t **x, const int8_t **x1, int32_t pair, const int8_t **w, tlc_sum4_t *sum) {
    uint32_t word, lane, even, odd;
    __asm__("ldr %[word], [%[w]], #4\n\t" TLC_WIDEN            /* */
            "ldr %[word], [%[x], %[pair]]\n\t" TLC_MAC4("s2")  /* */
            "ldr %[word], [%[x1], %[pair]]\n\t" TLC_MAC4("s3") /* */
            "ldr %[word], [%[x]], #4\n\t" TLC_MAC4("s0")       /* */
            "ldr %[word], [%[x1]], #4\n\t" TLC_MAC4("s1")      /* */
            : [x] "+r"(*x), [x1] "+r"(*x1), [w] "+r"(*w), [s0] "+r"(sum->p0), [s1] "+r"(sum->p1), [s2] "+r"(sum->p2),
              [s3] "+r"(sum->p3), [word] "=&r"(word), [lane] "=&r"(lane), [even] "=&r"(even), [odd] "=&r"(odd)
            : [pair] "r"(pair)
            : "memory");
}

static inline void tlc_add4(const int8_t **w, int32_t *sum) {
    uint32_t word, lane;
    __asm__("ldr %[word], [%[w]], #4\n\t"
            "sxtb16 %[lane], %[word]\n\t"
            "sxtab16 %[lane], %[lane], %[word], ror #8\n\t"
            "smlad %[sum], %[lane], %[ones], %[sum]"
            : [w] "+r"(*w), [sum] "+r"(*sum), [word] "=&r"(word), [lane] "=&r"(lane)
            : [ones] "r"(0x00010001)
            : "memory");
}

#undef TLC_WIDEN
#undef TLC_MAC4

#else

static inline void tlc_mac4(const int8_t **x, const int8_t **w, int32_t *sum) {
    const int8_t *a = *x, *b = *w;
    *sum += a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3];
    *x += 4;
    *w += 4;
}

static inline void tlc_mac4x4(const int8_t **x, const int8_t **x1, int32_t pair, const int8_t **w, tlc_sum4_t *sum) {
    const int8_t *a = *x, *b = *x1, *c = a + pair, *d = b + pair;
    const int32_t w0 = (*w)[0], w1 = (*w)[1], w2 = (*w)[2], w3 = (*w)[3];
    sum->p0 += (uint32_t)(a[0] * w0 + a[1] * w1 + a[2] * w2 + a[3] * w3);
    sum->p1 += (uint32_t)(b[0] * w0 + b[1] * w1 + b[2] * w2 + b[3] * w3);
    sum->p2 += (uint32_t)(c[0] * w0 + c[1] * w1 + c[2] * w2 + c[3] * w3);
    sum->p3 += (uint32_t)(d[0] * w0 + d[1] * w1 + d[2] * w2 + d[3] * w3);
    *x += 4;
    *x1 += 4;
    *w += 4;
}

static inline void tlc_add4(const int8_t **w, int32_t *sum) {
    *sum += (*w)[0] + (*w)[1] + (*w)[2] + (*w)[3];
    *w += 4;
}

#endif

/* sum of w[i], i < n */
static inline int32_t tlc_sum_s8(const int8_t *w, uint32_t n) {
    int32_t sum = 0;
    for (const int8_t *end = w + (n & ~3u); w != end;) {
        tlc_add4(&w, &sum);
    }
    for (uint32_t i = 0; i < (n & 3u); ++i) {
        sum += w[i];
    }
    return sum;
}

/* acc + sum of x[i] * w[i], i < n */
static inline int32_t tlc_dot_s8(const int8_t *x, const int8_t *w, uint32_t n, int32_t acc) {
    int32_t sum = 0;
    for (const int8_t *end = w + (n & ~3u); w != end;) {
        tlc_mac4(&x, &w, &sum);
    }
    for (uint32_t i = 0; i < (n & 3u); ++i) {
        sum += x[i] * w[i];
    }
    return tlc_wrap_add(acc, sum);
}

/* Adds the sum of x[j * step + i] * w[i], i < n, to each acc->p<j>: a weight is fetched and widened once. */
static inline void tlc_dot4_s8(const int8_t *x, int32_t step, const int8_t *w, uint32_t n, tlc_sum4_t *acc) {
    const int8_t *x1 = x + step;
    const int32_t pair = 2 * step; /* from pixels 0 and 1 to 2 and 3: a pointer for each would be too many */
    for (const int8_t *end = w + (n & ~3u); w != end;) {
        tlc_mac4x4(&x, &x1, pair, &w, acc);
    }
    for (const int8_t *end = w + (n & 3u); w != end; ++w, ++x, ++x1) {
        const int32_t weight = *w;
        acc->p2 += (uint32_t)(x[pair] * weight);
        acc->p3 += (uint32_t)(x1[pair] * weight);
        acc->p0 += (uint32_t)(*x * weight);
        acc->p1 += (uint32_t)(*x1 * weight);
    }
}

#endif /* TLC_KERNELS_DOT_H */
