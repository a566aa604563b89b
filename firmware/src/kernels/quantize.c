/* SPDX-License-Identifier: Apache-2.0 */
#include "tlc/kernels.h"
#include "tlc/requant.h"

void tlc_quantize_s8(const tlc_quantize_t *p, const int8_t *x, int8_t *y) {
    for (uint32_t i = 0; i < p->count; ++i) {
        const int32_t value = tlc_requant(x[i] - p->in_zp, p->mult, p->shift) + p->out_zp;
        y[i] = tlc_clamp_s8(value, p->act_min, p->act_max);
    }
}
