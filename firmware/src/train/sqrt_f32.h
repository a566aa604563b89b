/* SPDX-License-Identifier: Apache-2.0
 *
 * sqrt_f32.h: the square root without libm, so that every target gives the same bits.
 */
#ifndef TLC_SQRT_F32_H
#define TLC_SQRT_F32_H

#include <stdint.h>
#include <string.h>

/* To 2e-7 relative, for finite x; 0 where x is not above 0. Four steps of Newton from half the exponent, which is
 * within 6%. */
static inline float tlc_sqrt_f32(float x) {
    if (!(x > 0.0f)) {
        return 0.0f;
    }
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits >> 1) + 0x1FBD1DF5u;
    float y;
    memcpy(&y, &bits, sizeof y);
    for (int i = 0; i < 4; ++i) {
        y = 0.5f * (y + x / y);
    }
    return y;
}

#endif /* TLC_SQRT_F32_H */
