/* SPDX-License-Identifier: Apache-2.0
 *
 * Four pixels at a time: they are widened to int16 once for all output channels. That takes the weights again for every
 * four pixels, so they must lie in memory as they are; where they do not, and on other cores, it is a convolution like
 * any other.
 */
#include "tlc/kernels.h"
#include "wide.h"

void tlc_pointwise_conv2d_s8(const tlc_conv2d_t *p, const int8_t *x, tlc_rows_t *w, const int32_t *bias, void *scratch,
                             int8_t *y) {
#ifdef TLC_WIDE
    const int32_t pixels = p->out_w, depth = p->in_c;
    if (tlc_rows_are_raw(w) && pixels >= 4) {
        const int is_plain = tlc_is_plain(p);
        for (int32_t pixel = 0; pixel < pixels; pixel += 4) {
            pixel = pixel < pixels - 4 ? pixel : pixels - 4; /* the last four overlap those before */
            for (int32_t i = 0; i < 4; ++i) {
                tlc_widen(x + (pixel + i) * depth, depth, (uint32_t *)scratch + 2 * i);
            }
            tlc_wide_channels(p, is_plain, p->out_c, w->next, depth, scratch, depth, bias, y + pixel * p->out_c);
        }
        return;
    }
#endif
    (void)scratch;
    tlc_conv2d_s8(p, x, w, bias, y);
}
