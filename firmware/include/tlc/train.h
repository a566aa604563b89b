/* SPDX-License-Identifier: Apache-2.0
 *
 * train.h: the backward pass and the optimizer, in float32.
 *
 * Gradients are with respect to reals: activations' gradients d loss / d (s (q - zp)), weights' gradients
 * d loss / d (s_w w). Each kernel's summation order is part of its definition: with -ffp-contract=off the NumPy
 * reference in compiler/tlc/ops, x86 and every target give the same bits. Every sum begins at +0 and so never is -0:
 * a term that is zero may be added or left out.
 */
#ifndef TLC_TRAIN_H
#define TLC_TRAIN_H

#include <stdint.h>

#include "tlc/model.h"
#include "tlc/rows.h"

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
} tlc_masked_grad_t;

/* The same in two steps, with one bit kept for each element in between, (elements + 7) / 8 bytes: 1 where it passes. */
void tlc_keep_mask_s8(const tlc_mask_grad_t *p, const int8_t *y, uint8_t *bits);
void tlc_masked_grad_f32(const tlc_masked_grad_t *p, const uint8_t *bits, float *dy);

typedef struct {
    uint32_t rows, channels, first, count;
} tlc_keep_channels_t;

/* x (rows, channels) -> channels [first, first + count), (rows, count): of an activation what a slice's gradient needs.
 */
void tlc_keep_channels_s8(const tlc_keep_channels_t *p, const int8_t *x, int8_t *kept);

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

/* The whole gradient goes to the first largest tap. x (in_h, in_w, channels), dy (out_h, out_w, channels) -> dx as x */
void tlc_max_pool2d_grad_f32(const tlc_pool_grad_t *p, const int8_t *x, const float *dy, float *dx);

/* dy (out_h, out_w, channels) -> dx (in_h, in_w, channels); padding is not counted */
void tlc_average_pool2d_grad_f32(const tlc_pool_grad_t *p, const float *dy, float *dx);

/* `loops` (rank, 3): count, step of dx, step of dy, in elements; outermost first. */
typedef struct {
    uint32_t rank; /* 1..4 */
    const int32_t *loops;
    uint32_t offset; /* of the first element of dy */
    uint32_t clear;  /* elements of dx to set to 0 first: where several of dy go to one */
    float scale;
    uint8_t add;
} tlc_move_grad_t;

/* dx (+)= scale * dy, element by element in the loops' order: broadcasts, means, transpositions, pads. */
void tlc_move_grad_f32(const tlc_move_grad_t *p, const float *dy, float *dx);

/* `loops` (rank, 3) over the elements of dy: count, step of dx, step of the other factor. */
typedef struct {
    uint32_t rank; /* 1..4 */
    const int32_t *loops;
    uint32_t clear; /* elements of dx to set to 0 first */
    int32_t other_zp;
    float other_scale;
} tlc_mul_grad_t;

/* dx += dy * other_scale * (other - other_zp) */
void tlc_mul_grad_f32(const tlc_mul_grad_t *p, const int8_t *other, const float *dy, float *dx);

typedef struct {
    uint32_t rows, classes;
    float scale; /* of beta * x */
    float beta;
    uint8_t add;
} tlc_softmax_grad_t;

/* From the logits x (rows, classes), since probabilities in 256 steps would tell too little of small ones:
 * dx = beta p (dy - sum of dy p). scratch: `classes` floats, aligned. */
void tlc_softmax_grad_f32(const tlc_softmax_grad_t *p, const int8_t *x, const float *dy, float *dx, void *scratch);

/* ---- layers with weights ----
 *
 * A weight's gradient on a sample is summed over the positions in order, then multiplied by in_scale and added to its
 * accumulator. An input's gradient is summed over output channels, and for each over the taps; it takes the weights as
 * the forward pass does, row by row, so that they may stay packed. */

