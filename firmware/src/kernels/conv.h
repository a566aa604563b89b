/* SPDX-License-Identifier: Apache-2.0
 *
 * conv.h: the walk over the outputs of a convolution, one output channel at a time. Internal to the kernels.
 *
 * The image is cut into rectangles whose outputs see the same taps: one inside, and the thin ones of the border. In a
 * rectangle, four neighbours (in a row, else in a column) are computed at a time, so that they share the weights.
 */
#ifndef TLC_KERNELS_CONV_H
#define TLC_KERNELS_CONV_H

#include "dot.h"
#include "tlc/kernels.h"
#include "tlc/requant.h"
#include "window.h"

/* The taps of a window along one axis, and how far apart they lie in x and in the weights. */
typedef struct {
    int32_t count, x_step, w_step;
} tlc_axis_t;

/* What every output of a rectangle sees. */
typedef struct {
    const int8_t *w;
    tlc_axis_t row, col;
    int32_t depth; /* neighbouring input channels at each tap */
} tlc_window_t;

/* acc + the products of one window; x is the input at its first tap. */
typedef int32_t tlc_one_t(const tlc_window_t *v, const int8_t *x, int32_t acc);
/* The same for four windows, `step` apart; `is_row` where they lie in a row. */
typedef void tlc_four_t(const tlc_window_t *v, const int8_t *x, int32_t step, int is_row, tlc_sum4_t *acc);

typedef struct {
    const tlc_conv2d_t *p;
    const int8_t *w; /* (kernel_h, kernel_w, depth) */
    const int8_t *x; /* (in_h, in_w, in_c), from the first channel that it reads */
    int8_t *y;       /* (out_h, out_w, out_c), from this channel */
    int32_t depth;   /* input channels that it reads */
    int32_t bias, mult, shift;
} tlc_channel_t;

static inline void tlc_conv_put(const tlc_channel_t *c, int8_t *y, int32_t acc) {
    *y = tlc_clamp_s8(tlc_requant(acc, c->mult, c->shift) + c->p->out_zp, c->p->act_min, c->p->act_max);
}

static inline void tlc_conv_put4(const tlc_channel_t *c, int8_t *y, int32_t step, const tlc_sum4_t *acc) {
    tlc_conv_put(c, y, acc->p0);
    tlc_conv_put(c, y + step, acc->p1);
    tlc_conv_put(c, y + 2 * step, acc->p2);
    tlc_conv_put(c, y + 3 * step, acc->p3);
}

/* Taps outside read in_zp; the bias holds -in_zp * w for every tap, so theirs is added back. */
static inline int32_t tlc_conv_outside(const tlc_channel_t *c, tlc_taps_t ky, tlc_taps_t kx) {
    const tlc_conv2d_t *p = c->p;
    int32_t sum = 0;
    if (p->in_zp == 0) {
        return 0;
    }
    const int8_t *w = c->w;
    for (int32_t i = 0; i < p->kernel_h; ++i) {
        for (int32_t j = 0; j < p->kernel_w; ++j, w += c->depth) {
            if (i >= ky.first && i < ky.last && j >= kx.first && j < kx.last) {
                continue;
            }
            for (int32_t k = 0; k < c->depth; ++k) {
                sum += w[k];
            }
        }
    }
    return sum * p->in_zp;
}

