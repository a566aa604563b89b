/* SPDX-License-Identifier: Apache-2.0
 *
 * The journal of the learned tensors: the power fails at every byte and at every piece of an erasure, bits flip, the
 * bundle is another one; what is loaded then is the newest whole entry or the one before, and nothing else.
 */
#include "check.h"

#include <stdlib.h>
#include <string.h>

#include "tlc/journal.h"

#define WEIGHTS 300u
#define BIASES 12u
#define MORE 41u /* its place begins behind a hole */
#define BIASES_AT 304u
#define MORE_AT (BIASES_AT + 4u * BIASES + 16u)
#define ACCUMULATOR_AT 420u
#define STATE (ACCUMULATOR_AT + 4u * (WEIGHTS + BIASES))
#define SLOT 640u
#define PIECE 32u /* of an erasure */

/* ---- a model ---- */

static int8_t initial_weights[WEIGHTS];
static int32_t initial_biases[BIASES];
static uint32_t refreshed;

static void init(tlc_ctx_t *ctx) {
    memset(ctx->state, 0, STATE);
    memcpy(ctx->state, initial_weights, WEIGHTS);
    memcpy(ctx->state + BIASES_AT, initial_biases, sizeof initial_biases);
    ctx->samples = 0;
}

static void refresh(tlc_ctx_t *ctx) {
    (void)ctx;
    refreshed++;
}

static const tlc_param_t params[] = {
    {"weight", 0, WEIGHTS, TLC_S8, ACCUMULATOR_AT, initial_weights},
    {"bias", BIASES_AT, BIASES, TLC_S32, ACCUMULATOR_AT + 4 * WEIGHTS, initial_biases},
    {"more", MORE_AT, MORE, TLC_S8, TLC_NO_ACCUMULATOR, NULL},
};
static const tlc_model_t model = {.bundle_hash = {7, 7, 7},
                                  .state_bytes = STATE,
                                  .param_bytes = MORE_AT + MORE,
                                  .param_count = 3,
                                  .params = params,
                                  .init = init,
                                  .refresh = refresh};
static const tlc_model_t other_model = {.bundle_hash = {7, 7, 8},
                                        .state_bytes = STATE,
                                        .param_bytes = MORE_AT + MORE,
                                        .param_count = 3,
                                        .params = params,
                                        .init = init,
                                        .refresh = refresh};

/* ---- flash whose power fails ---- */

typedef enum { UPWARDS, DOWNWARDS, GARBLED } erasing_t;

typedef struct {
    uint8_t bytes[2][SLOT];
    uint32_t operations; /* since the last boot */
    uint32_t cut;        /* the operation in which the power fails; UINT32_MAX: none */
    bool dead;
    erasing_t erasing;
    int32_t stuck; /* a byte of slot 1 that cannot be written; -1: none */
} flash_t;

static flash_t flash;

static uint32_t seed = 1;
static uint32_t rnd(uint32_t below) {
    seed = seed * 1664525u + 1013904223u;
    return (seed >> 8) % below;
}

/* False: it is the one that is cut short. */
static bool alive(flash_t *f) {
    f->dead = f->dead || f->operations == f->cut;
    f->operations++;
    return !f->dead;
}

static bool flash_read(void *self, uint8_t slot, uint32_t offset, uint8_t *bytes, uint32_t count) {
    flash_t *f = self;
    CHECK(slot < 2 && offset <= SLOT && count <= SLOT - offset);
    memcpy(bytes, f->bytes[slot] + offset, count);
    return !f->dead;
}

static bool flash_erase(void *self, uint8_t slot) {
    flash_t *f = self;
    CHECK(slot < 2);
    for (uint32_t i = 0; i < SLOT / PIECE && !f->dead; i++) {
        uint8_t *piece = f->bytes[slot] + PIECE * (f->erasing == DOWNWARDS ? SLOT / PIECE - 1 - i : i);
        const bool whole = alive(f);
        for (uint32_t k = 0; k < PIECE; k++) {
            piece[k] = whole ? 0xFF : (uint8_t)(f->erasing == GARBLED ? rnd(256) : piece[k] | rnd(256));
        }
    }
    return !f->dead;
}

