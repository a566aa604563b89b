/* SPDX-License-Identifier: Apache-2.0
 *
 * grad.h: what gradients share. Internal to the kernels.
 */
#ifndef TLC_GRAD_H
#define TLC_GRAD_H

#include "tlc/train.h"

/* sum + a * b, the product rounded before it is added: the same bits everywhere. Where Arm has both in one instruction
 * it rounds between them, too (VMLA; VFMA would not), but GCC does not use it. */
static inline float tlc_mla_f32(float sum, float a, float b) {
#if defined(__arm__) && defined(__ARM_FP) && (__ARM_FP & 4) && defined(__GNUC__)
    __asm__("vmla.f32 %0, %1, %2" : "+t"(sum) : "t"(a), "t"(b));
    return sum;
#else
    return sum + a * b;
#endif
}

/* Outputs [first, last) along one axis. */
typedef struct {
    int32_t first, last;
} tlc_span_t;

/* Those whose tap lies inside the image: 0 <= output * stride + offset < size. */
static inline tlc_span_t tlc_span(int32_t offset, int32_t stride, int32_t size, int32_t outputs) {
    const int32_t end = size - offset; /* output * stride < end */
    tlc_span_t span = {offset < 0 ? (-offset + stride - 1) / stride : 0, end > 0 ? (end + stride - 1) / stride : 0};
    span.last = span.last < outputs ? span.last : outputs;
    span.last = span.last > span.first ? span.last : span.first;
    return span;
}

/* The positions at which one tap sees the image, as a walk over x and dy together. */
typedef struct {
    int32_t rows, cols;
    int32_t x, dy; /* of the first position, in elements, channel 0 */
    int32_t x_row, x_col, dy_row, dy_col;
} tlc_seen_t;

static inline tlc_seen_t tlc_seen(const tlc_conv2d_grad_t *p, int32_t ky, int32_t kx) {
    const int32_t top = ky * p->dilation_h - p->pad_top, left = kx * p->dilation_w - p->pad_left;
    const tlc_span_t oy = tlc_span(top, p->stride_h, p->in_h, p->out_h);
    const tlc_span_t ox = tlc_span(left, p->stride_w, p->in_w, p->out_w);
    return (tlc_seen_t){
        .rows = oy.last - oy.first,
        .cols = ox.last - ox.first,
        .x = ((oy.first * p->stride_h + top) * p->in_w + ox.first * p->stride_w + left) * p->in_c,
        .dy = (oy.first * p->out_w + ox.first) * p->out_c,
        .x_row = p->stride_h * p->in_w * p->in_c,
        .x_col = p->stride_w * p->in_c,
        .dy_row = p->out_w * p->out_c,
        .dy_col = p->out_c,
    };
}

static inline void tlc_clear_f32(float *values, uint32_t count) {
    for (uint32_t i = 0; i < count; ++i) {
        values[i] = 0.0f;
    }
}

/* dy (rows, channels) times the scale of each channel, or the one of all. */
static inline void tlc_scale_f32(float *dy, uint32_t rows, uint32_t channels, const float *scale, int per_channel) {
    for (uint32_t r = 0; r < rows; ++r, dy += channels) {
        for (uint32_t c = 0; c < channels; ++c) {
            dy[c] *= scale[per_channel ? c : 0];
        }
    }
}

#endif /* TLC_GRAD_H */
