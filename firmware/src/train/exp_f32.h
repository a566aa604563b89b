/* SPDX-License-Identifier: Apache-2.0
 *
 * exp_f32.h: exp without libm, so that every target gives the same bits.
 */
#ifndef TLC_EXP_F32_H
#define TLC_EXP_F32_H

#include <stdint.h>
#include <string.h>

/* exp(x) for x <= 0, to 3e-7 relative: 2^n times the Taylor polynomial of exp(r), |r| <= ln(2) / 2, where n ln(2)
 * is taken off in two parts, of which the first times n is exact. 0 below -87, where denormals are near. */
static inline float tlc_exp_f32(float x) {
    if (!(x >= -87.0f)) {
        return 0.0f;
    }
    const int32_t n = (int32_t)(x * 1.44269504f - 0.5f);
    const float r = (x - (float)n * 0.693359375f) + (float)n * 2.12194440e-4f;
    float y = r * 1.38888889e-3f + 8.33333333e-3f;
    y = y * r + 4.16666667e-2f;
    y = y * r + 1.66666667e-1f;
    y = y * r + 0.5f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;
    const uint32_t bits = (uint32_t)(n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return y * power;
}

#endif /* TLC_EXP_F32_H */
