/* SPDX-License-Identifier: Apache-2.0 */
#include "tlc/train.h"

void tlc_mean_grad_f32(const tlc_mean_grad_t *p, const float *dy, float *dx) {
    const float count = (float)p->reduced;
    for (uint32_t o = 0; o < p->outer; ++o) {
        for (uint32_t r = 0; r < p->reduced; ++r) {
            for (uint32_t i = 0; i < p->inner; ++i) {
                const float share = dy[o * p->inner + i] / count;
                float *const at = &dx[(o * p->reduced + r) * p->inner + i];
                *at = p->add ? *at + share : share;
            }
        }
    }
}
