/* SPDX-License-Identifier: Apache-2.0
 *
 * seen_s16.h: which outputs see an input. Internal to the kernels.
 */
#ifndef TLC_SEEN_S16_H
#define TLC_SEEN_S16_H

#include <stdint.h>

/* The output that sees position `at` of an axis through tap k; -1: none does. */
static inline int32_t tlc_seer(int32_t at, int32_t k, int32_t pad, int32_t stride, int32_t dilation, int32_t outputs) {
    const int32_t start = at + pad - k * dilation;
    if (start < 0 || (stride != 1 && start % stride != 0)) {
        return -1;
    }
    const int32_t output = stride == 1 ? start : start / stride;
    return output < outputs ? output : -1;
}

#endif /* TLC_SEEN_S16_H */