static bool flash_write(void *self, uint8_t slot, uint32_t offset, const uint8_t *bytes, uint32_t count) {
    flash_t *f = self;
    CHECK(slot < 2 && offset % TLC_JOURNAL_UNIT == 0 && count % TLC_JOURNAL_UNIT == 0);
    CHECK(((uintptr_t)bytes & 3u) == 0 && offset <= SLOT && count <= SLOT - offset);
    for (uint32_t i = 0; i < count && !f->dead; i++) {
        uint8_t *at = &f->bytes[slot][offset + i];
        CHECK(f->dead || *at == 0xFF); /* written where it is erased */
        const uint32_t kept = alive(f) ? 0u : rnd(256);
        *at = (uint8_t)(*at & (bytes[i] | kept)); /* bits only fall */
        if (slot == 1 && (int32_t)(offset + i) == f->stuck) {
            *at = (uint8_t)~bytes[i];
        }
    }
    return !f->dead;
}

static const tlc_storage_t storage = {flash_read, flash_erase, flash_write, SLOT, &flash};

/* ---- a device ---- */

typedef struct {
    uint8_t state[STATE] __attribute__((aligned(16)));
    tlc_ctx_t ctx;
    tlc_journal_t journal;
    uint32_t step;
    tlc_status_t status;
} device_t;

static void boot(device_t *device, const tlc_model_t *which) {
    memset(device, 0xA5, sizeof *device);
    memset(&device->ctx, 0, sizeof device->ctx);
    memset(&device->journal, 0, sizeof device->journal);
    device->ctx.model = which;
    device->ctx.state = device->state;
    device->journal.storage = &storage;
    flash.dead = false;
    flash.cut = UINT32_MAX;
    flash.operations = 0;
    device->status = tlc_journal_load(&device->journal, &device->ctx, &device->step);
}

static void new_flash(void) {
    memset(&flash, 0xFF, sizeof flash.bytes);
    flash.erasing = UPWARDS;
    flash.stuck = -1;
    for (uint32_t i = 0; i < WEIGHTS; i++) {
        initial_weights[i] = (int8_t)((int32_t)rnd(255) - 127);
    }
    for (uint32_t i = 0; i < BIASES; i++) {
        initial_biases[i] = (int32_t)rnd(2000000) - 1000000;
    }
}

/* How many of the values change, of 100, and by how much. */
static void learn(device_t *device, uint32_t percent, uint32_t most) {
    uint8_t *at = device->state;
    for (uint32_t i = 0; i < WEIGHTS + MORE; i++) {
        uint8_t *value = i < WEIGHTS ? at + i : at + MORE_AT + i - WEIGHTS;
        if (rnd(100) < percent) {
            *value = (uint8_t)(*value + rnd(2 * most + 1) - most);
        }
    }
    for (uint32_t i = 0; i < BIASES; i++) {
        if (rnd(100) < percent) {
            at[BIASES_AT + 4 * i] ^= (uint8_t)rnd(256);
            at[BIASES_AT + 4 * i + rnd(4)] ^= (uint8_t)rnd(most + 1);
        }
    }
}

typedef struct {
    uint8_t values[MORE_AT + MORE];
    uint32_t step;
} picture_t;

static picture_t picture(const device_t *device, uint32_t step) {
    picture_t taken;
    memcpy(taken.values, device->state, sizeof taken.values);
    taken.step = step;
    return taken;
}

static bool holds(const device_t *device, const picture_t *wanted) {
    return memcmp(device->state, wanted->values, sizeof wanted->values) == 0 && device->step == wanted->step;
}

