/* SPDX-License-Identifier: Apache-2.0 */
#include "tlc_model.h"

#define ELEMENTS TLC_MODEL_INPUT0_ELEMENTS
#define OUTPUT_OFFSET 1024u

static tlc_status_t forward(tlc_ctx_t *ctx) {
    const int8_t *x = (const int8_t *)ctx->arena;
    int8_t *y = (int8_t *)(ctx->arena + OUTPUT_OFFSET);
    for (uint32_t i = 0; i < ELEMENTS; i++) {
        y[i] = (int8_t)(x[i] < 127 ? x[i] + 1 : 127);
    }
    if (ctx->on_layer) {
        ctx->on_layer(ctx->on_layer_arg, 0);
    }
    return TLC_OK;
}

static const char *const layer_names[] = {"plus_one"};
static const tlc_tensor_t inputs[] = {{.name = "x",
                                       .offset = 0,
                                       .elements = ELEMENTS,
                                       .scale = 0.5f,
                                       .shape = {1, ELEMENTS},
                                       .rank = 2,
                                       .dtype = TLC_S8}};
static const tlc_tensor_t outputs[] = {{.name = "y",
                                        .offset = OUTPUT_OFFSET,
                                        .elements = ELEMENTS,
                                        .scale = 0.5f,
                                        .shape = {1, ELEMENTS},
                                        .rank = 2,
                                        .dtype = TLC_S8}};

const tlc_model_t tlc_model = {
    .name = "plus_one",
    .bundle_hash = {1, 2, 3, 4},
    .arena_bytes = TLC_MODEL_ARENA_BYTES,
    .layer_count = 1,
    .input_count = 1,
    .output_count = 1,
    .layer_names = layer_names,
    .inputs = inputs,
    .outputs = outputs,
    .forward = forward,
};
