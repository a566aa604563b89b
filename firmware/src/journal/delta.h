/* SPDX-License-Identifier: Apache-2.0
 *
 * delta.h: the learned tensors as differences to the values in flash, byte by byte.
 *
 * For each tensor in the model's order one byte, then its differences d = value - value in flash:
 *
 *     0  as they are: int8 (modulo 2^8) or little-endian int32 (modulo 2^32)
 *     1  int8 coded in runs: a byte c < 0x80: c + 1 zeros; c < 0xC0: c - 0x7F differences from -8 to 7 in nibbles, the
 *        lower one first, the last byte filled up with 0; else c - 0xBF differences of a byte each
 *        int32 coded each by itself: z = d << 1 ^ d >> 31, its 7 lowest bits first, bit 7 set where more follow
 *
 * The shorter of the two is taken, so a tensor never takes more than its size and a byte.
 *
 * In the journal the optimizer's memory follows, velocities and residuals, as it lies in the state up to its last byte
 * that is not 0.
 */
#ifndef TLC_DELTA_H
#define TLC_DELTA_H

#include "tlc/journal.h"

/* Where coded bytes go: into a slot, into memory, or nowhere (only counted). */
typedef struct {
    const tlc_storage_t *storage; /* NULL: memory */
    uint8_t *memory;              /* NULL: nowhere */
    uint32_t room;                /* bytes of the slot from `offset` on, or of memory */
    uint32_t offset;              /* in the slot: where the buffer goes next */
    uint32_t bytes;               /* put so far */
    uint32_t crc;                 /* of them: tlc_crc32_byte's running value */
    uint32_t used;                /* bytes in the buffer */
    uint8_t slot;
    bool counting; /* nothing but `counted` changes */
    bool failed;   /* no room, or flash refused */
    uint32_t counted;
    uint32_t buffer[TLC_JOURNAL_BUFFER / 4];
} tlc_sink_t;

/* Where they come from. */
typedef struct {
    const tlc_storage_t *storage; /* NULL: memory */
    const uint8_t *memory;
    uint32_t offset; /* in the slot: of what the buffer gets next */
    uint32_t left;   /* bytes that were not taken yet */
    uint32_t crc;
    uint32_t at, filled; /* in the buffer */
    uint8_t slot;
    bool failed; /* more was taken than there is, or flash refused */
    uint32_t buffer[TLC_JOURNAL_BUFFER / 4];
} tlc_source_t;

void tlc_delta_put(const tlc_ctx_t *ctx, tlc_sink_t *sink);
/* False: no such code; the tensors are half changed. Something may be left. */
bool tlc_delta_take_part(tlc_ctx_t *ctx, tlc_source_t *source);

void tlc_memory_put(const tlc_ctx_t *ctx, tlc_sink_t *sink);
/* What is left, into memory that was cleared. False: that is too much. */
bool tlc_memory_take(tlc_ctx_t *ctx, tlc_source_t *source);

/* Fills the rest of a unit with 0xFF and writes what the buffer still holds. */
void tlc_sink_flush(tlc_sink_t *sink);

#endif /* TLC_DELTA_H */