static tlc_status_t save(device_t *device, uint32_t step) {
    device->step = step;
    const tlc_status_t status = tlc_journal_save(&device->journal, &device->ctx, step);
    CHECK(status != TLC_OK || device->journal.status == TLC_OK);
    return status;
}

/* ---- the coding ---- */

static void test_coding_by_hand(void) {
    new_flash();
    memset(initial_weights, 5, sizeof initial_weights);
    memset(initial_biases, 0, sizeof initial_biases);
    device_t device;
    boot(&device, &model);
    uint8_t *w = device.state;
    w[0] = 6; /* +1, then 0, then -8: nibbles */
    w[2] = 0xFD;
    w[3] = 100; /* +95 and -100: bytes */
    w[4] = (uint8_t)-95;
    int32_t biases[BIASES] = {1, -1, 300, INT32_MIN};
    memcpy(device.state + BIASES_AT, biases, sizeof biases);
    for (uint32_t i = 0; i < MORE; i++) {
        device.state[MORE_AT + i] = (uint8_t)(i % 2 ? 0 : 20 + i); /* best as it is */
    }
    static const uint8_t wanted[] = {
        1, 0x82, 0x01, 0x08, 0xC1, 95,   (uint8_t)-100, 127,  127,  38, /* 295 = 128 + 128 + 39 zeros */
        1, 2,    1,    0xD8, 4,    0xFF, 0xFF,          0xFF, 0xFF, 0x0F, 0, 0, 0, 0, 0, 0, 0, 0, 0, /* */
    };
    uint8_t coded[600];
    uint32_t bytes = 0;
    CHECK(tlc_delta_encode(&device.ctx, coded, sizeof coded, &bytes) == TLC_OK);
    CHECK(bytes == sizeof wanted - 1 + 1 + MORE);
    CHECK(memcmp(coded, wanted, sizeof wanted - 1) == 0);
    CHECK(coded[sizeof wanted - 1] == 0 && memcmp(coded + sizeof wanted, device.state + MORE_AT, MORE) == 0);
    const picture_t learned = picture(&device, 0);
    init(&device.ctx);
    CHECK(tlc_delta_decode(&device.ctx, coded, bytes) == TLC_OK && holds(&device, &learned));
    coded[bytes] = 0; /* a byte too many */
    CHECK(tlc_delta_decode(&device.ctx, coded, bytes + 1) == TLC_ERR_CORRUPT);
    coded[sizeof wanted - 10] = 0x1F; /* a bias of more than 32 bits */
    CHECK(wanted[sizeof wanted - 10] == 0x0F && tlc_delta_decode(&device.ctx, coded, bytes) == TLC_ERR_CORRUPT);
    coded[sizeof wanted - 10] = 0x0F;
    CHECK(tlc_delta_decode(&device.ctx, coded, bytes) == TLC_OK && holds(&device, &learned));
    uint32_t needed = 0;
    CHECK(tlc_delta_encode(&device.ctx, coded, bytes - 1, &needed) == TLC_ERR_SIZE && needed == bytes);
}

static void test_any_values_are_coded_and_decoded(void) {
    for (uint32_t round = 0; round < 500; round++) {
        new_flash();
        device_t device;
        boot(&device, &model);
        const picture_t start = picture(&device, 0);
        learn(&device, rnd(101), 1 + rnd(127));
        const picture_t learned = picture(&device, 0);
        uint8_t *coded = malloc(WEIGHTS + MORE + 4 * BIASES + 3);
        uint32_t bytes = 0;
        CHECK(coded != NULL);
        CHECK(tlc_delta_encode(&device.ctx, coded, WEIGHTS + MORE + 4 * BIASES + 3, &bytes) == TLC_OK);
        init(&device.ctx);
        const uint32_t before = refreshed;
        uint8_t *exact = malloc(bytes); /* so that a sanitizer sees a byte too many */
        CHECK(exact != NULL);
        memcpy(exact, coded, bytes);
        CHECK(tlc_delta_decode(&device.ctx, exact, bytes) == TLC_OK && holds(&device, &learned));
        CHECK(refreshed == before + 1);
        for (uint32_t at = 0; at < bytes; at += 1 + rnd(20)) {
            exact[at] = (uint8_t)(exact[at] ^ (1u << rnd(8)));
            const tlc_status_t status = tlc_delta_decode(&device.ctx, exact, bytes - rnd(2));
            CHECK(status == TLC_OK || (status == TLC_ERR_CORRUPT && holds(&device, &start)));
            exact[at] = coded[at];
        }
        const uint32_t shorter = rnd(bytes);
        uint8_t *part = malloc(shorter + 1);
        CHECK(part != NULL);
        memcpy(part, coded, shorter);
        CHECK(tlc_delta_decode(&device.ctx, part, shorter) == TLC_ERR_CORRUPT && holds(&device, &start));
        free(part);
        free(exact);
        free(coded);
    }
}

