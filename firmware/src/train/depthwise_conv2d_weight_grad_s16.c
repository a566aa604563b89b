/* SPDX-License-Identifier: Apache-2.0
 *
 * One channel at a time, spread out: its gradient, and in a plane with zeros around what it read. A tap's gradient is
 * the dot product of the one and a view of the other.
 */
#include "../kernels/pair.h"
#include "odd.h"

/* x from its channel -> plane (height, width) with zeros around, less the zero point. */
static void spread(const tlc_conv2d_grad_s16_t *p, const int8_t *x, int32_t height, int32_t width, int16_t *plane) {
    for (int32_t r = 0; r < height; ++r) {
        const int32_t iy = r - p->pad_top;
        for (int32_t c = 0; c < width; ++c) {
            const int32_t ix = c - p->pad_left;
            const int is_inside = iy >= 0 && iy < p->in_h && ix >= 0 && ix < p->in_w;
            *plane++ = is_inside ? (int16_t)(x[(iy * p->in_w + ix) * p->in_c] - p->in_zp) : 0;
        }
    }
}

static int32_t tap_gradient(const tlc_conv2d_grad_s16_t *p, const int16_t *g, const int16_t *x, int32_t width) {
    int32_t sum = 0;
    for (int32_t oy = 0; oy < p->out_h; ++oy, x += p->stride_h * width) {
        const int16_t *in = x;
        const int16_t *const end = g + p->out_w;
        if (p->stride_w == 1) {
            for (const int16_t *const pairs = g + (p->out_w & ~1); g != pairs; g += 2, in += 2) {
                sum = tlc_mac_pair(sum, in, tlc_pair(g));
            }
        }
        for (; g != end; ++g, in += p->stride_w) {
            sum = tlc_mac_one(sum, *in, *g);
        }
    }
    return sum;
}

static inline __attribute__((always_inline)) void taps_gradients(const tlc_conv2d_grad_s16_t *p, const int8_t *x,
                                                                 const tlc_grad_t *dy, tlc_grad_t *dw, void *scratch,
                                                                 tlc_writer_t w) {
    const int32_t positions = p->out_h * p->out_w, share = p->out_c / p->in_c;
    const int32_t height = (p->out_h - 1) * p->stride_h + (p->kernel_h - 1) * p->dilation_h + 1;
    const int32_t width = (p->out_w - 1) * p->stride_w + (p->kernel_w - 1) * p->dilation_w + 1;
    int16_t *const gradients = scratch, *const plane = gradients + positions;
    uint32_t at = 0;
    for (int32_t o = p->out_first; o < p->out_first + p->outs; ++o) {
        if (o % share == 0 || o == p->out_first) {
            spread(p, x + o / share, height, width, plane);
        }
        const int16_t *from = tlc_grad_const_values(dy) + o;
        for (int32_t i = 0; i < positions; ++i, from += p->out_c) {
            gradients[i] = (int16_t)tlc_odd(*from, p->headroom);
        }
        for (int32_t ky = 0; ky < p->kernel_h; ++ky) {
            for (int32_t kx = 0; kx < p->kernel_w; ++kx) {
                const int16_t *const seen = plane + ky * p->dilation_h * width + kx * p->dilation_w;
                tlc_writer_put(&w, at++, tap_gradient(p, gradients, seen, width));
            }
        }
    }
    tlc_writer_end(&w, dw);
}

void tlc_depthwise_conv2d_weight_grad_s16(const tlc_conv2d_grad_s16_t *p, const int8_t *x, const tlc_grad_t *dy,
                                          tlc_grad_t *dw, void *scratch) {
    taps_gradients(p, x, dy, dw, scratch, tlc_writer(dw, tlc_grad_times(dy->scale, p->headroom), 1));
}

void tlc_depthwise_conv2d_weight_static_grad_s16(const tlc_conv2d_grad_s16_t *p, const int8_t *x, const tlc_grad_t *dy,
                                                 tlc_grad_t *dw, void *scratch) {
    const uint32_t scale = tlc_grad_times(dy->scale, p->headroom);
    taps_gradients(p, x, dy, dw, scratch, tlc_writer_static(dw, scale, 0, p->written, 0));
}
