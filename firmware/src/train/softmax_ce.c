/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "exp_f32.h"
#include "log_f32.h"
#include "tlc/train.h"

tlc_status_t tlc_softmax_ce_f32(const tlc_softmax_ce_t *p, const int8_t *x, float *dx, const tlc_target_t *target,
                                tlc_verdict_t *verdict) {
    const uint32_t label = target->label;
    if (target->values != NULL || label >= p->classes) {
        return TLC_ERR_ARG;
    }
    int32_t most = INT8_MIN;
    for (uint32_t c = 0; c < p->classes; ++c) {
        if (x[c] > most || c == 0) {
            most = x[c];
            verdict->predicted = c;
        }
    }
    float sum = 0.0f;
    for (uint32_t c = 0; c < p->classes; ++c) {
        dx[c] = tlc_exp_f32((float)(x[c] - most) * p->scale);
        sum += dx[c];
    }
    const float inverse = 1.0f / sum;
    for (uint32_t c = 0; c < p->classes; ++c) {
        dx[c] = (dx[c] * inverse - (c == label ? 1.0f : 0.0f)) * p->beta;
    }
    verdict->loss = tlc_log_f32(sum) - (float)(x[label] - most) * p->scale;
    return TLC_OK;
}
