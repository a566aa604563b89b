/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "tlc/kernels.h"
#include "tlc/requant.h"
#include "window.h"

/* y[i] = the larger of y[i] and x[i], i < n */
static void tlc_max_into(int8_t *y, const int8_t *x, uint32_t n) {
#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FEATURE_UNALIGNED) && defined(__GNUC__)
    for (; n >= 4; n -= 4, x += 4, y += 4) {
        uint32_t a, b;
        memcpy(&a, y, sizeof a);
        memcpy(&b, x, sizeof b);
        /* four differences; each sets the flag by which SEL takes its byte of one or the other */
        __asm__("ssub8 r12, %[a], %[b]\n\tsel %[a], %[a], %[b]" : [a] "+r"(a) : [b] "r"(b) : "r12", "cc");
        memcpy(y, &a, sizeof a);
    }
#endif
    for (uint32_t i = 0; i < n; ++i) {
        y[i] = x[i] > y[i] ? x[i] : y[i];
    }
}

void tlc_max_pool2d_s8(const tlc_pool2d_t *p, const int8_t *x, int8_t *y) {
    const uint32_t channels = (uint32_t)p->channels;
    const int32_t row_step = p->in_w * p->channels;
    for (int32_t oy = 0; oy < p->out_h; ++oy) {
        const int32_t top = oy * p->stride_h - p->pad_top;
        const tlc_taps_t ky = tlc_taps_inside(top, p->kernel_h, 1, p->in_h);
        for (int32_t ox = 0; ox < p->out_w; ++ox, y += channels) {
            const int32_t left = ox * p->stride_w - p->pad_left;
            const tlc_taps_t kx = tlc_taps_inside(left, p->kernel_w, 1, p->in_w);
            const int8_t *in = x + (top + ky.first) * row_step + (left + kx.first) * p->channels;
            memcpy(y, in, channels);
            for (int32_t i = ky.first; i < ky.last; ++i, in += row_step) {
                for (int32_t j = 0; j < kx.last - kx.first; ++j) {
                    tlc_max_into(y, in + j * p->channels, channels);
                }
            }
            for (uint32_t c = 0; c < channels && (p->act_min > INT8_MIN || p->act_max < INT8_MAX); ++c) {
                y[c] = tlc_clamp_s8(y[c], p->act_min, p->act_max);
            }
        }
    }
}
