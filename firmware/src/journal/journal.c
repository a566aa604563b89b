/* SPDX-License-Identifier: Apache-2.0
 *
 * journal.c: two slots written in turn; journal.h has their layout.
 */
#include "tlc/journal.h"

#include <string.h>

#include "delta.h"
#include "tlc/bytes.h"
#include "tlc/crc32.h"
#include "tlc/train.h"

#define WEAR_MAGIC 0x57434C54u  /* "TLCW" */
#define ENTRY_MAGIC 0x4A434C54u /* "TLCJ" */
#define FORMAT 1u

#define WEAR_AT 0u
#define WEAR_OWN 4u
#define WEAR_OTHER 8u
#define WEAR_CRC 12u
#define WEAR_BYTES 16u

#define ENTRY_AT TLC_JOURNAL_UNIT
#define ENTRY_FORMAT 4u
#define ENTRY_SEQUENCE 8u
#define ENTRY_STEP 12u
#define ENTRY_LENGTH 16u
#define ENTRY_PAYLOAD_CRC 20u
#define ENTRY_HASH 24u
#define ENTRY_CRC (ENTRY_HASH + TLC_HASH_BYTES)
#define ENTRY_BYTES (ENTRY_CRC + 4u)
#define ENTRY_ROOM (TLC_JOURNAL_OVERHEAD - ENTRY_AT) /* ENTRY_BYTES in whole units */

#define NO_SLOT 2u

typedef struct {
    uint32_t sequence, step, bytes, crc;
} entry_t;

/* Two erasures, two writes: what every hook is asked goes through here. */
static bool read(const tlc_journal_t *journal, uint32_t slot, uint32_t offset, void *bytes, uint32_t count) {
    const tlc_storage_t *storage = journal->storage;
    return storage->flash_read(storage->self, (uint8_t)slot, offset, bytes, count);
}

static bool write(const tlc_journal_t *journal, uint32_t slot, uint32_t offset, const uint32_t *units, uint32_t count) {
    const tlc_storage_t *storage = journal->storage;
    return storage->flash_write(storage->self, (uint8_t)slot, offset, (const uint8_t *)units, count);
}

/* ---- reading ---- */

/* False: the slot's own record is not whole. */
static bool read_wear(const tlc_journal_t *journal, uint32_t slot, uint32_t *own, uint32_t *other) {
    uint8_t record[WEAR_BYTES];
    if (!read(journal, slot, WEAR_AT, record, sizeof record) || tlc_get_u32(record) != WEAR_MAGIC ||
        tlc_get_u32(record + WEAR_CRC) != tlc_crc32(0, record, WEAR_CRC)) {
        return false;
    }
    *own = tlc_get_u32(record + WEAR_OWN);
    *other = tlc_get_u32(record + WEAR_OTHER);
    return true;
}

static void find_wear(tlc_journal_t *journal) {
    uint32_t told[2] = {0, 0}; /* of each slot, by the other one */
    bool known[2];
    for (uint32_t slot = 0; slot < 2; slot++) {
        known[slot] = read_wear(journal, slot, &journal->wear[slot], &told[1 - slot]);
    }
    for (uint32_t slot = 0; slot < 2; slot++) {
        if (!known[slot]) { /* lost in an erasure that is not counted yet */
            journal->wear[slot] = told[slot] ? told[slot] + 1 : 0;
        } else if (journal->wear[slot] < told[slot]) {
            journal->wear[slot] = told[slot]; /* an erasure that was cut off before it began */
        }
    }
}

