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
    int32_t depth; /* input channels at each tap; `joins`: of a whole row of taps, where they are neighbours */
} tlc_window_t;

/* acc + the products of one window; x is the input at its first tap. */
typedef int32_t tlc_one_t(const tlc_window_t *v, const int8_t *x, int32_t acc);
/* The same for four windows, `step` apart; `is_row` where they lie in a row. */
typedef void tlc_four_t(const tlc_window_t *v, const int8_t *x, int32_t step, int is_row, tlc_sum4_t *acc);

/* From accumulators to outputs. A copy of its own: a store of an int8_t might otherwise change it, for all that the
 * compiler knows, and it would be loaded again for each output. */
typedef struct {
    int32_t mult, shift, zp, low, high;
} tlc_output_t;

static inline int8_t tlc_output(const tlc_output_t *o, int32_t acc) {
    return tlc_clamp_s8(tlc_requant(acc, o->mult, o->shift) + o->zp, o->low, o->high);
}

/* Where the multiplier is below one half, as nearly always. */
static inline int32_t tlc_output_down(tlc_output_t o, uint32_t acc) {
    return tlc_requant_add((int32_t)acc, o.mult, -o.shift, o.zp);
}

static inline void tlc_output4(const tlc_output_t *o, const tlc_sum4_t *acc, int8_t *y, int32_t step) {
    if (o->shift < 0) {
        const int32_t y0 = tlc_output_down(*o, acc->p0), y1 = tlc_output_down(*o, acc->p1);
        const int32_t y2 = tlc_output_down(*o, acc->p2), y3 = tlc_output_down(*o, acc->p3);
        if (o->low == INT8_MIN && o->high == INT8_MAX) {
            y[0] = tlc_saturate_s8(y0), y[step] = tlc_saturate_s8(y1);
            y[2 * step] = tlc_saturate_s8(y2), y[3 * step] = tlc_saturate_s8(y3);
            return;
        }
        y[0] = tlc_clamp_s8(y0, o->low, o->high), y[step] = tlc_clamp_s8(y1, o->low, o->high);
        y[2 * step] = tlc_clamp_s8(y2, o->low, o->high), y[3 * step] = tlc_clamp_s8(y3, o->low, o->high);
    } else {
        const uint32_t sums[4] = {acc->p0, acc->p1, acc->p2, acc->p3};
        for (int j = 0; j < 4; ++j) {
            y[j * step] = tlc_output(o, (int32_t)sums[j]);
        }
    }
}

typedef struct {
    const tlc_conv2d_t *p;
    const int8_t *w; /* (kernel_h, kernel_w, depth) */
    const int8_t *x; /* (in_h, in_w, in_c), from the first channel that it reads */
    int8_t *y;       /* (out_h, out_w, out_c), from this channel */
    int32_t depth;   /* input channels that it reads */
    int32_t bias;
    tlc_output_t output;
} tlc_channel_t;

/* Taps outside read in_zp; the bias holds -in_zp * w for every tap, so theirs is added back. */
static inline int32_t tlc_conv_outside(const tlc_channel_t *c, tlc_taps_t ky, tlc_taps_t kx) {
    const tlc_conv2d_t *p = c->p;
    const int32_t row = p->kernel_w * c->depth, left = kx.first * c->depth, right = (p->kernel_w - kx.last) * c->depth;
    int32_t sum = tlc_sum_s8(c->w, (uint32_t)(ky.first * row));
    const int8_t *w = c->w + ky.first * row;
    for (int32_t i = ky.first; i < ky.last; ++i, w += row) {
        sum += tlc_sum_s8(w, (uint32_t)left) + tlc_sum_s8(w + row - right, (uint32_t)right);
    }
    sum += tlc_sum_s8(w, (uint32_t)((p->kernel_h - ky.last) * row));
    return sum * p->in_zp;
}

