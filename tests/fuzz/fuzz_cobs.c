/* SPDX-License-Identifier: Apache-2.0
 *
 * Frames: any bytes through the decoder, in pieces of any size; and what the encoder makes comes back as it was.
 */
#include "input.h"
#include "tlc/cobs.h"

#define MOST 600u

static void decode(input_t in) {
    const size_t capacity = 8u + take_byte(&in);
    uint8_t *const out = malloc(capacity); /* of exactly its size, so that no byte is written behind it */
    tlc_cobs_decoder_t decoder;
    tlc_cobs_decoder_init(&decoder, out, capacity);
    const size_t piece = 1u + take_byte(&in);
    while (in.left) {
        const size_t count = piece < in.left ? piece : in.left;
        size_t used = 0, length = 0;
        const tlc_cobs_result_t result = tlc_cobs_decode(&decoder, in.at, count, &used, &length);
        HOLDS(used > 0 && used <= count);
        HOLDS(result == TLC_COBS_FRAME ? length > 0 && length + 4u <= capacity : length == 0);
        in.at += used;
        in.left -= used;
    }
    free(out);
}

static void there_and_back(input_t in) {
    const size_t room = in.left < MOST ? in.left : MOST;
    uint8_t *const wire = malloc(TLC_COBS_BYTES(room + 4u) + 8u);
    tlc_cobs_encoder_t encoder;
    tlc_cobs_begin(&encoder, wire, TLC_COBS_BYTES(room + 4u) + 8u);
    const size_t first = room / 3u;
    tlc_cobs_put(&encoder, in.at, first);
    tlc_cobs_put(&encoder, in.at + first, room - first);
    const size_t count = tlc_cobs_end(&encoder);
    HOLDS(count > 0 && wire[count - 1] == 0 && memchr(wire, 0, count - 1) == NULL);
    uint8_t *const out = malloc(room + 4u);
    tlc_cobs_decoder_t decoder;
    tlc_cobs_decoder_init(&decoder, out, room + 4u);
    size_t used = 0, length = 0;
    const tlc_cobs_result_t result = tlc_cobs_decode(&decoder, wire, count, &used, &length);
    if (room) {
        HOLDS(result == TLC_COBS_FRAME && used == count && length == room && memcmp(out, in.at, room) == 0);
    }
    free(out);
    free(wire);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const input_t in = {data, size};
    decode(in);
    there_and_back(in);
    return 0;
}
