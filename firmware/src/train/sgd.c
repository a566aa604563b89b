/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "random.h"
#include "sqrt_f32.h"
#include "tlc/train.h"

/* floor(x + u) for u uniform in [0, 1): x in the mean. |x| is cut at 2^24, where float32 has no fraction left; what is
 * not a number is no step. */
static int32_t round_stochastically(float x, uint32_t random) {
    const float limit = 16777216.0f;
    x = x > limit ? limit : x < -limit ? -limit : x == x ? x : 0.0f;
    int32_t whole = (int32_t)x; /* toward zero */
    whole -= x < (float)whole ? 1 : 0;
    const float fraction = x - (float)whole; /* in [0, 1), exact */
    return whole + ((float)(random >> 8) < fraction * limit ? 1 : 0);
}

/* What a unit of the summed gradient moves a real by: the learning rate on the mean, and less where it is clipped. */
static float rate_of(const tlc_sgd_t *p, const float *grad, const tlc_step_t *step, uint32_t samples) {
    float rate = step->learning_rate / (float)samples;
    if (step->clip > 0.0f) {
        float sum = 0.0f;
        for (uint32_t i = 0; i < p->rows * p->row_elements; ++i) {
            sum += grad[i] * grad[i];
        }
        const float norm = tlc_sqrt_f32(sum), most = step->clip * (float)samples;
        if (norm > most) {
            rate = rate * (most / norm);
        }
    }
    return rate;
}

void tlc_sgd_s8(const tlc_sgd_t *p, int8_t *w, float *grad, float *velocity, int8_t *residual, const tlc_step_t *step,
                uint32_t samples) {
    const uint32_t key = tlc_random_key(step, p->salt);
    const float rate = rate_of(p, grad, step, samples), decay = step->learning_rate * step->weight_decay;
    for (uint32_t r = 0; r < p->rows; ++r) {
        const float factor = rate * p->unit[p->per_channel ? r : 0];
        for (uint32_t i = r * p->row_elements; i < (r + 1) * p->row_elements; ++i) {
            float move = factor * grad[i];
            grad[i] = 0.0f;
            if (decay > 0.0f) {
                move += decay * (float)w[i];
            }
            if (velocity != NULL) {
                move = step->momentum * velocity[i] + move;
                velocity[i] = move == move ? move : 0.0f;
            }
            int32_t whole;
            if (residual != NULL) { /* in units of 1/256, which are rounded at random */
                const int32_t exact = round_stochastically(move * 256.0f, tlc_random(key + i)) + residual[i];
                whole = (exact + 128 - (int32_t)(((uint32_t)exact + 128u) & 255u)) / 256;
                residual[i] = (int8_t)(exact - whole * 256);
            } else {
                whole = round_stochastically(move, tlc_random(key + i));
            }
            const int32_t next = w[i] - whole;
            w[i] = (int8_t)(next < -127 ? -127 : next > 127 ? 127 : next);
        }
    }
}

void tlc_sgd_s32(const tlc_sgd_t *p, int32_t *b, float *grad, float *velocity, const tlc_step_t *step,
                 uint32_t samples) {
    const uint32_t key = tlc_random_key(step, p->salt);
    const float rate = rate_of(p, grad, step, samples);
    const int32_t limit = (int32_t)1 << 30; /* room for the products of a layer */
    for (uint32_t r = 0; r < p->rows; ++r) {
        const float factor = rate * p->unit[p->per_channel ? r : 0];
        for (uint32_t i = r * p->row_elements; i < (r + 1) * p->row_elements; ++i) {
            float move = factor * grad[i];
            grad[i] = 0.0f;
            if (velocity != NULL) {
                move = step->momentum * velocity[i] + move;
                velocity[i] = move == move ? move : 0.0f;
            }
            const int32_t next = b[i] - round_stochastically(move, tlc_random(key + i));
            b[i] = next < -limit ? -limit : next > limit ? limit : next;
        }
    }
}
