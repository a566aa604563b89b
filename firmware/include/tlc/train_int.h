/* SPDX-License-Identifier: Apache-2.0
 *
 * train_int.h: the backward pass and the optimizer in integers alone.
 *
 * A gradient is a block of int16 values with one exponent: real = q * 2^exponent. Sums are taken exactly, in int32, and
 * then shifted right by the fewest places s that leave every value in int16: the scale is found from the values, as
 * NITI does (Wang et al., arXiv 2009.13108, section 3.2), but no int32 tensor is kept for it. What was stored already
 * is shifted again when a larger value comes. So that this gives the same bits as shifting everything once, in whatever
 * order, the last bit is set where anything but zeros is shifted out ("rounding to odd": Boldo and Melquiond, IEEE
 * Trans. Computers 57(4), 2008): shifting twice is then shifting once, and the error has no bias.
 *
 * Where scales are static (PRIOT, arXiv 2503.16860, says this of shifts that are constants, and dynamic of NITI's way)
 * nothing is measured but the gradient handed in: functions with `static` in their names shift what comes right by
 * `written` places, 1 at least, to the nearest, what is there by `kept`, and saturate the sum. Weights' and biases'
 * gradients replace what is there.
 *
 * Gradients of activations are with respect to reals, those of weights with respect to the real over the scale of the
 * layer's input, which the optimizer's multipliers hold. The definition is compiler/tlc/ops/training_int.py.
 */
#ifndef TLC_TRAIN_INT_H
#define TLC_TRAIN_INT_H

#include <stdint.h>

#include "tlc/model.h"
#include "tlc/rows.h"
#include "tlc/train.h"

#define TLC_GRAD_BITS 15   /* |q| < 2^15, or -2^15 */
#define TLC_GRAD_ONE 4096u /* `scale` of exponent 0 */

/* The values stand right behind it, and behind them room for one more: kernels read pairs. */
typedef struct {
    uint32_t scale; /* exponent + TLC_GRAD_ONE; 0: every value is 0, as in cleared memory */
} tlc_grad_t;

#define TLC_GRAD_BYTES(elements) ((4u + 2u * ((elements) + 1u) + 3u) & ~3u)

static inline int16_t *tlc_grad_values(tlc_grad_t *grad) { return (int16_t *)(void *)(grad + 1); }
static inline const int16_t *tlc_grad_const_values(const tlc_grad_t *grad) {
    return (const int16_t *)(const void *)(grad + 1);
}

/* ---- the gradient at the cut ---- */

/* float32 values, as bytes that may lie anywhere at or behind 4 * i - 2 * i of the gradient's own: truncated to 15 bits
 * of the largest one. */
void tlc_take_grad_f32(const uint8_t *bytes, uint32_t elements, tlc_grad_t *grad);

/* The same for the float32 product of `scale`, given by its bits, and int8 values. */
void tlc_take_grad_s8(const uint8_t *bytes, uint32_t elements, uint32_t scale, tlc_grad_t *grad);

/* ---- activations' gradients ---- */

/* dy (elements) is zeroed where the fused activation of y (elements) was active. */
void tlc_mask_grad_s16(const tlc_mask_grad_t *p, const int8_t *y, tlc_grad_t *dy);

/* The same from the bits that tlc_keep_mask_s8 kept. */
void tlc_masked_grad_s16(const tlc_masked_grad_t *p, const uint8_t *bits, tlc_grad_t *dy);

typedef struct {
    uint32_t elements;
    uint8_t add;           /* always: without it, the two are the same bytes */
    int32_t written, kept; /* static: see above */
} tlc_copy_grad_s16_t;

/* dx += dy, both (elements) */
void tlc_copy_grad_s16(const tlc_copy_grad_s16_t *p, const tlc_grad_t *dy, tlc_grad_t *dx);
void tlc_copy_static_grad_s16(const tlc_copy_grad_s16_t *p, const tlc_grad_t *dy, tlc_grad_t *dx);

typedef struct {
    uint32_t in_h, in_w, channels;
    uint32_t out_h, out_w;
    uint32_t kernel_h, kernel_w, stride_h, stride_w;
    uint32_t pad_top, pad_left;
    int32_t shift; /* max: taken off dy, so that the most that may meet in one value fit. average: of the shares */
} tlc_pool_grad_s16_t;

/* The whole gradient goes to the first largest tap. x (in_h, in_w, channels), dy (out_h, out_w, channels) -> dx as x */
void tlc_max_pool2d_grad_s16(const tlc_pool_grad_s16_t *p, const int8_t *x, const tlc_grad_t *dy, tlc_grad_t *dx);

/* dy (out_h, out_w, channels) -> dx (in_h, in_w, channels): each value of a window of n gets round(2^15 / n) >> shift
 */
void tlc_average_pool2d_grad_s16(const tlc_pool_grad_s16_t *p, const tlc_grad_t *dy, tlc_grad_t *dx);

