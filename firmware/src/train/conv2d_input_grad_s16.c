/* SPDX-License-Identifier: Apache-2.0
 *
 * Four input channels at a time: their weights are spread out as int16 in a panel, for each tap all output channels.
 * Then the gradient of a position is a dot product over output channels for each tap that sees it.
 */
#include "odd.h"
#include "panel.h"
#include "seen_s16.h"

typedef struct {
    const tlc_conv2d_grad_s16_t *p;
    const int16_t *panel; /* (kernel_h * kernel_w, pairs, 4, 2) */
    const int16_t *dy;    /* from the group's first channel */
    uint32_t pairs;       /* of output channels */
} block_t;

/* The weights of channels [c, c + count) of every output channel of a group. */
static void fill(const tlc_conv2d_grad_s16_t *p, tlc_rows_t *w, int32_t c, int32_t count, int16_t *panel) {
    const int32_t taps = p->kernel_h * p->kernel_w, depth = p->in_c / p->groups, outputs = p->out_c / p->groups;
    const uint32_t tap_step = 8u * (uint32_t)((outputs + 1) / 2);
    int32_t o = 0;
    if (count == 4 && tlc_rows_are_raw(w)) { /* two at a time */
        for (; o + 2 <= outputs; o += 2, panel += 8) {
            const int8_t *first = tlc_rows_next(w) + c;
            const int8_t *second = tlc_rows_next(w) + c;
            int16_t *to = panel;
            for (int32_t tap = 0; tap < taps; ++tap, first += depth, second += depth, to += tap_step) {
                tlc_panel_turn(first, second, to);
            }
        }
        panel -= 4 * o;
    }
    for (; o < outputs; ++o) {
        const int8_t *row = tlc_rows_next(w) + c;
        int16_t *to = panel + tlc_panel_at((uint32_t)o, 0);
        for (int32_t tap = 0; tap < taps; ++tap, row += depth, to += tap_step) {
            for (int32_t r = 0; r < 4; ++r) {
                to[2 * r] = r < count ? row[r] : 0;
            }
        }
    }
    if (outputs % 2 != 0) {
        int16_t *to = panel + tlc_panel_at((uint32_t)outputs, 0);
        for (int32_t tap = 0; tap < taps; ++tap, to += tap_step) {
            to[0] = to[2] = to[4] = to[6] = 0;
        }
    }
}

/* One row of taps: the output at `dy` sees the position through tap kx of it. */
static inline void add_row(const block_t *b, int32_t ix, const int16_t *panel, const int16_t *dy,
                           tlc_panel_sum_t *sum) {
    const tlc_conv2d_grad_s16_t *p = b->p;
    for (int32_t kx = 0; kx < p->kernel_w; ++kx, panel += 8u * b->pairs) {
        const int32_t ox = tlc_seer(ix, kx, p->pad_left, p->stride_w, p->dilation_w, p->out_w);
        if (ox >= 0) {
            tlc_panel(panel, dy + ox * p->out_c, b->pairs, sum);
        }
    }
}

static tlc_panel_sum_t position(const block_t *b, int32_t iy, int32_t ix) {
    const tlc_conv2d_grad_s16_t *p = b->p;
    tlc_panel_sum_t sum = {0, 0, 0, 0};
    const int16_t *panel = b->panel;
    for (int32_t ky = 0; ky < p->kernel_h; ++ky, panel += 8u * b->pairs * (uint32_t)p->kernel_w) {
        const int32_t oy = tlc_seer(iy, ky, p->pad_top, p->stride_h, p->dilation_h, p->out_h);
        if (oy >= 0) {
            add_row(b, ix, panel, b->dy + oy * p->out_w * p->out_c, &sum);
        }
    }
    return sum;
}

/* Values at, at + 1, ... of `count` channels from `channel`; all before this position, and of the channels before it
 * all positions, are written. */
