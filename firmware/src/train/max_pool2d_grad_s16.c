/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "odd.h"
#include "pool_grad.h"

void tlc_max_pool2d_grad_s16(const tlc_pool_grad_s16_t *p, const int8_t *x, const tlc_grad_t *dy, tlc_grad_t *dx) {
    const int16_t *g = tlc_grad_const_values(dy);
    int16_t *const to = tlc_grad_values(dx);
    memset(to, 0, p->in_h * p->in_w * p->channels * sizeof *to);
    for (uint32_t oy = 0; oy < p->out_h; ++oy) {
        uint32_t y0, y1;
        tlc_window(oy, p->stride_h, p->pad_top, p->kernel_h, p->in_h, &y0, &y1);
        for (uint32_t ox = 0; ox < p->out_w; ++ox) {
            uint32_t x0, x1;
            tlc_window(ox, p->stride_w, p->pad_left, p->kernel_w, p->in_w, &x0, &x1);
            for (uint32_t c = 0; c < p->channels; ++c) {
                uint32_t best = (y0 * p->in_w + x0) * p->channels + c;
                for (uint32_t iy = y0; iy < y1; ++iy) {
                    for (uint32_t ix = x0; ix < x1; ++ix) {
                        const uint32_t at = (iy * p->in_w + ix) * p->channels + c;
                        if (x[at] > x[best]) {
                            best = at;
                        }
                    }
                }
                to[best] = (int16_t)(to[best] + tlc_odd(*g++, p->shift));
            }
        }
    }
    dx->scale = tlc_grad_times(dy->scale, p->shift);
}