/* `loops` (rank, 3): count, step of dx, step of dy, in elements; outermost first. */
typedef struct {
    uint32_t rank; /* 1..4 */
    const int32_t *loops;
    uint32_t offset;     /* of the first element of dy */
    uint32_t elements;   /* many to one: of dx */
    int32_t mult, shift; /* mult * 2^-shift: 14 bits and a sign, or 15 */
    int32_t exponent;    /* of the factor, beyond mult * 2^-shift */
    uint8_t add;
    int32_t written, kept; /* of sums, static */
} tlc_move_grad_s16_t;

/* dx = factor * dy, one to one or one to many: means, transpositions, pads, signs. */
void tlc_move_grad_s16(const tlc_move_grad_s16_t *p, const tlc_grad_t *dy, tlc_grad_t *dx);

/* dx (+)= sums of mult * (dy >> shift), many to one: what a broadcast gives back. scratch: int32 (elements) */
void tlc_sum_grad_s16(const tlc_move_grad_s16_t *p, const tlc_grad_t *dy, tlc_grad_t *dx, void *scratch);
void tlc_sum_static_grad_s16(const tlc_move_grad_s16_t *p, const tlc_grad_t *dy, tlc_grad_t *dx, void *scratch);

/* `loops` (rank, 3) over the elements of dy: count, step of dx, step of the other factor. */
typedef struct {
    uint32_t rank; /* 1..4 */
    const int32_t *loops;
    uint32_t elements; /* of dx */
    int32_t other_zp;
    int32_t shift;    /* taken off dy, so that sums fit */
    int32_t mult;     /* scale of the other factor: 15 bits */
    int32_t exponent; /* of it */
    uint8_t add;
    int32_t written, kept; /* static */
} tlc_mul_grad_s16_t;

/* dx (+)= dy * scale * (other - other_zp). scratch: int32 (elements) */
void tlc_mul_grad_s16(const tlc_mul_grad_s16_t *p, const int8_t *other, const tlc_grad_t *dy, tlc_grad_t *dx,
                      void *scratch);
void tlc_mul_static_grad_s16(const tlc_mul_grad_s16_t *p, const int8_t *other, const tlc_grad_t *dy, tlc_grad_t *dx,
                             void *scratch);

typedef struct {
    uint32_t rows, classes;
    int32_t mult; /* from a distance to the maximum to 26 bits of fraction, as tlc_softmax_t */
    int32_t diff_min;
    int8_t shift;
    int32_t beta, exponent; /* beta = beta * 2^exponent: 15 bits */
    uint8_t add;
    int32_t written, kept; /* static */
} tlc_softmax_grad_s16_t;

/* From the logits x (rows, classes): dx (+)= beta p (dy - sum of dy p). scratch: int32 (rows, classes) */
void tlc_softmax_grad_s16(const tlc_softmax_grad_s16_t *p, const int8_t *x, const tlc_grad_t *dy, tlc_grad_t *dx,
                          void *scratch);
void tlc_softmax_static_grad_s16(const tlc_softmax_grad_s16_t *p, const int8_t *x, const tlc_grad_t *dy, tlc_grad_t *dx,
                                 void *scratch);

/* ---- layers with weights ---- */

typedef struct {
    uint32_t rows, channels;
    const int16_t *mult; /* (channels) or (1): the weights' scale is mult * 2^exponent */
    int32_t exponent;
    int32_t bits; /* that are left of each value, so that the sums over channels and taps fit */
    uint8_t per_channel;
    int32_t written; /* static: at least 16 - bits */
} tlc_scale_grad_s16_t;

/* dy (rows, channels) times the weights' scales, in place */
void tlc_scale_grad_s16(const tlc_scale_grad_s16_t *p, tlc_grad_t *dy);
void tlc_scale_static_grad_s16(const tlc_scale_grad_s16_t *p, tlc_grad_t *dy);

/* Positions and steps are signed: a window may begin outside the image. A dense layer is a pointwise convolution. */
typedef struct {
    int32_t in_h, in_w, in_c;
    int32_t out_h, out_w, out_c;
    int32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
    int32_t pad_top, pad_left;
    int32_t groups; /* depthwise: in_c */
    int32_t in_zp;
    int32_t out_first, outs, in_first, ins; /* weights' gradient: which channels, and of those read by each, learn */
    int32_t headroom;                       /* weights' gradient: bits taken off dy, so that sums over positions fit */
    int32_t chunk;                          /* weights' gradient: positions taken at once, an even number */
    uint8_t add;                            /* input's gradient */
    int32_t written, kept;                  /* static */
} tlc_conv2d_grad_s16_t;

#define TLC_PANEL 8 /* output channels whose weights' gradients are computed together */

/* x (in_h, in_w, in_c), dy (out_h, out_w, out_c) -> dw (outs, kernel_h, kernel_w, ins), added to.
 * scratch: int16 (TLC_PANEL + 4, chunk); where there are more positions, also int32 (TLC_PANEL, row of dw) */