static void test_what_little_changed_is_short(void) {
    new_flash();
    device_t device;
    boot(&device, &model);
    CHECK(save(&device, 1) == TLC_OK);
    CHECK(device.journal.bytes == 3 + 3 + BIASES + 1);
    device.state[17]++;
    CHECK(save(&device, 2) == TLC_OK);
    CHECK(device.journal.bytes <= 3 + 6 + BIASES + 1);
}

/* ---- the power fails ---- */

/* One that has saved `entries` times; the pictures of its last two entries. */
static void prepare(device_t *device, uint32_t entries, picture_t *before, picture_t *now) {
    new_flash();
    boot(device, &model);
    *before = *now = picture(device, 0);
    for (uint32_t i = 0; i < entries; i++) {
        learn(device, 30, 9);
        CHECK(save(device, 10 + i) == TLC_OK);
        *before = *now;
        *now = picture(device, 10 + i);
    }
}

static void test_power_fails_at_every_operation_of_a_save(void) {
    uint32_t olds = 0, news = 0;
    for (uint32_t entries = 0; entries < 4; entries++) {
        for (uint32_t erasing = UPWARDS; erasing <= GARBLED; erasing++) {
            bool done = false;
            for (uint32_t cut = 0; !done; cut++) {
                device_t device;
                picture_t before, old;
                seed = entries; /* the same device each time */
                prepare(&device, entries, &before, &old);
                learn(&device, 60, 40);
                const picture_t new = picture(&device, 77);
                flash.operations = 0;
                flash.cut = cut;
                flash.erasing = (erasing_t)erasing;
                done = save(&device, 77) == TLC_OK;
                boot(&device, &model);
                CHECK(holds(&device, &old) || holds(&device, &new));
                CHECK(!done || holds(&device, &new));
                CHECK(device.status == TLC_OK || (entries == 0 && holds(&device, &old)));
                olds += holds(&device, &old);
                news += holds(&device, &new);
                /* and life goes on, even if the power fails again at about the same place */
                const picture_t kept = picture(&device, device.step);
                learn(&device, 20, 5);
                const picture_t next = picture(&device, 78);
                flash.operations = 0;
                flash.cut = cut + 3 - rnd(7);
                const bool again = save(&device, 78) == TLC_OK;
                boot(&device, &model);
                CHECK(holds(&device, &kept) || holds(&device, &next));
                CHECK(!again || holds(&device, &next));
                learn(&device, 20, 5);
                const picture_t last = picture(&device, 79);
                CHECK(save(&device, 79) == TLC_OK);
                boot(&device, &model);
                CHECK(device.status == TLC_OK && holds(&device, &last));
            }
        }
    }
    CHECK(olds > 1000 && news > 11);
}

