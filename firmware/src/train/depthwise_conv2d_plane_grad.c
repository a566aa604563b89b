/* SPDX-License-Identifier: Apache-2.0
 *
 * One channel at a time: its dy is spread out in a plane of its own, zeros around it, so that each dx is a sum over a
 * window of neighbours, in the order of the taps, and what is overwritten where dx lies over dy has been read already.
 */
#include "grad.h"

/* dy of a channel, (out_h, out_w) at a distance of out_c, times its scale -> the inside of the plane. */
static void spread(const tlc_conv2d_grad_t *p, const float *dy, float scale, int32_t width, float *plane) {
    for (int32_t y = 0; y < p->out_h; ++y, plane += width) {
        for (int32_t x = 0; x < p->out_w; ++x, dy += p->out_c) {
            plane[x] = *dy * scale;
        }
    }
}

/* The taps in their order see ever earlier outputs: the first the last pixel of a window, and so on backwards. */
static inline float window(const float *last, const float *w, int32_t height, int32_t taps, int32_t width, float sum) {
    for (int32_t ky = 0; ky < height; ++ky, last -= width, w += taps) {
#pragma GCC unroll 8
        for (int32_t kx = 0; kx < taps; ++kx) {
            sum = tlc_mla_f32(sum, last[-kx], w[kx]);
        }
    }
    return sum;
}

static inline __attribute__((always_inline)) void windows(const tlc_conv2d_grad_t *p, const float *last, const float *w,
                                                          int32_t width, float *dx, const int32_t taps) {
    for (int32_t y = 0; y < p->in_h; ++y, last += width) {
        for (int32_t x = 0; x < p->in_w; ++x, dx += p->in_c) {
            *dx = window(last + x, w, p->kernel_h, taps, width, p->add ? *dx : 0.0f);
        }
    }
}

/* The same for 3x3, the weights in registers. */
static void windows_3x3(const tlc_conv2d_grad_t *p, const float *last, const float *w, int32_t width, float *dx) {
    const float w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3], w4 = w[4], w5 = w[5], w6 = w[6], w7 = w[7], w8 = w[8];
    for (int32_t y = 0; y < p->in_h; ++y, last += width) {
        const float *a = last, *b = last - width, *c = last - 2 * width;
        for (int32_t x = p->in_w; x > 0; --x, dx += p->in_c, ++a, ++b, ++c) {
            float sum = p->add ? *dx : 0.0f;
            sum = tlc_mla_f32(sum, a[0], w0);
            sum = tlc_mla_f32(sum, a[-1], w1);
            sum = tlc_mla_f32(sum, a[-2], w2);
            sum = tlc_mla_f32(sum, b[0], w3);
            sum = tlc_mla_f32(sum, b[-1], w4);
            sum = tlc_mla_f32(sum, b[-2], w5);
            sum = tlc_mla_f32(sum, c[0], w6);
            sum = tlc_mla_f32(sum, c[-1], w7);
            *dx = tlc_mla_f32(sum, c[-2], w8);
        }
    }
}

void tlc_depthwise_conv2d_plane_grad_f32(const tlc_conv2d_grad_t *p, tlc_rows_t *w, float *dy, float *dx,
                                         void *scratch) {
    const int32_t taps = p->kernel_h * p->kernel_w, width = p->in_w + p->kernel_w - 1;
    float *const weights = scratch, *const plane = weights + taps;
    tlc_clear_f32(plane, (uint32_t)((p->in_h + p->kernel_h - 1) * width));
    /* dy (y, x) lies at (y + bottom, x + right): the first tap of dx (0, 0) sees dy (pad_top, pad_left), the last pixel
     * of the window that begins at (0, 0). */
    float *const inside = plane + (p->kernel_h - 1 - p->pad_top) * width + (p->kernel_w - 1 - p->pad_left);
    const float *const last = plane + (p->kernel_h - 1) * width + p->kernel_w - 1;
    for (int32_t c = 0; c < p->in_c; ++c) {
        const int8_t *const row = tlc_rows_next(w);
        for (int32_t i = 0; i < taps; ++i) {
            weights[i] = (float)row[i];
        }
        spread(p, dy + c, p->w_scale[p->per_channel ? c : 0], width, inside);
        if (p->kernel_h == 3 && p->kernel_w == 3) {
            windows_3x3(p, last, weights, width, dx + c);
        } else if (p->kernel_w == 5) {
            windows(p, last, weights, width, dx + c, 5);
        } else if (p->kernel_w == 7) {
            windows(p, last, weights, width, dx + c, 7);
        } else {
            windows(p, last, weights, width, dx + c, p->kernel_w);
        }
    }
}
