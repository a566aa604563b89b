/* SPDX-License-Identifier: Apache-2.0
 *
 * One channel at a time: its pixels are spread out as int16 in a plane of their own, border included, and its taps
 * beside them. Then windows are runs of neighbours, nothing is clipped, and the output may lie over the input: what is
 * overwritten there has been read already.
 */
#include <stdbool.h>

#include "pair.h"
#include "tlc/kernels.h"
#include "tlc/requant.h"

typedef struct {
    int32_t mult, shift, zp, low, high;
    bool is_full; /* between -128 and 127 */
} output_t;

static inline int8_t finish(const output_t *o, int32_t acc) {
    const int32_t value =
        o->shift < 0 ? tlc_requant_add(acc, o->mult, -o->shift, o->zp) : tlc_requant(acc, o->mult, o->shift) + o->zp;
    return o->is_full ? tlc_saturate_s8(value) : tlc_clamp_s8(value, o->low, o->high);
}

typedef struct {
    int32_t height, width;
} plane_size_t;

/* What the windows of all outputs cover. */
static plane_size_t plane_size(const tlc_depthwise_conv2d_t *p) {
    return (plane_size_t){(p->out_h - 1) * p->stride_h + (p->kernel_h - 1) * p->dilation_h + 1,
                          (p->out_w - 1) * p->stride_w + (p->kernel_w - 1) * p->dilation_w + 1};
}

static int16_t *fill(int16_t *to, int32_t count, int16_t value) {
    for (int32_t i = 0; i < count; ++i) {
        *to++ = value;
    }
    return to;
}

/* x from its channel, (in_h, in_w) at a distance of in_c -> plane, with in_zp around. */
static void spread(const tlc_depthwise_conv2d_t *p, const int8_t *x, plane_size_t size, int16_t *plane) {
    const int16_t zp = (int16_t)p->in_zp;
    const int32_t rest = size.width - p->pad_left;
    const int32_t inside = p->in_w < rest ? p->in_w : rest > 0 ? rest : 0;
    for (int32_t row = 0; row < size.height; ++row) {
        const int32_t y = row - p->pad_top;
        if (y < 0 || y >= p->in_h) {
            plane = fill(plane, size.width, zp);
            continue;
        }
        const int32_t left = p->pad_left < size.width ? p->pad_left : size.width;
        plane = fill(plane, left, zp);
        const int8_t *from = x + y * p->in_w * p->in_c;
        for (int32_t i = 0; i < inside; ++i, from += p->in_c) {
            *plane++ = *from;
        }
        plane = fill(plane, size.width - left - inside, zp);
    }
}

/* 3x3, no dilation: the taps stay in registers. Only for outputs that are scaled down and lie between -128 and 127. */
static void windows_3x3(const tlc_depthwise_conv2d_t *p, const int16_t *plane, int32_t width, const int16_t *w,
                        int32_t bias, const output_t *output, int8_t *y) {
    const tlc_pair_t a = tlc_pair(w), b = tlc_pair(w + 3), c = tlc_pair(w + 6);
    const int32_t a2 = w[2], b2 = w[5], c2 = w[8];
    /* A store of an int8_t cannot change these copies. */
    const int32_t mult = output->mult, right = -output->shift, zp = output->zp;
    const int32_t step = p->stride_w, out_c = p->out_c;
    for (int32_t oy = 0; oy < p->out_h; ++oy) {
        const int16_t *x = plane + oy * p->stride_h * width;
        const int8_t *const end = y + p->out_w * out_c;
        for (; y != end; y += out_c, x += step) {
            int32_t acc = tlc_mac_pair(bias, x, a);
            acc = tlc_mac_one(acc, x[2], a2);
            acc = tlc_mac_pair(acc, x + width, b);
            acc = tlc_mac_one(acc, x[width + 2], b2);
            acc = tlc_mac_pair(acc, x + 2 * width, c);
            acc = tlc_mac_one(acc, x[2 * width + 2], c2);
            *y = tlc_saturate_s8(tlc_requant_add(acc, mult, right, zp));
        }
    }
}

