/* SPDX-License-Identifier: Apache-2.0
 *
 * kernels.h: the integer operators. Activations are int8 NHWC; each kernel is the definition of its
 * operator and equals the NumPy reference in compiler/tlc/ops and TFLM's reference kernel byte for byte.
 *
 * `bias` arrays have the input's zero point folded in: b - in_zp * sum(w). `mult` and `shift` hold one
 * entry, or one an output channel where `per_channel` is set.
 */
#ifndef TLC_KERNELS_H
#define TLC_KERNELS_H

#include <stdint.h>

#include "tlc/rows.h"

typedef struct {
    uint32_t samples; /* rows of x: 1, or the product of the leading axes */
    uint32_t in, out;
    int32_t out_zp;
    int32_t act_min, act_max;
    uint8_t per_channel;
    const int32_t *mult;
    const int8_t *shift;
} tlc_dense_t;

/* x (samples, in), w (out, in), bias (out) -> y (samples, out) */
void tlc_dense_s8(const tlc_dense_t *p, const int8_t *x, tlc_rows_t *w, const int32_t *bias, int8_t *y);

#endif /* TLC_KERNELS_H */