static uint8_t read_entry(const tlc_journal_t *journal, uint32_t slot, const uint8_t *hash, entry_t *entry) {
    uint8_t header[ENTRY_BYTES];
    if (!read(journal, slot, ENTRY_AT, header, sizeof header)) {
        return TLC_SLOT_DAMAGED;
    }
    if (tlc_get_u32(header) != ENTRY_MAGIC) {
        return TLC_SLOT_EMPTY;
    }
    entry->sequence = tlc_get_u32(header + ENTRY_SEQUENCE);
    entry->step = tlc_get_u32(header + ENTRY_STEP);
    entry->bytes = tlc_get_u32(header + ENTRY_LENGTH);
    entry->crc = tlc_get_u32(header + ENTRY_PAYLOAD_CRC);
    if (tlc_get_u32(header + ENTRY_CRC) != tlc_crc32(0, header, ENTRY_CRC) ||
        entry->bytes > journal->storage->slot_bytes - TLC_JOURNAL_OVERHEAD) {
        return TLC_SLOT_DAMAGED;
    }
    return tlc_get_u32(header + ENTRY_FORMAT) == FORMAT && memcmp(header + ENTRY_HASH, hash, TLC_HASH_BYTES) == 0
               ? TLC_SLOT_OURS
               : TLC_SLOT_OTHERS;
}

static void source_of(const tlc_journal_t *journal, uint32_t slot, uint32_t bytes, tlc_source_t *source) {
    memset(source, 0, sizeof *source);
    source->storage = journal->storage;
    source->slot = (uint8_t)slot;
    source->offset = TLC_JOURNAL_OVERHEAD;
    source->left = bytes;
    source->crc = TLC_CRC32_INIT;
}

static bool usable(const tlc_journal_t *journal) {
    return journal->storage && journal->storage->slot_bytes > TLC_JOURNAL_OVERHEAD;
}

static tlc_status_t without_ours(const tlc_journal_t *journal) {
    const bool others = journal->slots[0] == TLC_SLOT_OTHERS || journal->slots[1] == TLC_SLOT_OTHERS;
    const bool damaged = journal->slots[0] == TLC_SLOT_DAMAGED || journal->slots[1] == TLC_SLOT_DAMAGED;
    return others ? TLC_ERR_BUNDLE : damaged ? TLC_ERR_CORRUPT : TLC_ERR_STATE;
}

tlc_status_t tlc_journal_load(tlc_journal_t *journal, tlc_ctx_t *ctx, uint32_t *step) {
    const tlc_storage_t *storage = journal->storage;
    const uint32_t saves = journal->saves;
    memset(journal, 0, sizeof *journal);
    journal->storage = storage;
    journal->saves = saves;
    journal->newest = NO_SLOT;
    journal->status = TLC_ERR_STATE;
    *step = 0;
    if (ctx->model->init) {
        ctx->model->init(ctx);
    }
    if (!usable(journal)) {
        return TLC_ERR_STATE;
    }
    find_wear(journal);
    entry_t entries[2] = {{0, 0, 0, 0}, {0, 0, 0, 0}};
    for (uint32_t slot = 0; slot < 2; slot++) {
        journal->slots[slot] = read_entry(journal, slot, ctx->model->bundle_hash, &entries[slot]);
        const bool whole = journal->slots[slot] == TLC_SLOT_OURS || journal->slots[slot] == TLC_SLOT_OTHERS;
        if (whole && (journal->sequence == 0 || (int32_t)(entries[slot].sequence - journal->sequence) > 0)) {
            journal->sequence = entries[slot].sequence;
        }
    }
    const bool both = journal->slots[0] == TLC_SLOT_OURS && journal->slots[1] == TLC_SLOT_OURS;
    const bool second = both ? (int32_t)(entries[1].sequence - entries[0].sequence) > 0 : false;
    for (uint32_t attempt = 0; attempt < 2 && journal->newest == NO_SLOT; attempt++) {
        const uint32_t slot = second ? 1 - attempt : attempt;
        if (journal->slots[slot] != TLC_SLOT_OURS) {
            continue;
        }
        tlc_source_t source;
        source_of(journal, slot, entries[slot].bytes, &source);
        bool held = tlc_delta_take_part(ctx, &source);
        if (held && ctx->model->refresh) {
            ctx->model->refresh(ctx);
        }
        held = held && tlc_memory_take(ctx, &source);
        if (held && (source.crc ^ 0xFFFFFFFFu) == entries[slot].crc) {
            journal->newest = (uint8_t)slot;
            journal->sequence = entries[slot].sequence; /* what is written next comes after this one, whatever a damaged
                                                           entry said */
            journal->step = entries[slot].step;
            journal->bytes = entries[slot].bytes;
            journal->crc = entries[slot].crc;
            *step = journal->step;
            journal->status = TLC_OK;
        } else {
            journal->slots[slot] = TLC_SLOT_DAMAGED;
            ctx->model->init(ctx);
        }
    }
    if (journal->newest == NO_SLOT) {
        journal->status = (uint8_t)without_ours(journal);
    }
    return (tlc_status_t)journal->status;
}

