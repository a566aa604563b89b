/* SPDX-License-Identifier: Apache-2.0 */
#include "odd.h"

static inline __attribute__((always_inline)) void copy(const tlc_copy_grad_s16_t *p, const tlc_grad_t *dy,
                                                       tlc_grad_t *dx, tlc_writer_t w) {
    const int16_t *const from = tlc_grad_const_values(dy);
    for (uint32_t i = 0; i < p->elements; ++i) {
        tlc_writer_put(&w, i, from[i] * 32768);
    }
    tlc_writer_end(&w, dx);
}

void tlc_copy_grad_s16(const tlc_copy_grad_s16_t *p, const tlc_grad_t *dy, tlc_grad_t *dx) {
    copy(p, dy, dx, tlc_writer(dx, tlc_grad_times(dy->scale, -15), p->add));
}

void tlc_copy_static_grad_s16(const tlc_copy_grad_s16_t *p, const tlc_grad_t *dy, tlc_grad_t *dx) {
    copy(p, dy, dx, tlc_writer_static(dx, tlc_grad_times(dy->scale, -15), p->add, p->written, p->kept));
}
