/* SPDX-License-Identifier: Apache-2.0
 *
 * The journal: two slots of flash that hold anything. Where the fuzzer asks for it the checksums of what it made are
 * put right, so that it gets behind them. What is loaded is an entry or the values in flash; then what is saved is
 * there after the next start.
 */
#include "input.h"
#include "model.h"
#include "tlc/bytes.h"
#include "tlc/crc32.h"

#define SLOT (TLC_JOURNAL_OVERHEAD + 128u)
#define ENTRY 32u
#define ENTRY_CRC 56u

typedef struct {
    uint8_t *slot[2];
    uint32_t slot_bytes;
    uint32_t left; /* operations until flash fails; 255: never */
} flash_t;

static bool works(flash_t *flash) {
    if (flash->left == 0) {
        return false;
    }
    flash->left -= flash->left != 255u;
    return true;
}

static bool flash_read(void *self, uint8_t slot, uint32_t offset, uint8_t *bytes, uint32_t count) {
    flash_t *flash = self;
    HOLDS(slot < 2 && offset <= flash->slot_bytes && count <= flash->slot_bytes - offset);
    memcpy(bytes, flash->slot[slot] + offset, count);
    return true;
}

static bool flash_erase(void *self, uint8_t slot) {
    flash_t *flash = self;
    HOLDS(slot < 2);
    if (!works(flash)) {
        return false;
    }
    memset(flash->slot[slot], 0xFF, flash->slot_bytes);
    return true;
}

static bool flash_write(void *self, uint8_t slot, uint32_t offset, const uint8_t *bytes, uint32_t count) {
    flash_t *flash = self;
    HOLDS(slot < 2 && offset <= flash->slot_bytes && count <= flash->slot_bytes - offset);
    HOLDS(offset % TLC_JOURNAL_UNIT == 0 && count % TLC_JOURNAL_UNIT == 0 && ((uintptr_t)bytes & 3u) == 0);
    if (!works(flash)) {
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        HOLDS(flash->slot[slot][offset + i] == 0xFF);
        flash->slot[slot][offset + i] = bytes[i];
    }
    return true;
}

static void put_right(uint8_t *slot, uint8_t how) {
    if (how & 1u) { /* the record of erasures */
        tlc_put_u32(slot, 0x57434C54u);
        tlc_put_u32(slot + 12, tlc_crc32(0, slot, 12));
    }
    if (how & 2u) { /* the entry */
        uint8_t *const entry = slot + ENTRY;
        tlc_put_u32(entry, 0x4A434C54u);
        if (how & 4u) {
            tlc_put_u32(entry + 4, 1);
            memcpy(entry + 24, model.bundle_hash, TLC_HASH_BYTES);
        }
        if (how & 8u) { /* ... its payload */
            const uint32_t bytes = tlc_get_u32(entry + 16) % (SLOT - TLC_JOURNAL_OVERHEAD + 1u);
            tlc_put_u32(entry + 16, bytes);
            tlc_put_u32(entry + 20, tlc_crc32(0, slot + TLC_JOURNAL_OVERHEAD, bytes));
        }
        tlc_put_u32(entry + ENTRY_CRC, tlc_crc32(0, entry, ENTRY_CRC));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input_t in = {data, size};
    flash_t flash = {{NULL, NULL}, SLOT, 255u};
    const uint8_t how = take_byte(&in), fails = take_byte(&in), small = take_byte(&in);
    uint32_t words[STATE / 4], kept[STATE / 4];
    tlc_ctx_t ctx = {.model = &model, .state = (uint8_t *)words};
    for (uint32_t i = 0; i < 2; i++) {
        flash.slot[i] = malloc(SLOT);
        memset(flash.slot[i], 0xFF, SLOT);
        (void)take_bytes(&in, flash.slot[i], i ? SLOT : SLOT / 2u + small % (SLOT / 2u));
        put_right(flash.slot[i], i ? how >> 4 : how & 15u);
    }
    tlc_storage_t storage = {flash_read, flash_erase, flash_write, SLOT, &flash};
    tlc_journal_t journal;
    memset(&journal, 0, sizeof journal);
    journal.storage = &storage;
    uint32_t step = 99;
    const tlc_status_t status = tlc_journal_load(&journal, &ctx, &step);
    memcpy(kept, words, sizeof kept);
    model_init(&ctx);
    HOLDS(status == TLC_OK || (step == 0 && memcmp(kept, words, sizeof kept) == 0));
    HOLDS(journal.status == status && journal.newest <= 2 && (status == TLC_OK) == (journal.newest < 2));
    memcpy(words, kept, sizeof words);
    ctx.state[0] = (uint8_t)(ctx.state[0] + fails);
    ctx.state[WEIGHTS - 1] = small;
    flash.left = fails % 16u ? 255u : fails / 16u;
    const tlc_status_t saved = tlc_journal_save(&journal, &ctx, step + 1u);
    memcpy(words, saved == TLC_OK ? words : kept, sizeof words);
    memcpy(kept, words, sizeof kept);
    flash.left = 255u;
    const uint32_t wanted = saved == TLC_OK ? step + 1u : step;
    memset(&journal, 0, sizeof journal);
    journal.storage = &storage;
    const tlc_status_t again = tlc_journal_load(&journal, &ctx, &step);
    if (saved == TLC_OK || status == TLC_OK) { /* the new entry, or the one before */
        HOLDS(again == TLC_OK && step == wanted && memcmp(words, kept, PARAMS) == 0);
    }
    HOLDS(tlc_journal_clear(&journal) == TLC_OK && tlc_journal_load(&journal, &ctx, &step) != TLC_OK && step == 0);
    free(flash.slot[0]);
    free(flash.slot[1]);
    return 0;
}
