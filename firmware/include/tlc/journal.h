/* SPDX-License-Identifier: Apache-2.0
 *
 * journal.h: learned tensors that survive a reset, in flash that a port gives through three hooks.
 *
 * Two slots, written in turn. An entry holds the differences to the values in flash, the optimizer's memory, the step
 * they belong to, the bundle's hash and CRCs. Its header is written last, so at any moment the newest whole entry is
 * either the one before or the new one, whatever byte or erasure the power fails at. Nothing is copied: tensors are
 * coded from where they lie, and decoded into their place, through a buffer of TLC_JOURNAL_BUFFER bytes on the stack.
 *
 * A slot, little-endian, what is not written is 0xFF:
 *
 *     0    "TLCW", u32 erasures of this slot, u32 erasures of the other one when this was written, u32 CRC of these 12
 *    32    "TLCJ", u32 format (1), u32 sequence number, u32 step, u32 bytes of the payload, u32 their CRC, 32 bytes
 *          bundle hash, u32 CRC of these 56
 *    96    the payload: delta.h
 */
#ifndef TLC_JOURNAL_H
#define TLC_JOURNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "tlc/model.h"

#ifndef TLC_JOURNAL_BUFFER
#define TLC_JOURNAL_BUFFER 64 /* bytes on the stack; a multiple of TLC_JOURNAL_UNIT, at least 64 */
#endif

#define TLC_JOURNAL_UNIT 32u     /* flash is written in multiples of this, at multiples of this */
#define TLC_JOURNAL_OVERHEAD 96u /* bytes of a slot before the payload */

/* Flash as a port gives it: slots 0 and 1, each of one or more sectors that nothing else uses. The hooks return when
 * all is done; false: it could not be. */
typedef struct {
    bool (*flash_read)(void *self, uint8_t slot, uint32_t offset, uint8_t *bytes, uint32_t count);
    /* All bytes of the slot become 0xFF. */
    bool (*flash_erase)(void *self, uint8_t slot);
    /* Where it is erased. offset, count: multiples of TLC_JOURNAL_UNIT; bytes: 4-byte aligned. */
    bool (*flash_write)(void *self, uint8_t slot, uint32_t offset, const uint8_t *bytes, uint32_t count);
    uint32_t slot_bytes;
    void *self;
} tlc_storage_t;

typedef enum {
    TLC_SLOT_EMPTY = 0, /* no entry, or none whole */
    TLC_SLOT_OURS = 1,
    TLC_SLOT_OTHERS = 2,  /* an entry of another bundle */
    TLC_SLOT_DAMAGED = 3, /* an entry whose CRC does not hold */
} tlc_slot_t;

typedef struct {
    const tlc_storage_t *storage; /* NULL: nothing is kept */
    uint32_t sequence;            /* of our newest entry, else of the newest, whoever's; 0: none */
    uint32_t step, bytes, crc;    /* of our newest entry */
    uint32_t wear[2];             /* erasures of each slot, as far as is known */
    uint32_t saves;               /* entries written since boot */
    uint8_t slots[2];             /* tlc_slot_t */
    uint8_t newest;               /* slot of our newest entry; 2: there is none */
    uint8_t status;               /* what tlc_journal_load would say now */
} tlc_journal_t;

/* Looks at both slots, and sets the learned tensors of *ctx to the newest entry that is whole; to the values in flash
 * where there is none. *step: the step they belong to, 0 for the values in flash.
 * STATE: nothing is kept, or there is no entry; BUNDLE: only entries of another bundle, which stay there until they are
 * written over; CORRUPT: only damaged ones. */
TLC_MUST_CHECK tlc_status_t tlc_journal_load(tlc_journal_t *journal, tlc_ctx_t *ctx, uint32_t *step);

/* Writes the learned tensors as they are, if they differ from the newest entry, and reads them back.
 * STATE: nothing is kept; SIZE: a slot is too small; CORRUPT: flash does not hold what was written. When it is not OK
 * the entry before is still there. */
TLC_MUST_CHECK tlc_status_t tlc_journal_save(tlc_journal_t *journal, const tlc_ctx_t *ctx, uint32_t step);

/* Erases our entries, the older one first. CORRUPT: flash cannot be erased. */
TLC_MUST_CHECK tlc_status_t tlc_journal_clear(tlc_journal_t *journal);

/* ---- the coding of the payload, which parameter messages share: PROTOCOL.md, section 9 ---- */

/* The learned tensors as differences to the values in flash. *bytes: how many that takes.
 * SIZE: more than `room`; what `to` then holds is of no use. */
TLC_MUST_CHECK tlc_status_t tlc_delta_encode(const tlc_ctx_t *ctx, uint8_t *to, uint32_t room, uint32_t *bytes);

/* Sets the learned tensors to the values in flash plus the differences. CORRUPT: no such code; then they are the values
 * in flash. */
TLC_MUST_CHECK tlc_status_t tlc_delta_decode(tlc_ctx_t *ctx, const uint8_t *from, uint32_t bytes);

/* What the device calls of all this; so a firmware in which nothing learns does not contain it. */
typedef struct {
    tlc_status_t (*journal_load)(tlc_journal_t *journal, tlc_ctx_t *ctx, uint32_t *step);
    tlc_status_t (*journal_save)(tlc_journal_t *journal, const tlc_ctx_t *ctx, uint32_t step);
    tlc_status_t (*journal_clear)(tlc_journal_t *journal);
    tlc_status_t (*delta_encode)(const tlc_ctx_t *ctx, uint8_t *to, uint32_t room, uint32_t *bytes);
    tlc_status_t (*delta_decode)(tlc_ctx_t *ctx, const uint8_t *from, uint32_t bytes);
    tlc_status_t (*check_gradient)(const tlc_ctx_t *ctx, float max_norm);
    tlc_status_t (*check_weights)(const tlc_ctx_t *ctx, uint32_t max_percent);
    float (*rate)(const tlc_schedule_t *schedule, float rate, uint32_t step);
} tlc_keeper_t;

extern const tlc_keeper_t tlc_keeper;

/* ---- divergence ---- */

/* NUMERIC: a gradient in the accumulators is not finite, or the norm of the mean gradient over all learned tensors is
 * above max_norm. 0: any finite one passes. */
TLC_MUST_CHECK tlc_status_t tlc_check_gradient(const tlc_ctx_t *ctx, float max_norm);

/* NUMERIC: in a tensor more than max_percent of the elements lie at the end of their range (weights -127 and 127,
 * biases beyond 2^30) that in flash do not. 100: any. */
TLC_MUST_CHECK tlc_status_t tlc_check_weights(const tlc_ctx_t *ctx, uint32_t max_percent);

#endif /* TLC_JOURNAL_H */