void tlc_conv2d_weight_grad_s16(const tlc_conv2d_grad_s16_t *p, const int8_t *x, const tlc_grad_t *dy, tlc_grad_t *dw,
                                void *scratch);
void tlc_conv2d_weight_static_grad_s16(const tlc_conv2d_grad_s16_t *p, const int8_t *x, const tlc_grad_t *dy,
                                       tlc_grad_t *dw, void *scratch);

/* The same for dw (outs, kernel_h, kernel_w), where output channel c * (out_c / in_c) + m reads input channel c.
 * scratch: int16 (out_h * out_w, and what the windows cover, as tlc_depthwise_conv2d_s8 has it) */
void tlc_depthwise_conv2d_weight_grad_s16(const tlc_conv2d_grad_s16_t *p, const int8_t *x, const tlc_grad_t *dy,
                                          tlc_grad_t *dw, void *scratch);
void tlc_depthwise_conv2d_weight_static_grad_s16(const tlc_conv2d_grad_s16_t *p, const int8_t *x, const tlc_grad_t *dy,
                                                 tlc_grad_t *dw, void *scratch);

/* dy (out_h, out_w, out_c), scaled -> dx (in_h, in_w, in_c).
 * scratch: int16 (kernel_h * kernel_w, out_c / groups rounded up to even, 4) */
void tlc_conv2d_input_grad_s16(const tlc_conv2d_grad_s16_t *p, tlc_rows_t *w, const tlc_grad_t *dy, tlc_grad_t *dx,
                               void *scratch);
void tlc_conv2d_input_static_grad_s16(const tlc_conv2d_grad_s16_t *p, tlc_rows_t *w, const tlc_grad_t *dy,
                                      tlc_grad_t *dx, void *scratch);

/* scratch: int32 (in_h, in_w) where out_c is not in_c; int16 (kernel_h * kernel_w rounded up to even, a row each);
 * int16 (in_h + (kernel_h - 1) * dilation_h, in_w + (kernel_w - 1) * dilation_w), and one more */
void tlc_depthwise_conv2d_input_grad_s16(const tlc_conv2d_grad_s16_t *p, tlc_rows_t *w, const tlc_grad_t *dy,
                                         tlc_grad_t *dx, void *scratch);
void tlc_depthwise_conv2d_input_static_grad_s16(const tlc_conv2d_grad_s16_t *p, tlc_rows_t *w, const tlc_grad_t *dy,
                                                tlc_grad_t *dx, void *scratch);

/* The same where dx may lie over dy, since both are of one size and out_c is in_c. */
void tlc_depthwise_conv2d_in_place_grad_s16(const tlc_conv2d_grad_s16_t *p, tlc_rows_t *w, tlc_grad_t *dy,
                                            tlc_grad_t *dx, void *scratch);
void tlc_depthwise_conv2d_in_place_static_grad_s16(const tlc_conv2d_grad_s16_t *p, tlc_rows_t *w, tlc_grad_t *dy,
                                                   tlc_grad_t *dx, void *scratch);

typedef struct {
    uint32_t rows; /* positions summed over, below 65,536 */
    uint32_t channels;
    uint32_t out_first, outs; /* of which db is computed */
    int32_t written;          /* static */
} tlc_bias_grad_s16_t;

/* dy (rows, channels) -> db (outs), added to */
void tlc_bias_grad_s16(const tlc_bias_grad_s16_t *p, const tlc_grad_t *dy, tlc_grad_t *db);
void tlc_bias_static_grad_s16(const tlc_bias_grad_s16_t *p, const tlc_grad_t *dy, tlc_grad_t *db);

/* ---- the optimizer ---- */

typedef struct {
    uint32_t rows, row_elements; /* one row an output channel */
    uint8_t per_channel;
    const uint16_t *mult; /* (rows) or (1), with `shift`: steps of the integer per unit of rate * gradient */
    const int16_t *shift; /* mult * 2^shift; mult in [2^15, 2^16) */
    uint32_t salt;        /* which tensor: its own stream of random numbers */
} tlc_sgd_int_t;

/* w <- w - round(rate / samples * mult * 2^shift * grad), rounded stochastically with the random words of the float
 * path. Rate and momentum are taken apart by their bits. `grad` is cleared. w stays in [-127, 127].
 *
 * velocity not NULL: of a weight in int16, of a bias in int32, in units of 1/256 of a step; the move is rounded to that
 * and added to momentum * velocity, rounded too, and the sum, saturated, is the move. Every rounding is stochastic.
 * residual not NULL: in the same units what is left of a step is kept for the next one, instead of rounding at random.
 */
void tlc_sgd_int_s8(const tlc_sgd_int_t *p, int8_t *w, tlc_grad_t *grad, int16_t *velocity, int8_t *residual,
                    const tlc_step_t *step, uint32_t samples);
void tlc_sgd_int_s32(const tlc_sgd_int_t *p, int32_t *b, tlc_grad_t *grad, int32_t *velocity, const tlc_step_t *step,
                     uint32_t samples);

#endif /* TLC_TRAIN_INT_H */
