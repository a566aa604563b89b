/* SPDX-License-Identifier: Apache-2.0 */
#include "tlc/kernels.h"
#include "tlc/requant.h"
#include "window.h"

/* The largest value of one channel, over taps that are inside. */
static int8_t tlc_max_of(const int8_t *x, int32_t rows, int32_t row_step, int32_t cols, int32_t col_step) {
    int32_t most = x[0];
    for (int32_t i = 0; i < rows; ++i, x += row_step) {
        const int8_t *in = x;
        for (int32_t j = 0; j < cols; ++j, in += col_step) {
            most = *in > most ? *in : most;
        }
    }
    return (int8_t)most;
}

void tlc_max_pool2d_s8(const tlc_pool2d_t *p, const int8_t *x, int8_t *y) {
    const int32_t row_step = p->in_w * p->channels;
    for (int32_t oy = 0; oy < p->out_h; ++oy) {
        const int32_t top = oy * p->stride_h - p->pad_top;
        const tlc_taps_t ky = tlc_taps_inside(top, p->kernel_h, 1, p->in_h);
        for (int32_t ox = 0; ox < p->out_w; ++ox) {
            const int32_t left = ox * p->stride_w - p->pad_left;
            const tlc_taps_t kx = tlc_taps_inside(left, p->kernel_w, 1, p->in_w);
            const int8_t *in = x + (top + ky.first) * row_step + (left + kx.first) * p->channels;
            for (int32_t c = 0; c < p->channels; ++c) {
                const int8_t most = tlc_max_of(in + c, ky.last - ky.first, row_step, kx.last - kx.first, p->channels);
                *y++ = tlc_clamp_s8(most, p->act_min, p->act_max);
            }
        }
    }
}
