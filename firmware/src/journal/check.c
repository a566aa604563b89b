/* SPDX-License-Identifier: Apache-2.0
 *
 * check.c: whether training diverges: before an update, and after.
 */
#include <string.h>

#include "tlc/journal.h"

#define BIAS_LIMIT ((int32_t)1 << 30)
#define WEIGHT_LIMIT 127

tlc_status_t tlc_check_gradient(const tlc_ctx_t *ctx, float max_norm) {
    float sum = 0.0f; /* of squares; one that overflows is above any bound */
    for (uint32_t p = 0; p < ctx->model->param_count; p++) {
        const tlc_param_t *param = &ctx->model->params[p];
        if (param->accumulator == TLC_NO_ACCUMULATOR) {
            continue;
        }
        const uint8_t *at = ctx->state + param->accumulator;
        for (uint32_t i = 0; i < param->elements; i++) {
            uint32_t bits;
            memcpy(&bits, at + 4u * i, sizeof bits);
            if ((bits & 0x7F800000u) == 0x7F800000u) {
                return TLC_ERR_NUMERIC;
            }
            if (max_norm > 0.0f) { /* floats are dear where there is no FPU */
                float value;
                memcpy(&value, &bits, sizeof value);
                sum += value * value;
            }
        }
    }
    const float bound = max_norm * (float)ctx->samples;
    return max_norm > 0.0f && !(sum <= bound * bound) ? TLC_ERR_NUMERIC : TLC_OK;
}

static bool at_its_end(const tlc_param_t *param, const void *values, uint32_t i) {
    if (!values) {
        return false;
    }
    if (param->dtype == TLC_S8) {
        const int32_t value = ((const int8_t *)values)[i];
        return value <= -WEIGHT_LIMIT || value >= WEIGHT_LIMIT;
    }
    const int32_t value = ((const int32_t *)values)[i];
    return value <= -BIAS_LIMIT || value >= BIAS_LIMIT;
}

tlc_status_t tlc_check_weights(const tlc_ctx_t *ctx, uint32_t max_percent) {
    for (uint32_t p = 0; p < ctx->model->param_count && max_percent < 100; p++) {
        const tlc_param_t *param = &ctx->model->params[p];
        uint32_t count = 0;
        for (uint32_t i = 0; i < param->elements; i++) {
            if (at_its_end(param, ctx->state + param->offset, i) && !at_its_end(param, param->initial, i)) {
                count++;
            }
        }
        if (count > param->elements / 100u * max_percent + param->elements % 100u * max_percent / 100u) {
            return TLC_ERR_NUMERIC;
        }
    }
    return TLC_OK;
}
