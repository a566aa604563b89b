/* SPDX-License-Identifier: Apache-2.0
 *
 * sgd_int.c: the optimizer in integers: see train_int.h.
 */
#include <stddef.h>
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

/* floor(x * 2^-right + u) for u uniform in [0, 1), cut at `limit`, 2^30 at most */
static int32_t round_stochastically(int32_t x, int32_t right, uint32_t random, int32_t limit) {
    if (right <= 0) {
        const int64_t whole = right < -30 ? (x > 0 ? limit : x < 0 ? -limit : 0) : (int64_t)x * ((int64_t)1 << -right);
        return (int32_t)(whole > limit ? limit : whole < -limit ? -limit : whole);
    }
    const int32_t whole = x >> (right < 31 ? right : 31);
    const uint32_t fraction =
        right < 32 ? (uint32_t)x << (32 - right) : (uint32_t)(x >> (right < 63 ? right - 32 : 31));
    const int32_t value = whole + (random < fraction ? 1 : 0);
    return value > limit ? limit : value < -limit ? -limit : value;
}

#define MOST ((int32_t)1 << 24)      /* steps */
#define MOST_FINE ((int32_t)1 << 30) /* parts of one */

/* The momentum as 16 bits of a fraction, from its bits: below 1; not a number or negative: 0. */
static uint32_t momentum_of(const tlc_step_t *step) {
    uint32_t bits;
    memcpy(&bits, &step->momentum, sizeof bits);
    const uint32_t exponent = bits >> 23, mantissa = (bits & 0x7FFFFFu) | 0x800000u;
    if (exponent < 110 || exponent >= 255) {
        return 0;
    }
    const uint32_t fraction = exponent > 126 ? 65535u : ((mantissa >> (133 - exponent)) + 1u) >> 1;
    return fraction < 65535u ? fraction : 65535u;
}

/* floor(momentum * velocity + u) */
static int32_t decayed(int32_t velocity, uint32_t momentum, uint32_t random) {
    const int32_t high = velocity >> 16;
    const uint32_t low = (uint32_t)velocity & 0xFFFFu;
    return high * (int32_t)momentum + (int32_t)((low * momentum + (random >> 16)) >> 16);
}

static int32_t clamped(int32_t x, int32_t limit) { return x < -limit ? -limit : x > limit ? limit : x; }

/* Of a weight in units of 1/256, with what it remembers: how many whole ones it moves. */
static int32_t whole_steps(int32_t move, uint32_t momentum, int16_t *velocity, int8_t *residual, uint32_t random) {
    if (velocity != NULL) {
        const int32_t sum = decayed(*velocity, momentum, random) + move;
        *velocity = (int16_t)(sum < INT16_MIN ? INT16_MIN : sum > INT16_MAX ? INT16_MAX : sum);
        move = *velocity;
    }
    if (residual == NULL) {
        return (move + (int32_t)(random & 255u)) >> 8;
    }
    move += *residual;
    const int32_t whole = (move + 128) >> 8;
    *residual = (int8_t)(move - whole * 256);
    return whole;
}

void tlc_sgd_int_s8(const tlc_sgd_int_t *p, int8_t *w, tlc_grad_t *grad, int16_t *velocity, int8_t *residual,
                    const tlc_step_t *step, uint32_t samples) {
    const uint32_t key = tlc_random_key(step, p->salt), momentum = velocity != NULL ? momentum_of(step) : 0;
    const factor_t rate = rate_of(step, samples);
    const int remembers = velocity != NULL || residual != NULL;
    int16_t *const g = tlc_grad_values(grad);
    const int32_t exponent = (int32_t)(grad->scale - TLC_GRAD_ONE);
    for (uint32_t r = 0; r < p->rows; ++r) {
        const factor_t factor = times(rate, p, r);
        const int32_t mult = (int32_t)factor.mult, right = -(factor.shift + exponent);
        for (uint32_t i = r * p->row_elements; i < (r + 1) * p->row_elements; ++i) {
            const uint32_t random = tlc_random(key + i);
            int32_t whole;
            if (remembers) {
                const int32_t move = round_stochastically(g[i] * mult, right - 8, random, MOST);
                whole = whole_steps(move, momentum, velocity != NULL ? velocity + i : NULL,
                                    residual != NULL ? residual + i : NULL, random);
            } else {
                whole = round_stochastically(g[i] * mult, right, random, MOST);
            }
            w[i] = (int8_t)clamped(w[i] - whole, 127);
            g[i] = 0;
        }
    }
    grad->scale = 0;
}

void tlc_sgd_int_s32(const tlc_sgd_int_t *p, int32_t *b, tlc_grad_t *grad, int32_t *velocity, const tlc_step_t *step,
                     uint32_t samples) {
    const uint32_t key = tlc_random_key(step, p->salt), momentum = velocity != NULL ? momentum_of(step) : 0;
    const factor_t rate = rate_of(step, samples);
    int16_t *const g = tlc_grad_values(grad);
    const int32_t exponent = (int32_t)(grad->scale - TLC_GRAD_ONE);
    for (uint32_t r = 0; r < p->rows; ++r) {
        const factor_t factor = times(rate, p, r);
        const int32_t mult = (int32_t)factor.mult, right = -(factor.shift + exponent);
        for (uint32_t i = r * p->row_elements; i < (r + 1) * p->row_elements; ++i) {
            const uint32_t random = tlc_random(key + i);
            int32_t whole;
            if (velocity != NULL) {
                const int32_t move = round_stochastically(g[i] * mult, right - 8, random, MOST_FINE);
                velocity[i] = clamped(decayed(velocity[i], momentum, random) + move, MOST_FINE);
                whole = (velocity[i] + (int32_t)(random & 255u)) >> 8;
            } else {
                whole = round_stochastically(g[i] * mult, right, random, MOST);
            }
            b[i] = clamped(b[i] - whole, (int32_t)1 << 30);
            g[i] = 0;
        }
    }
    grad->scale = 0;
}
