/* SPDX-License-Identifier: Apache-2.0
 *
 * small_model.h: a model small enough to check by hand: y = clamp(x + w), one learned weight an element, whose
 * gradient is taken as g * x.
 */
#ifndef SMALL_MODEL_H
#define SMALL_MODEL_H

#include <string.h>

#include "tlc/model.h"

#define SMALL_N 100u
#define SMALL_X 0u
#define SMALL_Y 112u
#define SMALL_G 224u
#define SMALL_ARENA 640u
#define SMALL_W 0u
#define SMALL_ACC 112u
#define SMALL_STATE 512u

/* i % 7 */
#define SMALL_SEVEN 0, 1, 2, 3, 4, 5, 6
static const int8_t small_initial[SMALL_N] = {
    SMALL_SEVEN, SMALL_SEVEN, SMALL_SEVEN, SMALL_SEVEN, SMALL_SEVEN, SMALL_SEVEN, SMALL_SEVEN, SMALL_SEVEN,
    SMALL_SEVEN, SMALL_SEVEN, SMALL_SEVEN, SMALL_SEVEN, SMALL_SEVEN, SMALL_SEVEN, 0,           1,
};

static void small_init(tlc_ctx_t *ctx) {
    memset(ctx->state, 0, SMALL_STATE);
    memcpy(ctx->state + SMALL_W, small_initial, sizeof small_initial);
    ctx->samples = 0;
}

static tlc_status_t small_forward(tlc_ctx_t *ctx) {
    for (uint32_t i = 0; i < SMALL_N; i++) {
        const int y = (int8_t)ctx->arena[SMALL_X + i] + (int8_t)ctx->state[SMALL_W + i];
        ctx->arena[SMALL_Y + i] = (uint8_t)(y > 127 ? 127 : y < -128 ? -128 : y);
        if (i == SMALL_N / 2 && ctx->on_layer) {
            ctx->on_layer(ctx->on_layer_arg, 0);
        }
    }
    if (ctx->on_layer) {
        ctx->on_layer(ctx->on_layer_arg, 1);
    }
    ctx->has_forward = 1;
    return TLC_OK;
}

static tlc_status_t small_backward(tlc_ctx_t *ctx, const tlc_step_t *step) {
    (void)step;
    if (!ctx->has_forward) {
        return TLC_ERR_STATE;
    }
    ctx->has_forward = 0;
    float *acc = (float *)(void *)(ctx->state + SMALL_ACC);
    const float *g = (const float *)(const void *)(ctx->arena + SMALL_G);
    for (uint32_t i = 0; i < SMALL_N; i++) {
        acc[i] += g[i] * (float)(int8_t)ctx->arena[SMALL_X + i];
    }
    ctx->samples++;
    return TLC_OK;
}

static tlc_status_t small_update(tlc_ctx_t *ctx, const tlc_step_t *step) {
    float *acc = (float *)(void *)(ctx->state + SMALL_ACC);
    for (uint32_t i = 0; i < SMALL_N; i++) {
        const float w = (float)(int8_t)ctx->state[SMALL_W + i] - step->learning_rate * acc[i] / (float)ctx->samples;
        const float bound = w > 100.0f ? 100.0f : w < -100.0f ? -100.0f : w;
        ctx->state[SMALL_W + i] = (uint8_t)(int8_t)(bound < 0.0f ? bound - 0.5f : bound + 0.5f);
        acc[i] = 0.0f;
    }
    ctx->samples = 0;
    ctx->has_forward = 0;
    return TLC_OK;
}

static void small_refresh(tlc_ctx_t *ctx) { (void)ctx; }

static const char *const small_layers[] = {"first", "second"};
static const tlc_tensor_t small_input = {"x", SMALL_X, SMALL_N, 0.5f, 3, {1, SMALL_N}, 2, TLC_S8};
static const tlc_tensor_t small_output = {"y", SMALL_Y, SMALL_N, 0.25f, -4, {1, SMALL_N}, 2, TLC_S8};
static const tlc_tensor_t small_gradient = {"g", SMALL_G, SMALL_N, 1.0f, 0, {1, SMALL_N}, 2, TLC_F32};
static const tlc_param_t small_params[] = {{"w", SMALL_W, SMALL_N, TLC_S8, SMALL_ACC, small_initial}};

const tlc_model_t tlc_model = {
    .name = "small",
    .bundle_hash = {1, 2, 3, 4, 5},
    .arena_bytes = SMALL_ARENA,
    .state_bytes = SMALL_STATE,
    .param_bytes = SMALL_N,
    .layer_count = 2,
    .input_count = 1,
    .output_count = 1,
    .param_count = 1,
    .layer_names = small_layers,
    .inputs = &small_input,
    .outputs = &small_output,
    .gradient = &small_gradient,
    .params = small_params,
    .init = small_init,
    .refresh = small_refresh,
    .forward = small_forward,
    .backward = small_backward,
    .update = small_update,
};

#endif /* SMALL_MODEL_H */
