/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "tlc/train.h"

void tlc_fold_bias(const int8_t *w, uint32_t rows, uint32_t row_elements, const int32_t *bias, int32_t in_zp,
                   int32_t *folded) {
    for (uint32_t r = 0; r < rows; ++r, w += row_elements) {
        int32_t sum = 0;
        for (uint32_t i = 0; i < row_elements; ++i) {
            sum += w[i];
        }
        folded[r] = (int32_t)((bias != NULL ? (uint32_t)bias[r] : 0u) - (uint32_t)in_zp * (uint32_t)sum);
    }
}

void tlc_add_bias(const int32_t *part, uint32_t rows, const int32_t *bias, int32_t *folded) {
    for (uint32_t r = 0; r < rows; ++r) {
        folded[r] = (int32_t)((uint32_t)part[r] + (uint32_t)bias[r]);
    }
}

void tlc_fold_slice(const int8_t *w, uint32_t rows, uint32_t row_elements, int32_t in_zp, int32_t *folded) {
    for (uint32_t r = 0; r < rows; ++r, w += row_elements) {
        int32_t sum = 0;
        for (uint32_t i = 0; i < row_elements; ++i) {
            sum += w[i];
        }
        folded[r] = (int32_t)((uint32_t)folded[r] - (uint32_t)in_zp * (uint32_t)sum);
    }
}
