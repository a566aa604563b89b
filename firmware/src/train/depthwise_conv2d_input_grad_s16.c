/* SPDX-License-Identifier: Apache-2.0
 *
 * One channel at a time: its gradient is spread out in a plane, at the distance of the strides and with zeros around,
 * and its taps are turned round beside it. Then every input's gradient is one window.
 */
#include <string.h>

#include "../kernels/pair.h"
#include "odd.h"

typedef struct {
    int32_t height, width, columns; /* of the plane; taps of a row, up to an even number */
} plane_size_t;

/* dy from its channel -> plane. */
static void spread(const tlc_conv2d_grad_s16_t *p, const int16_t *dy, const plane_size_t *size, int16_t *plane) {
    const int32_t top = (p->kernel_h - 1) * p->dilation_h - p->pad_top;
    const int32_t left = (p->kernel_w - 1) * p->dilation_w - p->pad_left;
    memset(plane, 0, (uint32_t)(size->height * size->width) * sizeof *plane);
    for (int32_t oy = 0; oy < p->out_h; ++oy) {
        const int32_t r = top + oy * p->stride_h;
        if (r < 0 || r >= size->height) {
            continue;
        }
        const int16_t *from = dy + oy * p->out_w * p->out_c;
        int16_t *const row = plane + r * size->width;
        for (int32_t c = left, ox = 0; ox < p->out_w; ++ox, c += p->stride_w, from += p->out_c) {
            if (c >= 0 && c < size->width) {
                row[c] = *from;
            }
        }
    }
}

static inline __attribute__((always_inline)) int32_t window(const tlc_conv2d_grad_s16_t *p, const int16_t *in,
                                                            int32_t width, const int16_t *taps, int32_t columns) {
    int32_t sum = 0;
    for (int32_t i = p->kernel_h; i > 0; --i, in += p->dilation_h * width, taps += columns) {
        if (p->dilation_w != 1) {
            for (int32_t j = 0; j < p->kernel_w; ++j) {
                sum = tlc_mac_one(sum, in[j * p->dilation_w], taps[j]);
            }
            continue;
        }
        for (int32_t j = 0; j + 2 <= p->kernel_w; j += 2) {
            sum = tlc_mac_pair(sum, in + j, tlc_pair(taps + j));
        }
        if (p->kernel_w % 2 != 0) {
            sum = tlc_mac_one(sum, in[p->kernel_w - 1], taps[p->kernel_w - 1]);
        }
    }
    return sum;
}

/* 3x3 without dilation, as nearly always: the taps stay in registers. */
static inline int32_t window_3x3(const int16_t *in, int32_t width, tlc_pair_t a, tlc_pair_t b, tlc_pair_t c, int32_t a2,
                                 int32_t b2, int32_t c2) {
    int32_t sum = tlc_mac_one(tlc_mac_pair(0, in, a), in[2], a2);
    in += width;
    sum = tlc_mac_one(tlc_mac_pair(sum, in, b), in[2], b2);
    in += width;
    return tlc_mac_one(tlc_mac_pair(sum, in, c), in[2], c2);
}

static void put(const tlc_conv2d_grad_s16_t *p, tlc_writer_t *w, uint32_t pixel, int32_t channel, int32_t value) {
    const uint32_t in_c = (uint32_t)p->in_c, at = pixel * in_c + (uint32_t)channel;
    const int32_t sum = tlc_writer_sum(w, at, value);
    const uint32_t magnitude = tlc_magnitude(sum);
    if (tlc_writer_full(w, magnitude)) { /* written: the channels before, and the pixels before of this one */
        const int32_t more = tlc_writer_grow(w, magnitude);
        tlc_odd_shift(w->q, (uint32_t)(p->in_h * p->in_w), in_c, (uint32_t)channel, more);
        tlc_odd_shift(w->q + channel, pixel, in_c, 1, more);
    }
    w->q[at] = (int16_t)tlc_odd(sum, w->shift);
}

/* No dilation, and a width that the compiler knows. */
static inline __attribute__((always_inline)) int32_t window_wide(const int16_t *in, int32_t width, const int16_t *taps,
                                                                 const int16_t *end, const int32_t kernel_w) {
    int32_t sum = 0;
    for (; taps != end; taps += kernel_w + (kernel_w & 1), in += width) {
#pragma GCC unroll 4
        for (int32_t j = 0; j < (kernel_w & ~1); j += 2) {
            sum = tlc_mac_pair(sum, in + j, tlc_pair(taps + j));
        }
        if (kernel_w & 1) {
            sum = tlc_mac_one(sum, in[kernel_w - 1], taps[kernel_w - 1]);
        }
    }
    return sum;
}

