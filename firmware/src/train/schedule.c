/* SPDX-License-Identifier: Apache-2.0 */
#include "tlc/train.h"

/* (1 + cos(pi t)) / 2 for t in [0, 1]: 1/2 -+ sin(...) / 2 by its Taylor polynomial around t = 1/2, to 3e-7. */
static float half_wave(float t) {
    const float a = (t - 0.5f) * 3.14159274f, b = a * a; /* |a| <= pi / 2 */
    float s = b * -2.50521079e-8f + 2.75573188e-6f;
    s = s * b - 1.98412701e-4f;
    s = s * b + 8.33333377e-3f;
    s = s * b - 1.66666672e-1f;
    s = s * b + 1.0f;
    return 0.5f - 0.5f * (a * s);
}

float tlc_rate_f32(const tlc_schedule_t *p, float rate, uint32_t step) {
    if (step <= p->warm_up) {
        return rate * ((float)step / (float)p->warm_up);
    }
    const uint32_t done = step - p->warm_up - 1u;
    switch (p->kind) {
    case TLC_SCHEDULE_STEP:
        for (uint32_t passed = p->every ? done / p->every : 0u; passed > 0 && rate > 0.0f; --passed) {
            rate *= p->factor;
        }
        return rate;
    case TLC_SCHEDULE_COSINE: {
        const float low = rate * p->factor;
        const float t = done < p->every ? (float)done / (float)p->every : 1.0f;
        return low + (rate - low) * half_wave(t);
    }
    default:
        return rate;
    }
}