/* ---- writing ---- */

/* Erases a slot and writes down how often that was done. */
static bool erase(tlc_journal_t *journal, uint32_t slot) {
    const tlc_storage_t *storage = journal->storage;
    journal->slots[slot] = TLC_SLOT_EMPTY;
    if (journal->newest == slot) {
        journal->newest = NO_SLOT;
    }
    if (!storage->flash_erase(storage->self, (uint8_t)slot)) {
        return false;
    }
    journal->wear[slot]++;
    uint32_t units[TLC_JOURNAL_UNIT / 4];
    uint8_t *const record = (uint8_t *)units;
    memset(units, 0xFF, sizeof units);
    tlc_put_u32(record, WEAR_MAGIC);
    tlc_put_u32(record + WEAR_OWN, journal->wear[slot]);
    tlc_put_u32(record + WEAR_OTHER, journal->wear[1 - slot]);
    tlc_put_u32(record + WEAR_CRC, tlc_crc32(0, record, WEAR_CRC));
    return write(journal, slot, WEAR_AT, units, sizeof units);
}

/* Never that of our newest entry; of another bundle's only when there is no other. */
static uint32_t slot_to_write(const tlc_journal_t *journal) {
    if (journal->newest != NO_SLOT) {
        return 1u - journal->newest;
    }
    const bool first = journal->slots[0] != TLC_SLOT_OTHERS, second = journal->slots[1] != TLC_SLOT_OTHERS;
    if (first != second) {
        return first ? 0 : 1;
    }
    return journal->wear[0] <= journal->wear[1] ? 0 : 1;
}

static bool write_entry(const tlc_journal_t *journal, uint32_t slot, const uint8_t *hash, const entry_t *entry) {
    uint32_t units[ENTRY_ROOM / 4];
    uint8_t *const header = (uint8_t *)units;
    memset(units, 0xFF, sizeof units);
    tlc_put_u32(header, ENTRY_MAGIC);
    tlc_put_u32(header + ENTRY_FORMAT, FORMAT);
    tlc_put_u32(header + ENTRY_SEQUENCE, entry->sequence);
    tlc_put_u32(header + ENTRY_STEP, entry->step);
    tlc_put_u32(header + ENTRY_LENGTH, entry->bytes);
    tlc_put_u32(header + ENTRY_PAYLOAD_CRC, entry->crc);
    memcpy(header + ENTRY_HASH, hash, TLC_HASH_BYTES);
    tlc_put_u32(header + ENTRY_CRC, tlc_crc32(0, header, ENTRY_CRC));
    return write(journal, slot, ENTRY_AT, units, sizeof units);
}

static bool payload_holds(const tlc_journal_t *journal, uint32_t slot, const entry_t *entry) {
    uint8_t bytes[TLC_JOURNAL_BUFFER];
    uint32_t crc = 0;
    for (uint32_t at = 0; at < entry->bytes; at += sizeof bytes) {
        const uint32_t count = entry->bytes - at < sizeof bytes ? entry->bytes - at : (uint32_t)sizeof bytes;
        if (!read(journal, slot, TLC_JOURNAL_OVERHEAD + at, bytes, count)) {
            return false;
        }
        crc = tlc_crc32(crc, bytes, count);
    }
    return crc == entry->crc;
}