/* One pixel where nothing is added to. */
static inline __attribute__((always_inline)) void put_fresh(const tlc_conv2d_grad_s16_t *p, tlc_writer_t *w,
                                                            uint32_t pixel, int32_t channel, int16_t *to,
                                                            int32_t *total, int32_t value, const int is_static) {
    if (is_static) {
        *to = tlc_near_s16(value, *total);
        return;
    }
    if (tlc_is_over(tlc_magnitude(value), *total, TLC_GRAD_BITS)) {
        put(p, w, pixel, channel, value);
        *total = tlc_writer_total(w);
        return;
    }
    *to = (int16_t)tlc_odd(value, *total);
}

/* All pixels of a channel where nothing is added to; `kernel_w`: 0 for a window of any kind. */
static inline __attribute__((always_inline)) void windows_fresh(const tlc_conv2d_grad_s16_t *p, const int16_t *plane,
                                                                const plane_size_t *size, const int16_t *taps,
                                                                tlc_writer_t *w, int32_t channel,
                                                                const int32_t kernel_w, const int is_static) {
    const int16_t *const end = taps + p->kernel_h * size->columns;
    const int32_t width = size->width, step = p->in_c, gap = width - p->in_w;
    int16_t *to = w->q + channel;
    int32_t total = is_static ? w->written : tlc_writer_total(w);
    const uint32_t in_w = (uint32_t)p->in_w, pixels = (uint32_t)p->in_h * in_w;
    for (uint32_t row = 0; row < pixels; row += in_w, plane += gap) {
        for (uint32_t pixel = row; pixel < row + in_w; ++pixel, ++plane, to += step) {
            const int32_t value = kernel_w != 0 ? window_wide(plane, width, taps, end, kernel_w)
                                                : window(p, plane, width, taps, size->columns);
            put_fresh(p, w, pixel, channel, to, &total, value, is_static);
        }
    }
}

/* 3x3 without dilation. */
static inline __attribute__((always_inline)) void windows_3x3(const tlc_conv2d_grad_s16_t *p, const int16_t *plane,
                                                              int32_t width, const int16_t *taps, tlc_writer_t *w,
                                                              int32_t channel, const int is_static) {
    const tlc_pair_t a = tlc_pair(taps), b = tlc_pair(taps + 4), c = tlc_pair(taps + 8);
    const int32_t a2 = taps[2], b2 = taps[6], c2 = taps[10], step = p->in_c, gap = width - p->in_w;
    int16_t *to = w->q + channel;
    int32_t total = is_static ? w->written : tlc_writer_total(w);
    const uint32_t in_w = (uint32_t)p->in_w, pixels = (uint32_t)p->in_h * in_w;
    for (uint32_t row = 0; row < pixels; row += in_w, plane += gap) {
        for (uint32_t pixel = row; pixel < row + in_w; ++pixel, ++plane, to += step) {
            const int32_t value = window_3x3(plane, width, a, b, c, a2, b2, c2);
            put_fresh(p, w, pixel, channel, to, &total, value, is_static);
        }
    }
}

static inline __attribute__((always_inline)) void write_windows(const tlc_conv2d_grad_s16_t *p, const int16_t *plane,
                                                                const plane_size_t *size, const int16_t *taps,
                                                                tlc_writer_t *w, int32_t channel, const int is_static) {
    switch (p->dilation_h == 1 && p->dilation_w == 1 ? p->kernel_w : 0) {
    case 3:
        if (p->kernel_h == 3) {
            windows_3x3(p, plane, size->width, taps, w, channel, is_static);
        } else {
            windows_fresh(p, plane, size, taps, w, channel, 3, is_static);
        }
        break;
    case 5:
        windows_fresh(p, plane, size, taps, w, channel, 5, is_static);
        break;
    case 7:
        windows_fresh(p, plane, size, taps, w, channel, 7, is_static);
        break;
    default:
        windows_fresh(p, plane, size, taps, w, channel, 0, is_static);
        break;
    }
}

