/* SPDX-License-Identifier: Apache-2.0 */
#include "odd.h"

void tlc_odd_shift(int16_t *q, uint32_t rows, uint32_t step, uint32_t cols, int32_t shift) {
    for (uint32_t r = 0; r < rows; ++r, q += step) {
        for (uint32_t c = 0; c < cols; ++c) {
            q[c] = (int16_t)tlc_odd(q[c], shift);
        }
    }
}
