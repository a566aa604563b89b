/* SPDX-License-Identifier: Apache-2.0
 *
 * model.h: learned tensors of both types, for what codes and decodes them; nothing computes here.
 */
#ifndef TLC_FUZZ_MODEL_H
#define TLC_FUZZ_MODEL_H

#include <string.h>

#include "tlc/journal.h"

#define WEIGHTS 70u /* more than a run of differences */
#define BIASES 5u
#define BIASES_AT 72u
#define MORE 9u
#define MORE_AT (BIASES_AT + 4u * BIASES)
#define PARAMS (MORE_AT + MORE)
#define MEMORY 16u /* the optimizer's */
#define STATE (112u + MEMORY)

static const int8_t initial_weights[WEIGHTS] = {1, -2, 127, -128, 0, 5, 77, -77};
static const int32_t initial_biases[BIASES] = {100, -100, INT32_MAX, INT32_MIN, 0};

static void model_init(tlc_ctx_t *ctx) {
    memset(ctx->state, 0, STATE);
    memcpy(ctx->state, initial_weights, sizeof initial_weights);
    memcpy(ctx->state + BIASES_AT, initial_biases, sizeof initial_biases);
    ctx->samples = 0;
}

static const tlc_param_t model_params[] = {
    {"weight", 0, WEIGHTS, TLC_S8, TLC_NO_ACCUMULATOR, initial_weights},
    {"bias", BIASES_AT, BIASES, TLC_S32, TLC_NO_ACCUMULATOR, initial_biases},
    {"more", MORE_AT, MORE, TLC_S8, TLC_NO_ACCUMULATOR, NULL},
};

static const tlc_model_t model = {.bundle_hash = {7, 7, 7},
                                  .state_bytes = STATE,
                                  .param_bytes = PARAMS,
                                  .memory_bytes = MEMORY,
                                  .param_count = 3,
                                  .params = model_params,
                                  .init = model_init};

#endif /* TLC_FUZZ_MODEL_H */