/* All pixels of a channel: to `sums`, added, or where that is NULL written. */
static void windows(const tlc_conv2d_grad_s16_t *p, const int16_t *plane, const plane_size_t *size, const int16_t *taps,
                    int32_t *sums, tlc_writer_t *w, int32_t channel) {
    uint32_t pixel = 0;
    for (int32_t iy = 0; iy < p->in_h; ++iy) {
        const int16_t *in = plane + iy * size->width;
        for (int32_t ix = 0; ix < p->in_w; ++ix, ++in, ++pixel) {
            const int32_t value = window(p, in, size->width, taps, size->columns);
            if (sums != NULL) {
                sums[pixel] += value;
            } else if (w->is_static) {
                tlc_writer_store(w, pixel * (uint32_t)p->in_c + (uint32_t)channel, value);
            } else {
                put(p, w, pixel, channel, value);
            }
        }
    }
}

static inline __attribute__((always_inline)) void input_grad(const tlc_conv2d_grad_s16_t *p, tlc_rows_t *w,
                                                             const tlc_grad_t *dy, tlc_grad_t *dx, void *scratch,
                                                             tlc_writer_t writer, const int is_static) {
    const int32_t share = p->out_c / p->in_c, pixels = p->in_h * p->in_w;
    const plane_size_t size = {p->in_h + (p->kernel_h - 1) * p->dilation_h, p->in_w + (p->kernel_w - 1) * p->dilation_w,
                               p->kernel_w + (p->kernel_w & 1)};
    int32_t *const sums = share > 1 ? scratch : NULL;
    int16_t *const taps = (int16_t *)((int32_t *)scratch + (share > 1 ? pixels : 0));
    int16_t *const plane = taps + p->kernel_h * size.columns;
    for (int32_t channel = 0; channel < p->in_c; ++channel) {
        if (sums != NULL) {
            memset(sums, 0, (uint32_t)pixels * sizeof *sums);
        }
        for (int32_t m = 0; m < share; ++m) {
            const int8_t *row = tlc_rows_next(w);
            for (int32_t i = p->kernel_h - 1; i >= 0; --i) {
                for (int32_t j = p->kernel_w - 1; j >= 0; --j) {
                    taps[i * size.columns + j] = *row++;
                }
            }
            spread(p, tlc_grad_const_values(dy) + channel * share + m, &size, plane);
            if (sums == NULL && !writer.adds) {
                write_windows(p, plane, &size, taps, &writer, channel, is_static);
            } else {
                windows(p, plane, &size, taps, sums, &writer, channel);
            }
        }
        for (int32_t i = 0; sums != NULL && i < pixels; ++i) {
            if (is_static) {
                tlc_writer_store(&writer, (uint32_t)(i * p->in_c + channel), sums[i]);
            } else {
                put(p, &writer, (uint32_t)i, channel, sums[i]);
            }
        }
    }
    tlc_writer_end(&writer, dx);
}

void tlc_depthwise_conv2d_input_grad_s16(const tlc_conv2d_grad_s16_t *p, tlc_rows_t *w, const tlc_grad_t *dy,
                                         tlc_grad_t *dx, void *scratch) {
    input_grad(p, w, dy, dx, scratch, tlc_writer(dx, dy->scale, p->add), 0);
}

void tlc_depthwise_conv2d_input_static_grad_s16(const tlc_conv2d_grad_s16_t *p, tlc_rows_t *w, const tlc_grad_t *dy,
                                                tlc_grad_t *dx, void *scratch) {
    input_grad(p, w, dy, dx, scratch, tlc_writer_static(dx, dy->scale, p->add, p->written, p->kept), 1);
}

void tlc_depthwise_conv2d_in_place_grad_s16(const tlc_conv2d_grad_s16_t *p, tlc_rows_t *w, tlc_grad_t *dy,
                                            tlc_grad_t *dx, void *scratch) {
    tlc_depthwise_conv2d_input_grad_s16(p, w, dy, dx, scratch);
}

void tlc_depthwise_conv2d_in_place_static_grad_s16(const tlc_conv2d_grad_s16_t *p, tlc_rows_t *w, tlc_grad_t *dy,
                                                   tlc_grad_t *dx, void *scratch) {
    tlc_depthwise_conv2d_input_static_grad_s16(p, w, dy, dx, scratch);
}
