/* SPDX-License-Identifier: Apache-2.0 */
#include "tlc/cobs.h"

#include "tlc/bytes.h"
#include "tlc/crc32.h"

void tlc_cobs_begin(tlc_cobs_encoder_t *encoder, uint8_t *out, size_t capacity) {
    encoder->out = out;
    encoder->capacity = capacity;
    encoder->count = 1;
    encoder->code_at = 0;
    encoder->crc = TLC_CRC32_INIT;
    encoder->code = 1;
    encoder->full = 0;
    encoder->overflow = capacity < 2;
}

void tlc_cobs_put(tlc_cobs_encoder_t *encoder, const uint8_t *bytes, size_t count) {
    /* The worst this call can add, and the delimiter: checked once, so that the loop need not. */
    if (encoder->overflow || encoder->capacity - encoder->count < TLC_COBS_BYTES(count)) {
        encoder->overflow = 1;
        return;
    }
    uint8_t *const out = encoder->out;
    size_t at = encoder->count;
    size_t code_at = encoder->code_at;
    uint32_t crc = encoder->crc;
    uint8_t code = encoder->code;
    uint8_t full = encoder->full;
    for (size_t i = 0; i < count; i++) {
        const uint8_t byte = bytes[i];
        crc = tlc_crc32_byte(crc, byte);
        if (byte != 0) {
            out[at++] = byte;
            code++;
            if (code != 0xFF) {
                continue;
            }
            full = 1;
        } else {
            full = 0;
        }
        out[code_at] = code;
        code_at = at++;
        code = 1;
    }
    encoder->count = at;
    encoder->code_at = code_at;
    encoder->crc = crc;
    encoder->code = code;
    encoder->full = full;
}

size_t tlc_cobs_end(tlc_cobs_encoder_t *encoder) {
    uint8_t trailer[4];
    tlc_put_u32(trailer, ~encoder->crc);
    tlc_cobs_put(encoder, trailer, sizeof trailer);
    if (encoder->overflow) {
        return 0;
    }
    if (encoder->code == 1 && encoder->full) {
        encoder->count--; /* a full block at the very end needs no empty block after it */
    } else {
        encoder->out[encoder->code_at] = encoder->code;
    }
    encoder->out[encoder->count++] = 0;
    return encoder->count;
}

static void restart(tlc_cobs_decoder_t *decoder) {
    decoder->count = 0;
    decoder->crc = TLC_CRC32_INIT;
    decoder->run = 0;
    decoder->zero = 0;
    decoder->broken = 0;
}

void tlc_cobs_decoder_init(tlc_cobs_decoder_t *decoder, uint8_t *out, size_t capacity) {
    decoder->out = out;
    decoder->capacity = capacity;
    restart(decoder);
}

tlc_cobs_result_t tlc_cobs_decode(tlc_cobs_decoder_t *decoder, const uint8_t *bytes, size_t count, size_t *used,
                                  size_t *length) {
    size_t at = 0;
    *length = 0;
    while (at < count) {
        const uint8_t byte = bytes[at];
        if (byte == 0) {
            const size_t decoded = decoder->count;
            const int begun = decoder->zero || decoder->run || decoder->broken || decoded;
            const int whole = !decoder->broken && decoder->run == 0 && decoded > 4;
            const uint32_t crc = decoder->crc;
            at++;
            restart(decoder);
            if (!begun) {
                continue;
            }
            *used = at;
            if (!whole || crc != TLC_CRC32_RESIDUE) {
                return TLC_COBS_BAD;
            }
            *length = decoded - 4;
            return TLC_COBS_FRAME;
        }
        if (decoder->broken) {
            at++;
        } else if (decoder->run == 0) { /* a code byte */
            at++;
            if (decoder->zero) {
                if (decoder->count == decoder->capacity) {
                    decoder->broken = 1;
                    continue;
                }
                decoder->out[decoder->count++] = 0;
                decoder->crc = tlc_crc32_byte(decoder->crc, 0);
            }
            decoder->run = (uint8_t)(byte - 1u);
            decoder->zero = byte != 0xFF;
            if (decoder->capacity - decoder->count < decoder->run) {
                decoder->broken = 1;
            }
        } else { /* a run of bytes that stand for themselves; its room was checked with its code byte */
            uint8_t *out = decoder->out + decoder->count;
            uint32_t crc = decoder->crc;
            const size_t left = count - at;
            const size_t run = decoder->run < left ? decoder->run : left;
            size_t done = 0;
            while (done < run && bytes[at + done] != 0) {
                crc = tlc_crc32_byte(crc, bytes[at + done]);
                out[done] = bytes[at + done];
                done++;
            }
            decoder->crc = crc;
            decoder->count += done;
            decoder->run = (uint8_t)(decoder->run - done);
            at += done;
        }
    }
    *used = count;
    return TLC_COBS_MORE;
}