static __attribute__((noinline)) void put(const tlc_conv2d_grad_s16_t *p, tlc_writer_t *w, uint32_t pixel,
                                          int32_t channel, int32_t count, const tlc_panel_sum_t *sum) {
    const uint32_t in_c = (uint32_t)p->in_c, at = pixel * in_c + (uint32_t)channel;
    const int32_t values[4] = {sum->p0, sum->p1, sum->p2, sum->p3};
    int32_t sums[4];
    uint32_t magnitude = 0;
    for (int32_t r = 0; r < count; ++r) {
        sums[r] = tlc_writer_sum(w, at + (uint32_t)r, values[r]);
        magnitude |= tlc_magnitude(sums[r]);
    }
    if (tlc_writer_full(w, magnitude)) {
        const int32_t more = tlc_writer_grow(w, magnitude);
        tlc_odd_shift(w->q, (uint32_t)(p->in_h * p->in_w), in_c, (uint32_t)channel, more);
        tlc_odd_shift(w->q + channel, pixel, in_c, (uint32_t)count, more);
    }
    for (int32_t r = 0; r < count; ++r) {
        w->q[at + (uint32_t)r] = (int16_t)tlc_odd(sums[r], w->shift);
    }
}

/* The same of a static scale. */
static inline void store(const tlc_conv2d_grad_s16_t *p, const tlc_writer_t *w, uint32_t pixel, int32_t channel,
                         int32_t count, const tlc_panel_sum_t *sum) {
    const uint32_t at = pixel * (uint32_t)p->in_c + (uint32_t)channel;
    const int32_t values[4] = {sum->p0, sum->p1, sum->p2, sum->p3};
    for (int32_t r = 0; r < count; ++r) {
        tlc_writer_store(w, at + (uint32_t)r, values[r]);
    }
}

/* The same for four channels where nothing is added to. */
static inline __attribute__((always_inline)) void put_4(const tlc_conv2d_grad_s16_t *p, tlc_writer_t *w, uint32_t pixel,
                                                        int32_t channel, int16_t *to, int32_t *total,
                                                        const tlc_panel_sum_t *sum, const int is_static) {
    if (is_static) {
        const int32_t written = *total;
        to[0] = tlc_near_s16(sum->p0, written);
        to[1] = tlc_near_s16(sum->p1, written);
        to[2] = tlc_near_s16(sum->p2, written);
        to[3] = tlc_near_s16(sum->p3, written);
        return;
    }
    const uint32_t magnitude =
        tlc_magnitude(sum->p0) | tlc_magnitude(sum->p1) | tlc_magnitude(sum->p2) | tlc_magnitude(sum->p3);
    if (tlc_is_over(magnitude, *total, TLC_GRAD_BITS)) {
        put(p, w, pixel, channel, 4, sum);
        *total = tlc_writer_total(w);
        return;
    }
    const int32_t shift = *total;
    to[0] = (int16_t)tlc_odd(sum->p0, shift);
    to[1] = (int16_t)tlc_odd(sum->p1, shift);
    to[2] = (int16_t)tlc_odd(sum->p2, shift);
    to[3] = (int16_t)tlc_odd(sum->p3, shift);
}

/* Four channels of all positions, which all see one output each. */
static inline __attribute__((always_inline)) void pointwise(const block_t *b, tlc_writer_t *w, int32_t channel,
                                                            const int is_static) {
    const tlc_conv2d_grad_s16_t *p = b->p;
    const int16_t *g = b->dy;
    const uint32_t pixels = (uint32_t)(p->in_h * p->in_w), pairs = b->pairs;
    const int32_t step = p->out_c, to_step = p->in_c;
    int16_t *to = w->q + channel;
    int32_t total = is_static ? w->written : tlc_writer_total(w);
    for (uint32_t i = 0; i < pixels; ++i, g += step, to += to_step) {
        tlc_panel_sum_t sum = {0, 0, 0, 0};
        tlc_panel(b->panel, g, pairs, &sum);
        put_4(p, w, i, channel, to, &total, &sum, is_static);
    }
}

