/* SPDX-License-Identifier: Apache-2.0
 *
 * window.h: which taps of a sliding window fall inside the image. Internal to the kernels.
 */
#ifndef TLC_KERNELS_WINDOW_H
#define TLC_KERNELS_WINDOW_H

#include <stdint.h>

/* Taps first <= k < last; none where first == last. */
typedef struct {
    int32_t first, last;
} tlc_taps_t;

/* The taps k < kernel with 0 <= start + k * dilation < size. */
static inline tlc_taps_t tlc_taps_inside(int32_t start, int32_t kernel, int32_t dilation, int32_t size) {
    tlc_taps_t taps = {0, kernel};
    if (start < 0) {
        taps.first = (dilation - 1 - start) / dilation;
    }
    if (start + (kernel - 1) * dilation >= size) {
        taps.last = start < size ? (size - start + dilation - 1) / dilation : 0;
    }
    if (taps.first > taps.last) {
        taps.first = taps.last;
    }
    return taps;
}

/* The window positions first <= o < last, of `count`, with every tap inside. */
static inline tlc_taps_t tlc_positions_inside(int32_t pad, int32_t stride, int32_t extent, int32_t size,
                                              int32_t count) {
    const int32_t room = size + pad - extent;
    tlc_taps_t whole = {(pad + stride - 1) / stride, room < 0 ? 0 : room / stride + 1};
    if (whole.last > count) {
        whole.last = count;
    }
    if (whole.first > whole.last) {
        whole.first = whole.last;
    }
    return whole;
}

#endif /* TLC_KERNELS_WINDOW_H */