/* Positions and steps are signed: a window may begin outside the image. */
typedef struct {
    int32_t in_h, in_w, in_c;
    int32_t out_h, out_w, out_c;
    int32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
    int32_t pad_top, pad_left;
    int32_t groups; /* depthwise: in_c */
    int32_t in_zp;
    float in_scale;
    int32_t out_first, outs; /* what learns of the weights: output channels [out_first, out_first + outs), */
    int32_t in_first, ins;   /* and of the in_c / groups that each reads [in_first, in_first + ins) */
    const float *w_scale;    /* (out_c) or (1) */
    uint8_t per_channel;
    uint8_t add;
} tlc_conv2d_grad_t;

/* x (in_h, in_w, in_c), dy (out_h, out_w, out_c) -> dw (outs, kernel_h, kernel_w, ins), added to */
void tlc_conv2d_weight_grad_f32(const tlc_conv2d_grad_t *p, const int8_t *x, const float *dy, float *dw);

/* The same for dw (outs, kernel_h, kernel_w), where output channel c * (out_c / in_c) + m reads input channel c. */
void tlc_depthwise_conv2d_weight_grad_f32(const tlc_conv2d_grad_t *p, const int8_t *x, const float *dy, float *dw);

/* dy (out_h, out_w, out_c), which is multiplied by w_scale in place -> dx (in_h, in_w, in_c). The scratch of packed or
 * sliced rows must have room for four. */
void tlc_conv2d_input_grad_f32(const tlc_conv2d_grad_t *p, tlc_rows_t *w, float *dy, float *dx);
void tlc_depthwise_conv2d_input_grad_f32(const tlc_conv2d_grad_t *p, tlc_rows_t *w, float *dy, float *dx);

/* The same without strides and dilations and with one output channel to each input channel: then dx may lie over dy.
 * scratch: (kernel_h, kernel_w) and (in_h + kernel_h - 1, in_w + kernel_w - 1) floats, aligned. */
void tlc_depthwise_conv2d_plane_grad_f32(const tlc_conv2d_grad_t *p, tlc_rows_t *w, float *dy, float *dx,
                                         void *scratch);

typedef struct {
    uint32_t rows; /* positions summed over: out_h * out_w, or the samples of a dense layer */
    uint32_t channels;
    uint32_t out_first, outs; /* the channels that learn */
} tlc_bias_grad_t;

/* dy (rows, channels) -> db (outs), added to */
void tlc_bias_grad_f32(const tlc_bias_grad_t *p, const float *dy, float *db);

typedef struct {
    uint32_t samples, in, out;
    int32_t in_zp;
    float in_scale;
    uint32_t out_first, outs, in_first, ins; /* what learns of the weights */
    const float *w_scale;                    /* (out) or (1) */
    uint8_t per_channel;
    uint8_t add;
} tlc_dense_grad_t;

/* x (samples, in), dy (samples, out) -> dw (outs, ins), added to */
void tlc_dense_weight_grad_f32(const tlc_dense_grad_t *p, const int8_t *x, const float *dy, float *dw);

/* dy (samples, out), which is multiplied by w_scale in place -> dx (samples, in) */
void tlc_dense_input_grad_f32(const tlc_dense_grad_t *p, tlc_rows_t *w, float *dy, float *dx);

/* ---- losses ----
 *
 * The loss of one sample and its gradient, from a label. ARG: no such class. */

typedef struct {
    uint32_t classes;
    float scale; /* of beta * x */
    float beta;
} tlc_softmax_ce_t;

/* Softmax and cross-entropy in one, from the logits x (classes): p = softmax(beta x), loss = -log p[label],
 * dx = beta (p - one-hot). Sums in the order of the classes. */
TLC_MUST_CHECK tlc_status_t tlc_softmax_ce_f32(const tlc_softmax_ce_t *p, const int8_t *x, float *dx,
                                               const tlc_target_t *target, tlc_verdict_t *verdict);