static void test_power_fails_at_every_operation_of_clearing(void) {
    uint32_t olds = 0, news = 0;
    for (uint32_t entries = 1; entries < 4; entries++) {
        bool done = false;
        for (uint32_t cut = 0; !done; cut++) {
            device_t device;
            picture_t before, old;
            seed = entries;
            prepare(&device, entries, &before, &old);
            flash.operations = 0;
            flash.cut = cut;
            flash.erasing = (erasing_t)rnd(3);
            done = tlc_journal_clear(&device.journal) == TLC_OK;
            CHECK(device.journal.status == (done ? TLC_ERR_STATE : TLC_OK));
            boot(&device, &model);
            const bool kept = holds(&device, &old);
            init(&device.ctx);
            const picture_t new = picture(&device, 0);
            boot(&device, &model);
            CHECK(kept || holds(&device, &new));
            CHECK(!done || holds(&device, &new));
            olds += kept;
            news += !kept;
        }
        device_t device;
        boot(&device, &model);
        CHECK(device.status == TLC_ERR_STATE && device.step == 0);
        CHECK(device.journal.wear[0] + device.journal.wear[1] >= entries + (entries > 1 ? 2 : 1));
    }
    CHECK(olds > 20 && news > 20);
}

static void test_flipped_bits(void) {
    device_t device;
    picture_t before, now, read;
    prepare(&device, 3, &before, &now);
    const uint32_t newest = device.journal.newest;
    uint32_t previous = 0;
    for (uint32_t bit = 0; bit < 8 * SLOT; bit++) {
        flash.bytes[newest][bit / 8] ^= (uint8_t)(1u << bit % 8);
        boot(&device, &model);
        CHECK(holds(&device, &before) || holds(&device, &now));
        previous += holds(&device, &before);
        flash.bytes[newest][bit / 8] ^= (uint8_t)(1u << bit % 8);
        flash.bytes[1 - newest][bit / 8] ^= (uint8_t)(1u << bit % 8);
        boot(&device, &model);
        CHECK(holds(&device, &now));
        flash.bytes[1 - newest][bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    CHECK(previous >= 8 * (60 + 100)); /* all of the header, and of the payload */
    /* torn: from some byte on the slot is something else */
    for (uint32_t from = 0; from < SLOT; from += 7) {
        uint8_t kept[SLOT];
        memcpy(kept, flash.bytes[newest], SLOT);
        memset(flash.bytes[newest] + from, from % 2 ? 0x00 : 0xFF, SLOT - from);
        boot(&device, &model);
        CHECK(holds(&device, &before) || (from > 96 && holds(&device, &now)));
        memcpy(flash.bytes[newest], kept, SLOT);
    }
    /* both: the values in flash */
    flash.bytes[0][100] ^= 1;
    flash.bytes[1][100] ^= 1;
    boot(&device, &model);
    init(&device.ctx);
    read = picture(&device, 0);
    boot(&device, &model);
    CHECK(device.status == TLC_ERR_CORRUPT && holds(&device, &read));
    CHECK(save(&device, 5) == TLC_OK);
    boot(&device, &model);
    CHECK(device.status == TLC_OK && device.step == 5);
}

/* ---- wear ---- */

static void test_wear_is_spread_and_counted(void) {
    device_t device;
    picture_t before, now;
    prepare(&device, 100, &before, &now);
    CHECK(device.journal.wear[0] == 50 && device.journal.wear[1] == 50 && device.journal.saves == 100);
    CHECK(device.journal.sequence == 100);
    boot(&device, &model);
    CHECK(holds(&device, &now) && device.journal.wear[0] == 50 && device.journal.wear[1] == 50);
    /* nothing new: nothing is written */
    flash.operations = 0;
    CHECK(save(&device, now.step) == TLC_OK && flash.operations == 0 && device.journal.saves == 0);
    CHECK(save(&device, now.step + 1) == TLC_OK && device.journal.saves == 1);
    CHECK(device.journal.wear[0] == 51 && device.journal.wear[1] == 50);
    /* the count survives a cut anywhere, but for the erasure that was cut */
    for (uint32_t cut = 0; cut < SLOT / PIECE + 40; cut++) {
        const uint32_t sum = device.journal.wear[0] + device.journal.wear[1];
        learn(&device, 10, 3);
        flash.operations = 0;
        flash.cut = cut;
        CHECK(save(&device, 1000 + cut) != TLC_OK);
        boot(&device, &model);
        const uint32_t counted = device.journal.wear[0] + device.journal.wear[1];
        CHECK(counted >= sum && counted <= sum + 1 && (cut < SLOT / PIECE + 16 || counted == sum + 1));
    }
}

/* ---- other bundles ---- */

static void test_another_bundles_journal_is_left_alone(void) {
    device_t device;
    picture_t before, now;
    prepare(&device, 2, &before, &now);
    uint8_t kept[2][SLOT];
    memcpy(kept, flash.bytes, sizeof kept);
    boot(&device, &other_model);
    CHECK(device.status == TLC_ERR_BUNDLE && device.journal.status == TLC_ERR_BUNDLE && device.step == 0);
    CHECK(memcmp(device.state, initial_weights, WEIGHTS) == 0);
    CHECK(tlc_journal_clear(&device.journal) == TLC_OK);
    CHECK(memcmp(kept, flash.bytes, sizeof kept) == 0);
    /* the first save takes one slot, and both are told apart */
    learn(&device, 50, 20);
    const picture_t theirs = picture(&device, 3);
    CHECK(save(&device, 3) == TLC_OK);
    boot(&device, &other_model);
    CHECK(device.status == TLC_OK && holds(&device, &theirs));
    boot(&device, &model);
    CHECK(device.status == TLC_OK && (holds(&device, &now) || holds(&device, &before)));
    boot(&device, &other_model);
    CHECK(save(&device, 4) == TLC_OK); /* the second one the other */
    boot(&device, &model);
    CHECK(device.status == TLC_ERR_BUNDLE);
    /* where one slot is free, that one is taken */
    for (uint32_t theirs_in = 0; theirs_in < 2; theirs_in++) {
        prepare(&device, 1 + theirs_in, &before, &now);
        memset(flash.bytes[1 - theirs_in], 0xFF, SLOT);
        boot(&device, &other_model);
        CHECK(device.status == TLC_ERR_BUNDLE && save(&device, 5) == TLC_OK);
        boot(&device, &model);
        CHECK(device.status == TLC_OK && holds(&device, &now));
    }
}

/* ---- what cannot be ---- */

static void test_without_flash_or_with_bad(void) {
    device_t device;
    picture_t before, now;
    prepare(&device, 2, &before, &now); /* the entries lie in slots 0 and 1 */
    device.journal.storage = NULL;
    CHECK(tlc_journal_load(&device.journal, &device.ctx, &device.step) == TLC_ERR_STATE);
    CHECK(save(&device, 1) == TLC_ERR_STATE && tlc_journal_clear(&device.journal) == TLC_OK);
    CHECK(memcmp(device.state, initial_weights, WEIGHTS) == 0 && device.journal.wear[0] == 0);
    const tlc_storage_t tiny = {flash_read, flash_erase, flash_write, 96, &flash};
    device.journal.storage = &tiny;
    CHECK(save(&device, 1) == TLC_ERR_STATE);

    /* an entry that a slot has no room for: the one before stays */
    const tlc_storage_t narrow = {flash_read, flash_erase, flash_write, SLOT - 192, &flash};
    boot(&device, &model);
    device.journal.storage = &narrow;
    CHECK(tlc_journal_load(&device.journal, &device.ctx, &device.step) == TLC_OK);
    learn(&device, 100, 127);
    CHECK(save(&device, 50) == TLC_ERR_SIZE);
    boot(&device, &model);
    CHECK(holds(&device, &now));

    /* a worn-out byte in slot 1, in the payload, the header and the record */
    static const int32_t stuck[] = {96, 40, 130, 36};
    for (uint32_t i = 0; i < sizeof stuck / sizeof *stuck; i++) {
        prepare(&device, 3, &before, &now); /* the next goes to slot 1 */
        learn(&device, 50, 20);
        flash.stuck = stuck[i];
        CHECK(save(&device, 60) == TLC_ERR_CORRUPT);
        boot(&device, &model);
        CHECK(device.status == TLC_OK && holds(&device, &now));
        CHECK(save(&device, 61) == TLC_ERR_CORRUPT); /* it tries that slot again, never the good one */
        boot(&device, &model);
        CHECK(holds(&device, &now));
    }
}

/* ---- divergence ---- */

static void put_gradient(device_t *device, uint32_t i, float value) {
    memcpy(device->state + ACCUMULATOR_AT + 4 * i, &value, sizeof value);
}

static void test_gradients_that_explode(void) {
    new_flash();
    device_t device;
    boot(&device, &model);
    device.ctx.samples = 2;
    CHECK(tlc_check_gradient(&device.ctx, 0.0f) == TLC_OK && tlc_check_gradient(&device.ctx, 1e-20f) == TLC_OK);
    put_gradient(&device, 3, 6.0f); /* mean 3 */
    put_gradient(&device, WEIGHTS + BIASES - 1, -8.0f);
    CHECK(tlc_check_gradient(&device.ctx, 5.0f) == TLC_OK);
    CHECK(tlc_check_gradient(&device.ctx, 4.99f) == TLC_ERR_NUMERIC);
    put_gradient(&device, 5, 1e30f); /* its square is infinite, itself it is not */
    CHECK(tlc_check_gradient(&device.ctx, 0.0f) == TLC_OK);
    CHECK(tlc_check_gradient(&device.ctx, 1e18f) == TLC_ERR_NUMERIC);
    static const uint32_t bad[] = {0x7F800000u, 0xFF800000u, 0x7FC00000u, 0xFF800001u};
    for (uint32_t i = 0; i < 4; i++) {
        memcpy(device.state + ACCUMULATOR_AT + 4 * (WEIGHTS + i), &bad[i], 4);
        CHECK(tlc_check_gradient(&device.ctx, 0.0f) == TLC_ERR_NUMERIC);
        put_gradient(&device, WEIGHTS + i, 0.0f);
    }
}

static void test_weights_at_the_end_of_their_range(void) {
    new_flash();
    device_t device;
    initial_weights[0] = 127; /* it was there before */
    boot(&device, &model);
    memset(initial_weights, 1, WEIGHTS);
    initial_weights[0] = 127;
    init(&device.ctx);
    CHECK(tlc_check_weights(&device.ctx, 0) == TLC_OK);
    for (uint32_t i = 0; i < 76; i++) { /* 75 of 300 are a quarter; the first one does not count */
        device.state[i] = i % 2 ? 0x81 : 0x7F;
    }
    CHECK(tlc_check_weights(&device.ctx, 25) == TLC_OK && tlc_check_weights(&device.ctx, 24) == TLC_ERR_NUMERIC);
    device.state[76] = 0x81;
    CHECK(tlc_check_weights(&device.ctx, 25) == TLC_ERR_NUMERIC && tlc_check_weights(&device.ctx, 100) == TLC_OK);
    init(&device.ctx);
    const int32_t large[] = {1 << 30, -(1 << 30), (1 << 30) - 1, 3};
    memcpy(device.state + BIASES_AT, large, sizeof large); /* 2 of 12 */
    CHECK(tlc_check_weights(&device.ctx, 17) == TLC_OK && tlc_check_weights(&device.ctx, 15) == TLC_ERR_NUMERIC);
}

int main(void) {
    test_coding_by_hand();
    test_any_values_are_coded_and_decoded();
    test_what_little_changed_is_short();
    test_power_fails_at_every_operation_of_a_save();
    test_power_fails_at_every_operation_of_clearing();
    test_flipped_bits();
    test_wear_is_spread_and_counted();
    test_another_bundles_journal_is_left_alone();
    test_without_flash_or_with_bad();
    test_gradients_that_explode();
    test_weights_at_the_end_of_their_range();
    return check_result();
}
