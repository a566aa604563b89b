/* SPDX-License-Identifier: Apache-2.0 */
#include "odd.h"

void tlc_scale_grad_s16(const tlc_scale_grad_s16_t *p, tlc_grad_t *dy) {
    tlc_writer_t w = tlc_writer(dy, tlc_grad_times(dy->scale, p->exponent), 0);
    w.bits = p->bits;
    uint32_t at = 0;
    for (uint32_t r = 0; r < p->rows; ++r) {
        for (uint32_t c = 0; c < p->channels; ++c, ++at) {
            tlc_writer_put(&w, at, w.q[at] * p->mult[p->per_channel ? c : 0]);
        }
    }
    tlc_writer_end(&w, dy);
}
