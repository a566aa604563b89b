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

/* Positions and steps are signed: a window may begin outside the image. */
typedef struct {
    int32_t in_h, in_w, in_c;
    int32_t out_h, out_w, out_c;
    int32_t groups; /* depthwise: in_c */
    uint16_t kernel_h, kernel_w;
    uint16_t stride_h, stride_w;
    uint16_t dilation_h, dilation_w;
    uint8_t per_channel;
    int32_t pad_top, pad_left;
    int32_t in_zp; /* what padding reads */
    int32_t out_zp;
    int32_t act_min, act_max;
    const int32_t *mult;
    const int8_t *shift;
} tlc_conv2d_t;

/* x (in_h, in_w, in_c), w (out_c, kernel_h, kernel_w, in_c / groups), bias (out_c) -> y (out_h, out_w, out_c) */
void tlc_conv2d_s8(const tlc_conv2d_t *p, const int8_t *x, tlc_rows_t *w, const int32_t *bias, int8_t *y);

/* The same for a kernel of 1 x 1 without strides, pads and groups, where in_h and out_h are 1 and in_c is a multiple
 * of 4. scratch: 4-byte aligned, int16 (4, in_c). */
void tlc_pointwise_conv2d_s8(const tlc_conv2d_t *p, const int8_t *x, tlc_rows_t *w, const int32_t *bias, void *scratch,
                             int8_t *y);

/* The same as tlc_conv2d_s8 without groups. scratch: 4-byte aligned, 9 bytes for each value of a window, whose number
 * is rounded up to a multiple of 4. */
void tlc_patch_conv2d_s8(const tlc_conv2d_t *p, const int8_t *x, tlc_rows_t *w, const int32_t *bias, void *scratch,
                         int8_t *y);

typedef tlc_conv2d_t tlc_depthwise_conv2d_t;

/* x (in_h, in_w, in_c), w (out_c, kernel_h, kernel_w), bias (out_c) -> y (out_h, out_w, out_c);
 * output channel c * (out_c / in_c) + m reads input channel c. scratch: 2-byte aligned, int16 (kernel_h * kernel_w +
 * the area that the windows cover: ((out_h - 1) * stride_h + (kernel_h - 1) * dilation_h + 1) * the same of w).
 * Where out_c is in_c, y may lie over x. */
void tlc_depthwise_conv2d_s8(const tlc_depthwise_conv2d_t *p, const int8_t *x, tlc_rows_t *w, const int32_t *bias,
                             void *scratch, int8_t *y);

/* Padding is smaller than the kernel, and left out: every window holds at least one value. */
typedef struct {
    int32_t in_h, in_w, channels;
    int32_t out_h, out_w;
    int32_t kernel_h, kernel_w;
    int32_t stride_h, stride_w;
    int32_t pad_top, pad_left;
    int32_t act_min, act_max;
} tlc_pool2d_t;

/* x (in_h, in_w, channels) -> y (out_h, out_w, channels), of one scale and zero point */
void tlc_max_pool2d_s8(const tlc_pool2d_t *p, const int8_t *x, int8_t *y);
void tlc_average_pool2d_s8(const tlc_pool2d_t *p, const int8_t *x, int8_t *y);

typedef struct {
    uint32_t kept0, reduced0, kept1, reduced1, kept2; /* neighbouring axes of one kind are one; 1: there is none */
    int32_t offset;                                   /* -in_zp * values averaged */
    int32_t out_zp;
    int32_t mult; /* in_scale / out_scale / values averaged */
    int8_t shift;
} tlc_mean_t;

/* x (kept0, reduced0, kept1, reduced1, kept2) -> y (kept0, kept1, kept2) */
void tlc_mean_s8(const tlc_mean_t *p, const int8_t *x, int8_t *y);

/* `loops` (rank, 3): count, step of a, step of b, in elements; outermost first. */
typedef struct {
    uint32_t rank; /* 1..4 */
    const int32_t *loops;
    int32_t a_zp, a_mult;
    int32_t b_zp, b_mult;
    int32_t out_zp, out_mult;
    int32_t act_min, act_max;
    int8_t a_shift, b_shift, out_shift;
} tlc_add_t;

/* a, b broadcast to y; y may be an operand of y's size */
void tlc_add_s8(const tlc_add_t *p, const int8_t *a, const int8_t *b, int8_t *y);
void tlc_sub_s8(const tlc_add_t *p, const int8_t *a, const int8_t *b, int8_t *y);

/* `loops` as those of tlc_add_t. */
typedef struct {
    uint32_t rank; /* 1..4 */
    const int32_t *loops;
    int32_t a_zp, b_zp, out_zp;
    int32_t mult;
    int32_t act_min, act_max;
    int8_t shift;
} tlc_mul_t;

/* a, b broadcast to y; y may be an operand of y's size */
void tlc_mul_s8(const tlc_mul_t *p, const int8_t *a, const int8_t *b, int8_t *y);

typedef struct {
    uint32_t count;
    int32_t in_zp, out_zp;
    int32_t mult;
    int32_t act_min, act_max;
    int8_t shift;
} tlc_quantize_t;

/* x (count) -> y (count), which may be x: quantize and clamp */
void tlc_quantize_s8(const tlc_quantize_t *p, const int8_t *x, int8_t *y);

typedef struct {
    uint32_t rows, classes; /* classes < 4096 */
    int32_t mult;           /* from a distance to the maximum to 26 bits of fraction */
    int32_t diff_min;       /* below it an exp is 0 */
    int8_t shift;
} tlc_softmax_t;

/* x (rows, classes) -> y (rows, classes), of scale 1/256 and zero point -128; y may be x */
void tlc_softmax_s8(const tlc_softmax_t *p, const int8_t *x, int8_t *y);

/* `loops` (rank, 3): count, step of x, step of y, in elements; outermost first. */
typedef struct {
    uint32_t rank; /* 1..4 */
    const int32_t *loops;
} tlc_transpose_t;

void tlc_transpose_s8(const tlc_transpose_t *p, const int8_t *x, int8_t *y);

/* `loops` as those of tlc_transpose_t, over the values of x. */
typedef struct {
    uint32_t rank; /* 1..4 */
    const int32_t *loops;
    uint32_t count;  /* values of y */
    uint32_t offset; /* of x's first value in y */
    int32_t value;
} tlc_pad_t;

void tlc_pad_s8(const tlc_pad_t *p, const int8_t *x, int8_t *y);

#endif /* TLC_KERNELS_H */