/* The outputs of rows oy and columns ox, which all see the taps that the first one sees. */
static inline void tlc_conv_rectangle(const tlc_channel_t *c, tlc_taps_t oy, tlc_taps_t ox, tlc_one_t *one,
                                      tlc_four_t *four) {
    const tlc_conv2d_t *p = c->p;
    if (oy.first == oy.last || ox.first == ox.last) {
        return;
    }
    const int32_t top = oy.first * p->stride_h - p->pad_top, left = ox.first * p->stride_w - p->pad_left;
    const tlc_taps_t ky = tlc_taps_inside(top, p->kernel_h, p->dilation_h, p->in_h);
    const tlc_taps_t kx = tlc_taps_inside(left, p->kernel_w, p->dilation_w, p->in_w);
    const int32_t base = tlc_wrap_add(c->bias, ky.last - ky.first < p->kernel_h || kx.last - kx.first < p->kernel_w
                                                   ? tlc_conv_outside(c, ky, kx)
                                                   : 0);
    const int32_t x_row = p->in_w * p->in_c, y_row = p->out_w * p->out_c;
    tlc_window_t v = {
        .w = c->w,
        .row = {ky.last - ky.first, p->dilation_h * x_row, p->kernel_w * c->depth},
        .col = {kx.last - kx.first, p->dilation_w * p->in_c, c->depth},
        .depth = c->depth,
    };
    const int8_t *x = c->x;
    if (v.row.count > 0 && v.col.count > 0) { /* else it reads nothing, and would begin beyond the image */
        v.w += (ky.first * p->kernel_w + kx.first) * c->depth;
        x += (top + ky.first * p->dilation_h) * x_row + (left + kx.first * p->dilation_w) * p->in_c;
    }
    int8_t *y = c->y + oy.first * y_row + ox.first * p->out_c;
    const int32_t down = p->stride_h * x_row, right = p->stride_w * p->in_c;
    const int32_t height = oy.last - oy.first, width = ox.last - ox.first, quads = width & ~3;
    for (int32_t i = 0; i < height; ++i) {
        for (int32_t j = 0; j < quads; j += 4) {
            tlc_sum4_t acc = {base, base, base, base};
            four(&v, x + i * down + j * right, right, 1, &acc);
            tlc_conv_put4(c, y + i * y_row + j * p->out_c, p->out_c, &acc);
        }
    }
    for (int32_t j = quads; j < width; ++j) {
        int32_t i = 0;
        for (; i + 4 <= height; i += 4) {
            tlc_sum4_t acc = {base, base, base, base};
            four(&v, x + i * down + j * right, down, 0, &acc);
            tlc_conv_put4(c, y + i * y_row + j * p->out_c, y_row, &acc);
        }
        for (; i < height; ++i) {
            tlc_conv_put(c, y + i * y_row + j * p->out_c, one(&v, x + i * down + j * right, base));
        }
    }
}

/* All outputs of a channel; `whole` are the rows and columns whose windows lie inside. */
static inline void tlc_conv_channel(const tlc_channel_t *c, tlc_taps_t whole_y, tlc_taps_t whole_x, tlc_one_t *one,
                                    tlc_four_t *four) {
    for (int32_t y = 0; y < c->p->out_h;) {
        const tlc_taps_t oy = {y, y == whole_y.first && whole_y.last > y ? whole_y.last : y + 1};
        for (int32_t x = 0; x < c->p->out_w;) {
            const tlc_taps_t ox = {x, x == whole_x.first && whole_x.last > x ? whole_x.last : x + 1};
            tlc_conv_rectangle(c, oy, ox, one, four);
            x = ox.last;
        }
        y = oy.last;
    }
}

/* All channels; `depth` input channels a tap, `share` output channels to each input channel or group. */
static inline void tlc_conv(const tlc_conv2d_t *p, const int8_t *x, tlc_rows_t *w, const int32_t *bias, int8_t *y,
                            tlc_one_t *one, tlc_four_t *four) {
    const int32_t depth = p->in_c / p->groups, share = p->out_c / p->groups;
    const tlc_taps_t whole_y =
        tlc_positions_inside(p->pad_top, p->stride_h, (p->kernel_h - 1) * p->dilation_h + 1, p->in_h, p->out_h);
    const tlc_taps_t whole_x =
        tlc_positions_inside(p->pad_left, p->stride_w, (p->kernel_w - 1) * p->dilation_w + 1, p->in_w, p->out_w);
    for (int32_t o = 0; o < p->out_c; ++o) {
        const int32_t channel = p->per_channel ? o : 0;
        const tlc_channel_t c = {
            .p = p,
            .w = tlc_rows_next(w),
            .x = x + o / share * depth,
            .y = y + o,
            .depth = depth,
            .bias = bias[o],
            .mult = p->mult[channel],
            .shift = p->shift[channel],
        };
        tlc_conv_channel(&c, whole_y, whole_x, one, four);
    }
}

#endif /* TLC_KERNELS_CONV_H */
