/* SPDX-License-Identifier: Apache-2.0
 *
 * Windows of few values, as in a first layer: four are gathered, border included, and widened to int16 once for all
 * output channels. The weights must lie in memory as they are; where they do not, and on other cores, it is a
 * convolution like any other.
 */
#include "tlc/kernels.h"
#include "wide.h"

#ifdef TLC_WIDE

/* The window of output (oy, ox) -> patch (kernel_h, kernel_w, in_c). */
static void gather(const tlc_conv2d_t *p, const int8_t *x, int32_t oy, int32_t ox, int8_t *patch) {
    const int32_t left = ox * p->stride_w - p->pad_left, depth = p->in_c, run = p->kernel_w * depth;
    const int is_inside = left >= 0 && left + p->kernel_w <= p->in_w && p->dilation_w == 1;
    for (int32_t ky = 0; ky < p->kernel_h; ++ky) {
        const int32_t iy = oy * p->stride_h - p->pad_top + ky * p->dilation_h;
        if (iy < 0 || iy >= p->in_h) {
            memset(patch, p->in_zp, (size_t)run);
            patch += run;
            continue;
        }
        const int8_t *const from = x + iy * p->in_w * depth;
        if (is_inside) {
            const int8_t *in = from + left * depth;
            for (const int8_t *end = patch + run; patch != end;) {
                *patch++ = *in++;
            }
            continue;
        }
        for (int32_t kx = 0; kx < p->kernel_w; ++kx, patch += depth) {
            const int32_t ix = left + kx * p->dilation_w;
            if (ix < 0 || ix >= p->in_w) {
                memset(patch, p->in_zp, (size_t)depth);
            } else {
                memcpy(patch, from + ix * depth, (size_t)depth);
            }
        }
    }
}

/* The last row's end must not be read beyond: its rest by itself. */
static void last_channel(const tlc_conv2d_t *p, const int8_t *w, int32_t row, const uint32_t *x, int32_t bias,
                         int8_t *y) {
    const int32_t whole = row & ~3, channel = p->per_channel ? p->out_c - 1 : 0;
    const tlc_output_t output = {p->mult[channel], p->shift[channel], p->out_zp, p->act_min, p->act_max};
    int8_t rest[4] = {0};
    memcpy(rest, w + whole, (size_t)(row - whole));
    tlc_sum4_t acc = {(uint32_t)bias, (uint32_t)bias, (uint32_t)bias, (uint32_t)bias};
    if (whole > 0) {
        tlc_dot_wide(w, x, whole, &acc);
    }
    tlc_dot_wide(rest, x + 2 * whole, 4, &acc);
    tlc_output4(&output, &acc, y, p->out_c);
}

#endif

void tlc_patch_conv2d_s8(const tlc_conv2d_t *p, const int8_t *x, tlc_rows_t *w, const int32_t *bias, void *scratch,
                         int8_t *y) {
#ifdef TLC_WIDE
    const int32_t outputs = p->out_h * p->out_w, row = p->kernel_h * p->kernel_w * p->in_c, count = (row + 3) & ~3;
    if (tlc_rows_are_raw(w) && outputs >= 4) {
        uint32_t *const wide = scratch;
        int8_t *const patch = (int8_t *)(wide + 2 * count);
        const int32_t most = row == count ? p->out_c : p->out_c - 1;
        memset(patch, 0, (size_t)count);
        const int is_plain = tlc_is_plain(p);
        for (int32_t at = 0; at < outputs; at += 4) {
            at = at < outputs - 4 ? at : outputs - 4; /* the last four overlap those before */
            for (int32_t i = 0; i < 4; ++i) {
                gather(p, x, (at + i) / p->out_w, (at + i) % p->out_w, patch);
                tlc_widen(patch, count, wide + 2 * i);
            }
            int8_t *const to = y + at * p->out_c;
            tlc_wide_channels(p, is_plain, most, w->next, row, wide, count, bias, to);
            if (most < p->out_c) {
                last_channel(p, w->next + most * row, row, wide, bias[most], to + most);
            }
        }
        return;
    }
#endif
    (void)scratch;
    tlc_conv2d_s8(p, x, w, bias, y);
}
