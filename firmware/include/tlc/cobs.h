/* SPDX-License-Identifier: Apache-2.0
 *
 * cobs.h: a frame's bytes to the wire and back: Consistent Overhead Byte Stuffing (Cheshire and Baker,
 * 1999), so that 0x00 only ever ends a frame, with the CRC-32 in the same pass.
 */
#ifndef TLC_COBS_H
#define TLC_COBS_H

#include <stddef.h>
#include <stdint.h>

#include "tlc/status.h"

/* The largest wire form of `count` bytes, CRC not counted, delimiter counted. */
#define TLC_COBS_BYTES(count) ((count) + (count) / 254u + 2u)

typedef struct {
    uint8_t *out; /* (capacity) */
    size_t capacity;
    size_t count;   /* bytes written */
    size_t code_at; /* where the open block's code byte belongs */
    uint32_t crc;
    uint8_t code;     /* 1 + bytes in the open block */
    uint8_t full;     /* the block before the open one was a full one, which stands for no zero */
    uint8_t overflow; /* something did not fit */
} tlc_cobs_encoder_t;

void tlc_cobs_begin(tlc_cobs_encoder_t *encoder, uint8_t *out, size_t capacity);
void tlc_cobs_put(tlc_cobs_encoder_t *encoder, const uint8_t *bytes, size_t count);
/* Appends the CRC and the delimiter; the frame's length on the wire, 0 when it did not fit. */
size_t tlc_cobs_end(tlc_cobs_encoder_t *encoder);

typedef struct {
    uint8_t *out; /* (capacity) decoded bytes: frame and CRC */
    size_t capacity;
    size_t count;
    uint32_t crc;
    uint8_t run;    /* bytes left in the block */
    uint8_t zero;   /* the block ended by standing for a zero, written when another block follows */
    uint8_t broken; /* too long: skip to the delimiter */
} tlc_cobs_decoder_t;

typedef enum {
    TLC_COBS_MORE = 0,  /* all bytes taken, no frame ended */
    TLC_COBS_FRAME = 1, /* a frame with a right CRC is in out[0 .. count - 4) */
    TLC_COBS_BAD = 2,   /* a frame ended that was too long, too short, cut off or had a wrong CRC */
} tlc_cobs_result_t;

void tlc_cobs_decoder_init(tlc_cobs_decoder_t *decoder, uint8_t *out, size_t capacity);
/* Takes bytes up to and with the first delimiter. After FRAME, `*length` is the frame's length without the CRC, and
 * `out` stays as it is until the next call. Delimiters that follow one another are no frame. */
TLC_MUST_CHECK tlc_cobs_result_t tlc_cobs_decode(tlc_cobs_decoder_t *decoder, const uint8_t *bytes, size_t count,
                                                 size_t *used, size_t *length);

#endif /* TLC_COBS_H */
