/* SPDX-License-Identifier: Apache-2.0 */
#include "pool_grad.h"

void tlc_average_pool2d_grad_f32(const tlc_pool_grad_t *p, const float *dy, float *dx) {
    tlc_clear_grad(p, dx);
    for (uint32_t oy = 0; oy < p->out_h; ++oy) {
        uint32_t y0, y1;
        tlc_window(oy, p->stride_h, p->pad_top, p->kernel_h, p->in_h, &y0, &y1);
        for (uint32_t ox = 0; ox < p->out_w; ++ox, dy += p->channels) {
            uint32_t x0, x1;
            tlc_window(ox, p->stride_w, p->pad_left, p->kernel_w, p->in_w, &x0, &x1);
            const float share = 1.0f / (float)((y1 - y0) * (x1 - x0));
            for (uint32_t iy = y0; iy < y1; ++iy) {
                float *to = dx + (iy * p->in_w + x0) * p->channels;
                for (uint32_t ix = x0; ix < x1; ++ix, to += p->channels) {
                    for (uint32_t c = 0; c < p->channels; ++c) {
                        to[c] += dy[c] * share;
                    }
                }
            }
        }
    }
}