/* The same where windows have more than one tap. */
static inline __attribute__((always_inline)) void windows(const block_t *b, tlc_writer_t *w, int32_t channel,
                                                          const int is_static) {
    const tlc_conv2d_grad_s16_t *p = b->p;
    int16_t *to = w->q + channel;
    int32_t total = is_static ? w->written : tlc_writer_total(w);
    uint32_t pixel = 0;
    for (int32_t iy = 0; iy < p->in_h; ++iy) {
        for (int32_t ix = 0; ix < p->in_w; ++ix, ++pixel, to += p->in_c) {
            const tlc_panel_sum_t sum = position(b, iy, ix);
            put_4(p, w, pixel, channel, to, &total, &sum, is_static);
        }
    }
}

static inline __attribute__((always_inline)) void input_grad(const tlc_conv2d_grad_s16_t *p, tlc_rows_t *w,
                                                             const tlc_grad_t *dy, tlc_grad_t *dx, void *scratch,
                                                             tlc_writer_t writer, const int is_static) {
    const int32_t depth = p->in_c / p->groups, outputs = p->out_c / p->groups, pixels = p->in_h * p->in_w;
    const int is_pointwise =
        p->kernel_h * p->kernel_w == 1 && p->stride_h * p->stride_w == 1 && pixels == p->out_h * p->out_w;
    for (int32_t group = 0; group < p->groups; ++group) {
        const block_t b = {p, scratch, tlc_grad_const_values(dy) + group * outputs, (uint32_t)(outputs + 1) / 2};
        tlc_rows_t after = *w;
        for (int32_t c = 0; c < depth; c += 4) {
            const int32_t count = depth - c < 4 ? depth - c : 4, channel = group * depth + c;
            after = *w;
            fill(p, &after, c, count, scratch);
            if (!writer.adds && count == 4) {
                if (is_pointwise) {
                    pointwise(&b, &writer, channel, is_static);
                } else {
                    windows(&b, &writer, channel, is_static);
                }
                continue;
            }
            if (is_pointwise) {
                const int16_t *g = b.dy;
                for (int32_t i = 0; i < pixels; ++i, g += p->out_c) {
                    tlc_panel_sum_t sum = {0, 0, 0, 0};
                    tlc_panel(b.panel, g, b.pairs, &sum);
                    if (is_static) {
                        store(p, &writer, (uint32_t)i, channel, count, &sum);
                    } else {
                        put(p, &writer, (uint32_t)i, channel, count, &sum);
                    }
                }
                continue;
            }
            uint32_t pixel = 0;
            for (int32_t iy = 0; iy < p->in_h; ++iy) {
                for (int32_t ix = 0; ix < p->in_w; ++ix) {
                    const tlc_panel_sum_t sum = position(&b, iy, ix);
                    if (is_static) {
                        store(p, &writer, pixel++, channel, count, &sum);
                    } else {
                        put(p, &writer, pixel++, channel, count, &sum);
                    }
                }
            }
        }
        *w = after;
    }
    tlc_writer_end(&writer, dx);
}

void tlc_conv2d_input_grad_s16(const tlc_conv2d_grad_s16_t *p, tlc_rows_t *w, const tlc_grad_t *dy, tlc_grad_t *dx,
                               void *scratch) {
    input_grad(p, w, dy, dx, scratch, tlc_writer(dx, dy->scale, p->add), 0);
}

void tlc_conv2d_input_static_grad_s16(const tlc_conv2d_grad_s16_t *p, tlc_rows_t *w, const tlc_grad_t *dy,
                                      tlc_grad_t *dx, void *scratch) {
    input_grad(p, w, dy, dx, scratch, tlc_writer_static(dx, dy->scale, p->add, p->written, p->kept), 1);
}