/* Any height, no dilation. A width that the compiler knows is unrolled. */
static inline __attribute__((always_inline)) void windows_wide(const tlc_depthwise_conv2d_t *p, const int16_t *plane,
                                                               int32_t width, const int16_t *w, int32_t bias,
                                                               const output_t *output, int8_t *y, const int32_t taps) {
    const output_t o = *output; /* a store of an int8_t cannot change a copy */
    const int32_t step = p->stride_w, out_c = p->out_c;
    const int16_t *const end = w + p->kernel_h * taps;
    for (int32_t oy = 0; oy < p->out_h; ++oy) {
        const int16_t *x = plane + oy * p->stride_h * width;
        for (int32_t ox = p->out_w; ox > 0; --ox, x += step, y += out_c) {
            const int16_t *in = x;
            int32_t acc = bias;
            for (const int16_t *tap = w; tap != end; tap += taps, in += width) {
#pragma GCC unroll 8
                for (int32_t kx = 0; kx < (taps & ~1); kx += 2) {
                    acc = tlc_mac_pair(acc, in + kx, tlc_pair(tap + kx));
                }
                if (taps & 1) {
                    acc = tlc_mac_one(acc, in[taps - 1], tap[taps - 1]);
                }
            }
            *y = finish(&o, acc);
        }
    }
}

/* Anything. */
static void windows_dilated(const tlc_depthwise_conv2d_t *p, const int16_t *plane, int32_t width, const int16_t *w,
                            int32_t bias, const output_t *o, int8_t *y) {
    for (int32_t oy = 0; oy < p->out_h; ++oy) {
        const int16_t *x = plane + oy * p->stride_h * width;
        for (int32_t ox = 0; ox < p->out_w; ++ox, x += p->stride_w, y += p->out_c) {
            const int16_t *in = x, *tap = w;
            int32_t acc = bias;
            for (int32_t ky = 0; ky < p->kernel_h; ++ky, in += p->dilation_h * width) {
                for (int32_t kx = 0; kx < p->kernel_w; ++kx) {
                    acc = tlc_mac_one(acc, in[kx * p->dilation_w], *tap++);
                }
            }
            *y = finish(o, acc);
        }
    }
}

static void windows(const tlc_depthwise_conv2d_t *p, const int16_t *plane, int32_t width, const int16_t *w,
                    int32_t bias, const output_t *o, int8_t *y) {
    if (p->dilation_h != 1 || p->dilation_w != 1) {
        windows_dilated(p, plane, width, w, bias, o, y);
        return;
    }
    switch (p->kernel_w) {
    case 3:
        if (p->kernel_h == 3 && o->is_full && o->shift < 0) {
            windows_3x3(p, plane, width, w, bias, o, y);
        } else {
            windows_wide(p, plane, width, w, bias, o, y, 3);
        }
        break;
    case 4:
        windows_wide(p, plane, width, w, bias, o, y, 4);
        break;
    case 5:
        windows_wide(p, plane, width, w, bias, o, y, 5);
        break;
    case 7:
        windows_wide(p, plane, width, w, bias, o, y, 7);
        break;
    default:
        windows_wide(p, plane, width, w, bias, o, y, p->kernel_w);
        break;
    }
}

void tlc_depthwise_conv2d_s8(const tlc_depthwise_conv2d_t *p, const int8_t *x, tlc_rows_t *w, const int32_t *bias,
                             void *scratch, int8_t *y) {
    const plane_size_t size = plane_size(p);
    const int32_t taps = p->kernel_h * p->kernel_w, share = p->out_c / p->in_c;
    int16_t *wide = scratch;
    int16_t *plane = wide + taps;
    for (int32_t o = 0; o < p->out_c; ++o) {
        if (o % share == 0) {
            spread(p, x + o / share, size, plane);
        }
        const int8_t *row = tlc_rows_next(w);
        for (int32_t i = 0; i < taps; ++i) {
            wide[i] = row[i];
        }
        const int32_t channel = p->per_channel ? o : 0;
        const output_t output = {
            .mult = p->mult[channel],
            .shift = p->shift[channel],
            .zp = p->out_zp,
            .low = p->act_min,
            .high = p->act_max,
            .is_full = p->act_min == INT8_MIN && p->act_max == INT8_MAX,
        };
        windows(p, plane, size.width, wide, bias[o], &output, y + o);
    }
}
