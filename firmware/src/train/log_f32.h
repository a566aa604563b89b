/* SPDX-License-Identifier: Apache-2.0
 *
 * log_f32.h: the natural logarithm without libm, so that every target gives the same bits.
 */
#ifndef TLC_LOG_F32_H
#define TLC_LOG_F32_H

#include <stdint.h>
#include <string.h>

/* log(x) for finite x >= 1, to 2e-7 of 1 or of itself, whichever is more: n ln(2) + log(m) for m in [0.7, 1.42), where
 * log(m) = 2 atanh(s), s = (m - 1) / (m + 1), |s| < 0.18, by its series. */
static inline float tlc_log_f32(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    int32_t n = (int32_t)(bits >> 23) - 127;
    bits = (bits & 0x007FFFFFu) | 0x3F800000u;
    float m;
    memcpy(&m, &bits, sizeof m);
    if (m > 1.41421354f) {
        m = m * 0.5f;
        n = n + 1;
    }
    const float s = (m - 1.0f) / (m + 1.0f), t = s * s;
    float y = t * 0.222222222f + 0.285714298f;
    y = y * t + 0.400000006f;
    y = y * t + 0.666666687f;
    y = y * t + 2.0f;
    return (float)n * 0.693147182f + s * y;
}

#endif /* TLC_LOG_F32_H */
