/* SPDX-License-Identifier: Apache-2.0
 *
 * Coded differences: any bytes decode or are refused, and then the tensors are the values in flash; any tensors come
 * back from their code.
 */
#include "input.h"
#include "model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input_t in = {data, size};
    const uint8_t what = take_byte(&in);
    uint32_t words[STATE / 4], wanted[STATE / 4];
    tlc_ctx_t ctx = {.model = &model, .state = (uint8_t *)words};
    model_init(&ctx);
    memcpy(wanted, words, sizeof wanted);
    if (what & 1u) {
        uint8_t *const code = malloc(in.left + 1u);
        memcpy(code, in.at, in.left);
        const tlc_status_t status = tlc_delta_decode(&ctx, code, (uint32_t)in.left);
        HOLDS(status == TLC_OK || status == TLC_ERR_CORRUPT);
        HOLDS(status == TLC_OK || memcmp(words, wanted, sizeof words) == 0);
        free(code);
    } else {
        (void)take_bytes(&in, ctx.state, PARAMS);
        memset(ctx.state + WEIGHTS, 0, BIASES_AT - WEIGHTS); /* no tensor's */
    }
    memcpy(wanted, words, sizeof wanted);
    uint8_t code[2 * STATE];
    uint32_t bytes = 0;
    HOLDS(tlc_delta_encode(&ctx, code, sizeof code, &bytes) == TLC_OK && bytes <= PARAMS + 3u);
    const uint32_t short_room = what >> 1;
    uint8_t *const small = malloc(short_room + 1u);
    uint32_t same = 0;
    HOLDS((tlc_delta_encode(&ctx, small, short_room, &same) == TLC_OK) == (bytes <= short_room));
    free(small);
    model_init(&ctx);
    uint8_t *const exact = malloc(bytes);
    memcpy(exact, code, bytes);
    HOLDS(tlc_delta_decode(&ctx, exact, bytes) == TLC_OK && memcmp(words, wanted, sizeof words) == 0);
    free(exact);
    return 0;
}
