/* SPDX-License-Identifier: Apache-2.0 */
#include "tlc/train.h"

void tlc_fold_bias(const int8_t *w, uint32_t rows, uint32_t row_elements, const int32_t *bias, int32_t in_zp,
                   int32_t *folded) {
    for (uint32_t r = 0; r < rows; ++r) {
        int32_t sum = 0;
        for (uint32_t i = 0; i < row_elements; ++i) {
            sum += w[r * row_elements + i];
        }
        folded[r] = bias[r] - in_zp * sum;
    }
}
