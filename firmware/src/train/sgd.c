/* SPDX-License-Identifier: Apache-2.0 */
#include "tlc/train.h"

/* A 32-bit mix with full avalanche (xorshift-multiply): one random word for (seed, step, tensor, element), with no
 * state to keep, so any element can be computed in any order. */
static uint32_t mix(uint32_t x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    x ^= x >> 16;
    return x;
}

static uint32_t stream_key(const tlc_sgd_t *p, const tlc_step_t *step) {
    return mix(mix(mix(step->seed) ^ step->step) ^ p->salt);
}

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

void tlc_sgd_s8(const tlc_sgd_t *p, int8_t *w, float *grad, const tlc_step_t *step, float rate) {
    const uint32_t key = stream_key(p, step);
    for (uint32_t r = 0; r < p->rows; ++r) {
        const float factor = rate * p->inverse_scale[p->per_channel ? r : 0];
        for (uint32_t i = r * p->row_elements; i < (r + 1) * p->row_elements; ++i) {
            const int32_t next = w[i] - round_stochastically(factor * grad[i], mix(key + i));
            w[i] = (int8_t)(next < -127 ? -127 : next > 127 ? 127 : next);
            grad[i] = 0.0f;
        }
    }
}

void tlc_sgd_s32(const tlc_sgd_t *p, int32_t *b, float *grad, const tlc_step_t *step, float rate) {
    const uint32_t key = stream_key(p, step);
    const int32_t limit = (int32_t)1 << 30; /* room for the products of a layer */
    for (uint32_t r = 0; r < p->rows; ++r) {
        const float factor = rate * p->inverse_scale[p->per_channel ? r : 0];
        for (uint32_t i = r * p->row_elements; i < (r + 1) * p->row_elements; ++i) {
            const int32_t next = b[i] - round_stochastically(factor * grad[i], mix(key + i));
            b[i] = next < -limit ? -limit : next > limit ? limit : next;
            grad[i] = 0.0f;
        }
    }
}