/* The outputs of rows oy and columns ox, which all see the taps that the first one sees. */
static inline void tlc_conv_rectangle(const tlc_channel_t *c, tlc_taps_t oy, tlc_taps_t ox, tlc_one_t *one,
                                      tlc_four_t *four, int joins) {
    const tlc_conv2d_t *p = c->p;
    const tlc_output_t output = c->output;
    if (oy.first == oy.last || ox.first == ox.last) {
        return;
    }
    const int32_t top = oy.first * p->stride_h - p->pad_top, left = ox.first * p->stride_w - p->pad_left;
    const tlc_taps_t ky = tlc_taps_inside(top, p->kernel_h, p->dilation_h, p->in_h);
    const tlc_taps_t kx = tlc_taps_inside(left, p->kernel_w, p->dilation_w, p->in_w);
    const int is_clipped = ky.last - ky.first < p->kernel_h || kx.last - kx.first < p->kernel_w;
    const int32_t base = tlc_wrap_add(c->bias, is_clipped && p->in_zp != 0 ? tlc_conv_outside(c, ky, kx) : 0);
    const int32_t out_c = p->out_c, x_row = p->in_w * p->in_c, y_row = p->out_w * out_c;
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
    if (joins && v.col.x_step == c->depth) { /* neighbours in x and in the weights: one run of channels */
        v.depth *= v.col.count;
        v.col.count = 1;
    }
    const uint32_t start = (uint32_t)base;
    int8_t *y = c->y + oy.first * y_row + ox.first * out_c;
    const int32_t down = p->stride_h * x_row, right = p->stride_w * p->in_c;
    const int32_t height = oy.last - oy.first, width = ox.last - ox.first, quads = width & ~3;
    for (int32_t i = 0; i < height && quads > 0; ++i) {
        const int8_t *in = x + i * down;
        int8_t *out = y + i * y_row;
        for (int32_t j = 0; j < quads; j += 4, in += 4 * right, out += 4 * out_c) {
            tlc_sum4_t acc = {start, start, start, start};
            four(&v, in, right, 1, &acc);
            tlc_output4(&output, &acc, out, out_c);
        }
    }
    for (int32_t j = quads; j < width; ++j) {
        const int8_t *in = x + j * right;
        int8_t *out = y + j * out_c;
        int32_t i = height;
        for (; i > 2 && height >= 4; i -= 4, in += 4 * down, out += 4 * y_row) {
            if (i == 3) { /* three are left: again with the one above, for less than one by one */
                in -= down;
                out -= y_row;
            }
            tlc_sum4_t acc = {start, start, start, start};
            four(&v, in, down, 0, &acc);
            tlc_output4(&output, &acc, out, y_row);
        }
        for (; i > 0; --i, in += down, out += y_row) {
            *out = tlc_output(&output, one(&v, in, base));
        }
    }
}

/* All outputs of a channel; `whole` are the rows and columns whose windows lie inside. */
static inline void tlc_conv_channel(const tlc_channel_t *c, tlc_taps_t whole_y, tlc_taps_t whole_x, tlc_one_t *one,
                                    tlc_four_t *four, int joins) {
    for (int32_t y = 0; y < c->p->out_h;) {
        const tlc_taps_t oy = {y, y == whole_y.first && whole_y.last > y ? whole_y.last : y + 1};
        for (int32_t x = 0; x < c->p->out_w;) {
            const tlc_taps_t ox = {x, x == whole_x.first && whole_x.last > x ? whole_x.last : x + 1};
            tlc_conv_rectangle(c, oy, ox, one, four, joins);
            x = ox.last;
        }
        y = oy.last;
    }
}

/* All channels; `depth` input channels a tap, `share` output channels to each input channel or group. */
static inline void tlc_conv(const tlc_conv2d_t *p, const int8_t *x, tlc_rows_t *w, const int32_t *bias, int8_t *y,
                            tlc_one_t *one, tlc_four_t *four, int joins) {
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
            .output = {p->mult[channel], p->shift[channel], p->out_zp, p->act_min, p->act_max},
        };
        tlc_conv_channel(&c, whole_y, whole_x, one, four, joins);
    }
}

#endif /* TLC_KERNELS_CONV_H */
