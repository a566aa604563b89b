/* SPDX-License-Identifier: Apache-2.0
 *
 * odd.h: shifts that round to odd, and the writing of a gradient whose scale is found while it is written. Internal to
 * the kernels.
 */
#ifndef TLC_ODD_H
#define TLC_ODD_H

#include "tlc/train_int.h"

/* x / 2^shift, shift in [0, 31]; the last bit is set where the division leaves a rest. */
static inline int32_t tlc_odd(int32_t x, int32_t shift) {
    const uint32_t lost = (uint32_t)x & (((uint32_t)1 << shift) - 1u);
    return (x >> shift) | (lost != 0 ? 1 : 0);
}

/* The same of a wide one, into what fits in 32 bits; shift in [1, 62]. */
static inline int32_t tlc_odd_wide(int64_t x, int32_t shift) {
    const uint64_t lost = (uint64_t)x & (((uint64_t)1 << shift) - 1u);
    return (int32_t)(x >> shift) | (lost != 0 ? 1 : 0);
}

/* The scale of what is multiplied by 2^exponent; nothing but zeros stays so. */
static inline uint32_t tlc_grad_times(uint32_t scale, int32_t exponent) {
    return scale == 0 ? 0 : scale + (uint32_t)exponent;
}

/* The bits that a value takes beside its sign, one beside the other. */
static inline uint32_t tlc_magnitude(int32_t x) { return (uint32_t)(x ^ (x >> 31)); }

static inline int32_t tlc_bits(uint32_t magnitude) { /* of 31: 0 takes none */
    int32_t bits = 0;
    for (; magnitude != 0; magnitude >>= 1) {
        ++bits;
    }
    return bits;
}

/* Exact sums t of the values there and those that come are written as t / 2^shift. */
typedef struct {
    int16_t *q;
    uint32_t scale;      /* of t */
    int32_t left, right; /* from what is there to t: 31 bits at most in sum */
    int32_t fresh;       /* from what comes to t: shifted right, by at least 1 */
    int32_t shift;
    int32_t bits;
    uint8_t adds;
    uint8_t is_static;     /* the scale is known: */
    int32_t written, kept; /* what comes and what is there are shifted right by these */
} tlc_writer_t;

/* Of values with `scale`, below 2^31, that are added to `grad` or replace it. */
static inline tlc_writer_t tlc_writer(tlc_grad_t *grad, uint32_t scale, int adds) {
    tlc_writer_t w = {.q = tlc_grad_values(grad), .scale = scale + 1u, .fresh = 1, .bits = TLC_GRAD_BITS};
    if (adds && grad->scale != 0) {
        const int32_t ahead = (int32_t)(grad->scale - w.scale); /* of what is there */
        w.adds = 1;
        if (ahead > 14) {
            w.scale = grad->scale - 14u;
            w.fresh = ahead - 14 + 1 < 31 ? ahead - 14 + 1 : 31;
        }
        w.left = ahead > 14 ? 14 : ahead > 0 ? ahead : 0;
        w.right = ahead >= 0 ? 0 : ahead > -31 ? -ahead : 31;
    }
    return w;
}

/* The same where the shifts are known at compile time. */
static inline tlc_writer_t tlc_writer_static(tlc_grad_t *grad, uint32_t scale, int adds, int32_t written,
                                             int32_t kept) {
    return (tlc_writer_t){.q = tlc_grad_values(grad),
                          .scale = tlc_grad_times(scale, written),
                          .adds = adds != 0,
                          .is_static = 1,
                          .written = written < 31 ? written : 31,
                          .kept = kept < 31 ? kept : 31};
}

/* x / 2^shift to the nearest, halves up; shift in [1, 31]. */
static inline int32_t tlc_near(int32_t x, int32_t shift) { return ((x >> (shift - 1)) + 1) >> 1; }

#if defined(__ARM_FEATURE_SAT) && defined(__GNUC__)

static inline int16_t tlc_saturate(int32_t x) {
    int32_t result;
    __asm__("ssat %0, #16, %1" : "=r"(result) : "r"(x));
    return (int16_t)result;
}

/* The two in one. */
static inline int16_t tlc_near_s16(int32_t x, int32_t shift) {
    int32_t result;
    __asm__("ssat %0, #16, %1, asr #1" : "=r"(result) : "r"((x >> (shift - 1)) + 1));
    return (int16_t)result;
}

#else

static inline int16_t tlc_saturate(int32_t x) {
    return (int16_t)(x < INT16_MIN ? INT16_MIN : x > INT16_MAX ? INT16_MAX : x);
}

static inline int16_t tlc_near_s16(int32_t x, int32_t shift) { return tlc_saturate(tlc_near(x, shift)); }

#endif

/* Value number `at`, of a static scale. */
static inline void tlc_writer_store(const tlc_writer_t *w, uint32_t at, int32_t value) {
    int32_t sum = tlc_near(value, w->written);
    if (w->adds) {
        sum += w->kept > 0 ? tlc_near(w->q[at], w->kept) : w->q[at];
    }
    w->q[at] = tlc_saturate(sum);
}

/* The sum of value number `at` and of what comes. */
static inline int32_t tlc_writer_sum(const tlc_writer_t *w, uint32_t at, int32_t value) {
    const int32_t sum = tlc_odd(value, w->fresh);
    return w->adds ? sum + tlc_odd(w->q[at], w->right) * ((int32_t)1 << w->left) : sum;
}

/* Whether sums of this magnitude are too large for the scale so far. */
static inline int tlc_writer_full(const tlc_writer_t *w, uint32_t magnitude) {
    return (magnitude >> w->shift) >> w->bits != 0;
}

/* Makes room for them; what has been written must then be shifted by the result. */
static inline int32_t tlc_writer_grow(tlc_writer_t *w, uint32_t magnitude) {
    const int32_t shift = tlc_bits(magnitude) - w->bits, more = shift - w->shift;
    w->shift = shift;
    return more;
}

static inline void tlc_writer_end(const tlc_writer_t *w, tlc_grad_t *grad) {
    grad->scale = w->scale + (uint32_t)w->shift;
}

/* Shifts rows x cols values, rows `step` apart. */
void tlc_odd_shift(int16_t *q, uint32_t rows, uint32_t step, uint32_t cols, int32_t shift);

/* What a value that comes is shifted by in all, where nothing is there: both shifts in one. */
static inline int32_t tlc_writer_total(const tlc_writer_t *w) { return w->fresh + w->shift; }

/* Whether values of this magnitude are too large for that shift. */
static inline int tlc_is_over(uint32_t magnitude, int32_t total, int32_t bits) {
    return (magnitude >> total) >> bits != 0;
}

/* One value, written in the order of memory. */
static inline void tlc_writer_put(tlc_writer_t *w, uint32_t at, int32_t value) {
    if (w->is_static) {
        tlc_writer_store(w, at, value);
        return;
    }
    const int32_t sum = tlc_writer_sum(w, at, value);
    const uint32_t magnitude = tlc_magnitude(sum);
    if (tlc_writer_full(w, magnitude)) {
        tlc_odd_shift(w->q, 1, at, at, tlc_writer_grow(w, magnitude));
    }
    w->q[at] = (int16_t)tlc_odd(sum, w->shift);
}

#endif /* TLC_ODD_H */
