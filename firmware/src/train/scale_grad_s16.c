/* SPDX-License-Identifier: Apache-2.0 */
#include "odd.h"

void tlc_scale_grad_s16(const tlc_scale_grad_s16_t *p, tlc_grad_t *dy) {
    tlc_writer_t w = tlc_writer(dy, tlc_grad_times(dy->scale, p->exponent), 0);
    w.bits = p->bits;
    const uint32_t step = p->per_channel ? 1 : 0, channels = p->channels;
    const int32_t bits = p->bits;
    int32_t total = tlc_writer_total(&w);
    int16_t *q = w.q;
    for (uint32_t r = 0; r < p->rows; ++r) {
        const int16_t *mult = p->mult;
        for (const int16_t *const end = q + channels; q != end; ++q, mult += step) {
            const int32_t value = *q * *mult;
            const uint32_t magnitude = tlc_magnitude(value);
            if (tlc_is_over(magnitude, total, bits)) {
                const uint32_t at = (uint32_t)(q - w.q);
                tlc_odd_shift(w.q, 1, at, at, tlc_writer_grow(&w, tlc_magnitude(tlc_odd(value, w.fresh))));
                total = tlc_writer_total(&w);
            }
            *q = (int16_t)tlc_odd(value, total);
        }
    }
    tlc_writer_end(&w, dy);
}

void tlc_scale_static_grad_s16(const tlc_scale_grad_s16_t *p, tlc_grad_t *dy) {
    const uint32_t step = p->per_channel ? 1 : 0, channels = p->channels;
    const int32_t room = TLC_GRAD_BITS - p->bits, half = room > 0 ? (int32_t)1 << (room - 1) : 0;
    const int32_t written = p->written - room;
    int16_t *q = tlc_grad_values(dy);
    for (uint32_t r = 0; r < p->rows; ++r) {
        const int16_t *mult = p->mult;
        for (const int16_t *const end = q + channels; q != end; ++q, mult += step) {
            *q = (int16_t)((tlc_near_s16(*q * *mult, written) + half) >> room);
        }
    }
    dy->scale = tlc_grad_times(dy->scale, p->exponent + p->written);
}
