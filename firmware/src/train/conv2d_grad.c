/* SPDX-License-Identifier: Apache-2.0 */
#include "tlc/train.h"

/* One output pixel's share: g times the patch that it saw. */
static void add_patch(const tlc_conv2d_grad_t *p, const int8_t *x, uint32_t oy, uint32_t ox, uint32_t first_channel,
                      float g, float *dw) {
    const uint32_t group_c = p->in_c / p->groups;
    for (uint32_t ky = 0; ky < p->kernel_h; ++ky) {
        const uint32_t iy = oy * p->stride_h + ky * p->dilation_h - p->pad_top; /* wraps above the image */
        for (uint32_t kx = 0; kx < p->kernel_w; ++kx) {
            const uint32_t ix = ox * p->stride_w + kx * p->dilation_w - p->pad_left;
            if (iy < p->in_h && ix < p->in_w) {
                const int8_t *const in = x + (iy * p->in_w + ix) * p->in_c + first_channel;
                float *const out = dw + (ky * p->kernel_w + kx) * group_c;
                for (uint32_t c = 0; c < group_c; ++c) {
                    out[c] += g * (float)(in[c] - p->in_zp);
                }
            }
        }
    }
}

void tlc_conv2d_weight_grad_f32(const tlc_conv2d_grad_t *p, const int8_t *x, const float *dy, float *dw) {
    const uint32_t group_c = p->in_c / p->groups;
    const uint32_t group_out = p->out_c / p->groups;
    const uint32_t row = p->kernel_h * p->kernel_w * group_c;
    for (uint32_t o = 0; o < p->out_c; ++o) {
        const uint32_t first_channel = o / group_out * group_c;
        for (uint32_t oy = 0; oy < p->out_h; ++oy) {
            for (uint32_t ox = 0; ox < p->out_w; ++ox) {
                const float g = dy[(oy * p->out_w + ox) * p->out_c + o];
                if (g != 0.0f) {
                    add_patch(p, x, oy, ox, first_channel, g * p->in_scale, dw + o * row);
                }
            }
        }
    }
}
