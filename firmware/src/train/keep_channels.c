/* SPDX-License-Identifier: Apache-2.0 */
#include "tlc/train.h"

void tlc_keep_channels_s8(const tlc_keep_channels_t *p, const int8_t *x, int8_t *kept) {
    x += p->first;
    for (uint32_t r = 0; r < p->rows; ++r, x += p->channels) {
        for (uint32_t c = 0; c < p->count; ++c) {
            *kept++ = x[c];
        }
    }
}
