/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "tlc/kernels.h"
#include "walk.h"

void tlc_pad_s8(const tlc_pad_t *p, const int8_t *x, int8_t *y) {
    memset(y, p->value, p->count);
    tlc_walk_copy(p->loops, p->rank, x, y + p->offset);
}