/* Codes the tensors into a slot, or, with NO_SLOT, only counts. */
static bool put_payload(const tlc_journal_t *journal, const tlc_ctx_t *ctx, uint32_t slot, entry_t *entry) {
    tlc_sink_t sink;
    memset(&sink, 0, sizeof sink);
    sink.crc = TLC_CRC32_INIT;
    if (slot != NO_SLOT) {
        sink.storage = journal->storage;
        sink.slot = (uint8_t)slot;
        sink.offset = TLC_JOURNAL_OVERHEAD;
        sink.room = journal->storage->slot_bytes - TLC_JOURNAL_OVERHEAD;
    }
    tlc_delta_put(ctx, &sink);
    tlc_memory_put(ctx, &sink);
    tlc_sink_flush(&sink);
    entry->bytes = sink.bytes;
    entry->crc = sink.crc ^ 0xFFFFFFFFu;
    return !sink.failed;
}

tlc_status_t tlc_journal_save(tlc_journal_t *journal, const tlc_ctx_t *ctx, uint32_t step) {
    if (!usable(journal) || !ctx->state) {
        return TLC_ERR_STATE;
    }
    entry_t entry = {journal->sequence + 1, step, 0, 0};
    (void)put_payload(journal, ctx, NO_SLOT, &entry);
    if (journal->newest != NO_SLOT && journal->step == step && journal->bytes == entry.bytes &&
        journal->crc == entry.crc) {
        return TLC_OK;
    }
    const uint32_t room = (entry.bytes + TLC_JOURNAL_UNIT - 1u) / TLC_JOURNAL_UNIT * TLC_JOURNAL_UNIT;
    if (room > journal->storage->slot_bytes - TLC_JOURNAL_OVERHEAD) {
        return TLC_ERR_SIZE;
    }
    const uint32_t slot = slot_to_write(journal);
    entry_t found;
    if (!erase(journal, slot) || !put_payload(journal, ctx, slot, &entry) || !payload_holds(journal, slot, &entry) ||
        !write_entry(journal, slot, ctx->model->bundle_hash, &entry) ||
        read_entry(journal, slot, ctx->model->bundle_hash, &found) != TLC_SLOT_OURS || found.crc != entry.crc) {
        return TLC_ERR_CORRUPT;
    }
    journal->slots[slot] = TLC_SLOT_OURS;
    journal->newest = (uint8_t)slot;
    journal->sequence = entry.sequence;
    journal->step = step;
    journal->bytes = entry.bytes;
    journal->crc = entry.crc;
    journal->saves++;
    journal->status = TLC_OK;
    return TLC_OK;
}

tlc_status_t tlc_journal_clear(tlc_journal_t *journal) {
    if (!usable(journal)) {
        return TLC_OK;
    }
    const uint32_t newest = journal->newest;
    for (uint32_t turn = 0; turn < 2; turn++) { /* ours that would come back, were the newest erased first */
        const uint32_t slot = newest == NO_SLOT ? turn : turn == 0 ? 1u - newest : newest;
        const uint8_t held = journal->slots[slot];
        if ((held == TLC_SLOT_OURS || held == TLC_SLOT_DAMAGED) && !erase(journal, slot)) {
            return TLC_ERR_CORRUPT;
        }
    }
    journal->step = 0;
    journal->status = (uint8_t)without_ours(journal);
    return TLC_OK;
}

const tlc_keeper_t tlc_keeper = {
    .journal_load = tlc_journal_load,
    .journal_save = tlc_journal_save,
    .journal_clear = tlc_journal_clear,
    .delta_encode = tlc_delta_encode,
    .delta_decode = tlc_delta_decode,
    .check_gradient = tlc_check_gradient,
    .check_weights = tlc_check_weights,
    .rate = tlc_rate_f32,
};