typedef struct {
    uint32_t elements;
    float scale;
    int32_t zero_point;
    float twice_share; /* 2 / elements */
} tlc_mse_t;

/* The mean squared error of y (elements) against the target's values, which may lie where dy does; or against 1 for its
 * label and 0 else. NUMERIC: it is not finite. */
TLC_MUST_CHECK tlc_status_t tlc_mse_f32(const tlc_mse_t *p, const int8_t *y, float *dy, const tlc_target_t *target,
                                        tlc_verdict_t *verdict);

/* ---- the learning rate of a device that learns alone ---- */

/* The rate of a step, from 1. */
float tlc_rate_f32(const tlc_schedule_t *p, float rate, uint32_t step);

/* ---- the optimizer ----
 *
 * An integer w stands for the real s w. With quantization-aware scaling the step of the integer is that of the real by
 * s: w <- w - rate * (d loss / d(s w)) / s. With respect to the integer the same is rate * s^-2 * (d loss / dw), as
 * MCUNetV3 writes it (Lin et al., "On-Device Training Under 256KB Memory", NeurIPS 2022, eq. 5), for a bias
 * (s_w s_x)^-2. Without, it is rate * (d loss / dw) = rate * s * (d loss / d(s w)). */

typedef struct {
    uint32_t rows, row_elements; /* one row an output channel */
    uint8_t per_channel;
    const float *unit; /* (rows) or (1): steps of the integer per unit of rate * gradient: 1 / s, or s without QAS */
    uint32_t salt;     /* which tensor: its own stream of random numbers */
} tlc_sgd_t;

/* One step on integers in [-127, 127], from the sum `grad` of `samples` gradients, which is cleared:
 *
 *     move     = rate * unit * grad / samples + rate * weight_decay * w
 *     velocity = momentum * velocity + move, and this is the move then           where velocity is not NULL
 *     w        = w - (move, rounded)
 *
 * Where the norm of the tensor's mean gradient is above `clip` (not 0) it is scaled down to it first; squares are
 * summed in the order of the elements. Rounded stochastically, so that steps below one are right in the mean and not
 * lost; or, where residual is not NULL, to the nearest, and what is left, in units of 1/256, is kept there for the next
 * step. */
void tlc_sgd_s8(const tlc_sgd_t *p, int8_t *w, float *grad, float *velocity, int8_t *residual, const tlc_step_t *step,
                uint32_t samples);

/* The same for biases, whose unit is s_w s_x: fine enough to need no residual. Without weight decay. */
void tlc_sgd_s32(const tlc_sgd_t *p, int32_t *b, float *grad, float *velocity, const tlc_step_t *step,
                 uint32_t samples);

/* Before an update inside the backward pass. NUMERIC: `grad` is not finite, or the norm of all gradients of this pass
 * so far, whose squares are added to *squares, is above max_norm. 0: any finite one passes, and no squares are taken.
 */
TLC_MUST_CHECK tlc_status_t tlc_check_grad_f32(const float *grad, uint32_t elements, float max_norm, float *squares);

/* folded[r] = bias[r] - in_zp * sum(w[r]), modulo 2^32: what the forward kernels read. bias NULL: there is none. */
void tlc_fold_bias(const int8_t *w, uint32_t rows, uint32_t row_elements, const int32_t *bias, int32_t in_zp,
                   int32_t *folded);

/* folded[r] = part[r] + bias[r], modulo 2^32: the same where the weights are frozen and `part` is known. */
void tlc_add_bias(const int32_t *part, uint32_t rows, const int32_t *bias, int32_t *folded);

/* folded[r] -= in_zp * sum(w[r]), modulo 2^32: what a slice of the weights adds to what the frozen ones do. */
void tlc_fold_slice(const int8_t *w, uint32_t rows, uint32_t row_elements, int32_t in_zp, int32_t *folded);

#endif /* TLC_TRAIN_H */
