/* SPDX-License-Identifier: Apache-2.0
 *
 * train.h: the backward pass and the optimizer, in float32.
 *
 * Gradients are with respect to reals: activations' gradients d loss / d (s (q - zp)), weights' gradients
 * d loss / d (s_w w). Each kernel's summation order is part of its definition: with -ffp-contract=off the NumPy
 * reference in compiler/tlc/ops, x86 and every target give the same bits. Terms that are zero by definition (a masked
 * gradient, a tap in the padding) are skipped, not added.
 */
#ifndef TLC_TRAIN_H
#define TLC_TRAIN_H

#include <stdint.h>

#include "tlc/model.h"

/* ---- activations' gradients ---- */

typedef struct {
    uint32_t elements;
    int32_t low;  /* y <= low: the clamp was active below, the gradient is 0; -129: no lower clamp */
    int32_t high; /* y >= high: likewise above; 128: no upper clamp */
} tlc_mask_grad_t;

/* dy (elements) is zeroed where the fused activation of y (elements) was active. */
void tlc_mask_grad_f32(const tlc_mask_grad_t *p, const int8_t *y, float *dy);

typedef struct {
    uint32_t elements;
    uint8_t add; /* add to what is there, instead of setting it */
} tlc_copy_grad_t;

/* dy (elements) -> dx (elements) */
void tlc_copy_grad_f32(const tlc_copy_grad_t *p, const float *dy, float *dx);

typedef struct {
    uint32_t in_h, in_w, channels;
    uint32_t out_h, out_w;
    uint32_t kernel_h, kernel_w, stride_h, stride_w;
    uint32_t pad_top, pad_left;
    uint8_t add;
} tlc_pool_grad_t;

/* The whole gradient goes to the first largest tap. x (in_h, in_w, channels), dy (out_h, out_w, channels) -> dx like x */
void tlc_max_pool2d_grad_f32(const tlc_pool_grad_t *p, const int8_t *x, const float *dy, float *dx);

/* dy (out_h, out_w, channels) -> dx (in_h, in_w, channels); padding is not counted */
void tlc_average_pool2d_grad_f32(const tlc_pool_grad_t *p, const float *dy, float *dx);

typedef struct {
    uint32_t outer, reduced, inner; /* x is (outer, reduced, inner), y is (outer, inner) */
    uint8_t add;
} tlc_mean_grad_t;

void tlc_mean_grad_f32(const tlc_mean_grad_t *p, const float *dy, float *dx);

/* ---- weights' gradients, always added to the accumulators ---- */

typedef struct {
    uint32_t in_h, in_w, in_c;
    uint32_t out_h, out_w, out_c;
    uint32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
    uint32_t pad_top, pad_left;
    uint32_t groups;   /* depthwise: in_c */
    int32_t in_zp;
    float in_scale;
} tlc_conv2d_grad_t;

/* x (in_h, in_w, in_c), dy (out_h, out_w, out_c) -> dw (out_c, kernel_h, kernel_w, in_c / groups) */
void tlc_conv2d_weight_grad_f32(const tlc_conv2d_grad_t *p, const int8_t *x, const float *dy, float *dw);

typedef struct {
    uint32_t rows;     /* positions summed over: out_h * out_w, or the samples of a dense layer */
    uint32_t channels;
} tlc_bias_grad_t;

/* dy (rows, channels) -> db (channels) */
void tlc_bias_grad_f32(const tlc_bias_grad_t *p, const float *dy, float *db);

typedef struct {
    uint32_t samples, in, out;
    int32_t in_zp;
    float in_scale;
} tlc_dense_grad_t;

/* x (samples, in), dy (samples, out) -> dw (out, in) */
void tlc_dense_weight_grad_f32(const tlc_dense_grad_t *p, const int8_t *x, const float *dy, float *dw);

/* ---- the optimizer ---- */

typedef struct {
    uint32_t rows, row_elements; /* one row an output channel */
    uint8_t per_channel;
    const float *inverse_scale; /* (rows) or (1): steps of the integer per unit of the real */
    uint32_t salt;              /* which tensor: its own stream of random numbers */
} tlc_sgd_t;

/* Plain SGD on integers, quantization-aware: with respect to the dequantized weight s_w w, the integer's step is
 * -rate * grad / s_w. Rounded stochastically, so that steps below one are right in the mean and not lost.
 * `grad` is cleared. w stays in [-127, 127]. */
void tlc_sgd_s8(const tlc_sgd_t *p, int8_t *w, float *grad, const tlc_step_t *step, float rate);

/* The same for biases, whose unit is s_w s_x. */
void tlc_sgd_s32(const tlc_sgd_t *p, int32_t *b, float *grad, const tlc_step_t *step, float rate);

/* folded[r] = bias[r] - in_zp * sum(w[r]): what the forward kernels read. */
void tlc_fold_bias(const int8_t *w, uint32_t rows, uint32_t row_elements, const int32_t *bias, int32_t in_zp,
                   int32_t *folded);

#endif /* TLC_TRAIN_H */
