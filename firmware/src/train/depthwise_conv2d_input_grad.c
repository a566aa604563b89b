/* SPDX-License-Identifier: Apache-2.0 */
#include "grad.h"

void tlc_depthwise_conv2d_input_grad_f32(const tlc_conv2d_grad_t *p, tlc_rows_t *w, float *dy, float *dx) {
    const int32_t multiplier = p->out_c / p->in_c;
    if (!p->add) {
        tlc_clear_f32(dx, (uint32_t)(p->in_h * p->in_w * p->in_c));
    }
    tlc_scale_f32(dy, (uint32_t)(p->out_h * p->out_w), (uint32_t)p->out_c, p->w_scale, p->per_channel);
    for (int32_t o = 0; o < p->out_c; ++o) {
        const int8_t *row = tlc_rows_next(w);
        for (int32_t ky = 0; ky < p->kernel_h; ++ky) {
            for (int32_t kx = 0; kx < p->kernel_w; ++kx) {
                const tlc_seen_t seen = tlc_seen(p, ky, kx);
                const float weight = (float)*row++;
                if (seen.rows == 0 || seen.cols == 0) {
                    continue;
                }
                const float *g = dy + seen.dy + o;
                float *to = dx + seen.x + o / multiplier;
                for (int32_t r = 0; r < seen.rows; ++r, g += seen.dy_row, to += seen.x_row) {
                    for (int32_t i = 0; i < seen.cols; ++i) {
                        to[i * seen.x_col] += g[i * seen.dy_col] * weight;
                    }
                }
            }
        }
    }
}
