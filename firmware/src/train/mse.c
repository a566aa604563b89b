/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>
#include <string.h>

#include "tlc/train.h"

tlc_status_t tlc_mse_f32(const tlc_mse_t *p, const int8_t *y, float *dy, const tlc_target_t *target,
                         tlc_verdict_t *verdict) {
    if (target->values == NULL && target->label >= p->elements) {
        return TLC_ERR_ARG;
    }
    int32_t most = INT8_MIN;
    float sum = 0.0f;
    for (uint32_t i = 0; i < p->elements; ++i) {
        if (y[i] > most || i == 0) {
            most = y[i];
            verdict->predicted = i;
        }
        const float wanted = target->values != NULL ? target->values[i] : i == target->label ? 1.0f : 0.0f;
        const float over = p->scale * (float)(y[i] - p->zero_point) - wanted;
        sum += over * over;
        dy[i] = over * p->twice_share;
    }
    verdict->loss = sum * (0.5f * p->twice_share);
    uint32_t bits;
    memcpy(&bits, &verdict->loss, sizeof bits);
    return (bits & 0x7F800000u) == 0x7F800000u ? TLC_ERR_NUMERIC : TLC_OK;
}
