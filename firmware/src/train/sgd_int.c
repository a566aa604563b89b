/* SPDX-License-Identifier: Apache-2.0
 *
 * sgd_int.c: the optimizer in integers: see train_int.h.
 */
#include <string.h>

#include "odd.h"
#include "random.h"

/* mult * 2^shift, mult in [2^15, 2^16), or 0 */
typedef struct {
    uint32_t mult;
    int32_t shift;
} factor_t;

/* rate / samples, from the rate's bits: not a number, infinite, negative, or below the least normal one is no step */
static factor_t rate_of(const tlc_step_t *step, uint32_t samples) {
    uint32_t bits;
    memcpy(&bits, &step->learning_rate, sizeof bits);
    const uint32_t exponent = bits >> 23;
    if (exponent == 0 || exponent >= 255) {
        return (factor_t){0, 0};
    }
    const uint32_t quotient = (((bits & 0x7FFFFFu) | 0x800000u) << 8) / samples;
    const int32_t over = tlc_bits(quotient) - 16;
    return (factor_t){over > 0 ? quotient >> over : quotient << -over, (int32_t)exponent - 158 + over};
}

static factor_t times(factor_t rate, const tlc_sgd_int_t *p, uint32_t row) {
    const uint32_t at = p->per_channel ? row : 0;
    return (factor_t){rate.mult * p->mult[at] >> 16, rate.shift + p->shift[at] + 16};
}

/* floor(x * 2^-right + u) for u uniform in [0, 1), cut at 2^24 */
static int32_t round_stochastically(int32_t x, int32_t right, uint32_t random) {
    const int32_t limit = (int32_t)1 << 24;
    if (right <= 0) {
        const int64_t whole = right < -24 ? (x > 0 ? limit : x < 0 ? -limit : 0) : (int64_t)x * ((int64_t)1 << -right);
        return (int32_t)(whole > limit ? limit : whole < -limit ? -limit : whole);
    }
    const int32_t whole = x >> (right < 31 ? right : 31);
    const uint32_t fraction =
        right < 32 ? (uint32_t)x << (32 - right) : (uint32_t)(x >> (right < 63 ? right - 32 : 31));
    const int32_t value = whole + (random < fraction ? 1 : 0);
    return value > limit ? limit : value < -limit ? -limit : value;
}

void tlc_sgd_int_s8(const tlc_sgd_int_t *p, int8_t *w, tlc_grad_t *grad, const tlc_step_t *step, uint32_t samples) {
    const uint32_t key = tlc_random_key(step, p->salt);
    const factor_t rate = rate_of(step, samples);
    int16_t *const g = tlc_grad_values(grad);
    const int32_t exponent = (int32_t)(grad->scale - TLC_GRAD_ONE);
    for (uint32_t r = 0; r < p->rows; ++r) {
        const factor_t factor = times(rate, p, r);
        const int32_t mult = (int32_t)factor.mult, right = -(factor.shift + exponent);
        for (uint32_t i = r * p->row_elements; i < (r + 1) * p->row_elements; ++i) {
            const int32_t next = w[i] - round_stochastically(g[i] * mult, right, tlc_random(key + i));
            w[i] = (int8_t)(next < -127 ? -127 : next > 127 ? 127 : next);
            g[i] = 0;
        }
    }
    grad->scale = 0;
}

void tlc_sgd_int_s32(const tlc_sgd_int_t *p, int32_t *b, tlc_grad_t *grad, const tlc_step_t *step, uint32_t samples) {
    const uint32_t key = tlc_random_key(step, p->salt);
    const factor_t rate = rate_of(step, samples);
    int16_t *const g = tlc_grad_values(grad);
    const int32_t exponent = (int32_t)(grad->scale - TLC_GRAD_ONE), limit = (int32_t)1 << 30;
    for (uint32_t r = 0; r < p->rows; ++r) {
        const factor_t factor = times(rate, p, r);
        const int32_t mult = (int32_t)factor.mult, right = -(factor.shift + exponent);
        for (uint32_t i = r * p->row_elements; i < (r + 1) * p->row_elements; ++i) {
            const int32_t next = b[i] - round_stochastically(g[i] * mult, right, tlc_random(key + i));
            b[i] = next < -limit ? -limit : next > limit ? limit : next;
            g[i] = 0;
        }
    }
    grad->scale = 0;
}
