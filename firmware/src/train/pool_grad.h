/* SPDX-License-Identifier: Apache-2.0
 *
 * pool_grad.h: what the gradients of the two pools share.
 */
#ifndef TLC_POOL_GRAD_H
#define TLC_POOL_GRAD_H

#include "tlc/train.h"

/* The part of a window that lies inside the image: [first, last). */
static inline void tlc_window(uint32_t position, uint32_t stride, uint32_t pad, uint32_t kernel, uint32_t size,
                              uint32_t *first, uint32_t *last) {
    const uint32_t start = position * stride; /* in the padded image */
    *first = start > pad ? start - pad : 0;
    const uint32_t end = start + kernel > pad ? start + kernel - pad : 0;
    *last = end < size ? end : size;
}

static inline void tlc_clear_grad(const tlc_pool_grad_t *p, float *dx) {
    if (!p->add) {
        for (uint32_t i = 0; i < p->in_h * p->in_w * p->channels; ++i) {
            dx[i] = 0.0f;
        }
    }
}

#endif /* TLC_POOL_GRAD_H */
