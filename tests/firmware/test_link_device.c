/* SPDX-License-Identifier: Apache-2.0
 *
 * The device's loop without a host of ours: frames made by hand, memory watched. Tensors go straight into the arena and
 * are sent from it, as on the smallest boards.
 */
#include "../conformance/small_model.h"
#include "check.h"
#include "tlc/bytes.h"
#include "tlc/cobs.h"
#include "tlc/device.h"

#define FRAGMENT 128u
#define WINDOW 4u
#define GUARD 64u

typedef struct {
    uint8_t before[GUARD];
    uint8_t arena[SMALL_ARENA] __attribute__((aligned(16)));
    uint8_t between[GUARD];
    uint8_t state[SMALL_STATE] __attribute__((aligned(16)));
    uint8_t after[GUARD];
    uint32_t link[(TLC_LINK_MEMORY(WINDOW, FRAGMENT) + 3) / 4];
    uint8_t last[GUARD];
} memory_t;

typedef struct {
    memory_t memory;
    tlc_device_t device;
    tlc_port_t port;
    uint32_t now;
    uint8_t in[4096];
    size_t in_count, in_at;
    tlc_cobs_decoder_t decoder;
    uint8_t frame[1024];
    /* the host */
    uint32_t session;
    uint16_t sequence, acknowledge;
    uint16_t number[3];
    int acknowledges; /* whether it does */
    uint32_t credit;
    uint8_t message[8][1024]; /* the last messages whole, newest last */
    uint32_t length[8];
    uint8_t type[8];
    uint32_t messages;
    uint32_t got;
    /* the application */
    int samples;
    float result[128];
    uint32_t result_count;
} world_t;

static world_t w;

static size_t port_read(void *self, uint8_t *bytes, size_t capacity) {
    world_t *world = self;
    size_t count = world->in_count - world->in_at;
    count = count < capacity ? count : capacity;
    memcpy(bytes, world->in + world->in_at, count);
    world->in_at += count;
    return count;
}

static void take_frame(const uint8_t *frame, size_t count) {
    const uint8_t *body = frame + TLC_LINK_FRAME_HEADER;
    const uint32_t size = (uint32_t)(count - TLC_LINK_FRAME_HEADER);
    CHECK(count >= TLC_LINK_FRAME_HEADER && size <= FRAGMENT);
    if (frame[1] == TLC_FRAME_ACCEPT) {
        w.session = tlc_get_u32(frame + 8);
        return;
    }
    if (frame[1] < TLC_FRAME_ACK) {
        return;
    }
    w.credit = tlc_get_u24(frame + 3);
    w.sequence = tlc_get_u16(frame + 14) > w.sequence ? tlc_get_u16(frame + 14) : w.sequence;
    if (frame[1] < TLC_FRAME_MESSAGE || !w.acknowledges || tlc_get_u16(frame + 12) != w.acknowledge) {
        return;
    }
    w.acknowledge++;
    const uint32_t at = w.messages % 8u;
    memcpy(w.message[at] + tlc_get_u24(frame + 22), body, size);
    w.got += size;
    if (w.got == tlc_get_u24(frame + 25)) {
        w.type[at] = frame[1];
        w.length[at] = w.got;
        w.messages++;
        w.got = 0;
    }
}

static size_t port_write(void *self, const uint8_t *bytes, size_t count) {
    world_t *world = self;
    const size_t most = count < 50 ? count : 50; /* a small hardware buffer */
    size_t done = 0;
    while (done < most) {
        size_t used = 0;
        size_t length = 0;
        const tlc_cobs_result_t result = tlc_cobs_decode(&world->decoder, bytes + done, most - done, &used, &length);
        CHECK(result != TLC_COBS_BAD);
        if (result == TLC_COBS_FRAME) {
            take_frame(world->frame, length);
        }
        done += used;
    }
    return most;
}

static uint32_t port_millis(void *self) { return ((world_t *)self)->now; }
static uint64_t port_ticks(void *self) { return ((world_t *)self)->now; }
static uint32_t port_entropy(void *self) {
    (void)self;
    return 12345;
}

static bool app_sample(void *app, tlc_sample_t *sample) {
    world_t *world = app;
    if (world->samples == 0) {
        return false;
    }
    world->samples--;
    for (uint32_t i = 0; i < SMALL_N; i++) {
        const float value = 0.5f * (float)i - 20.0f;
        tlc_sample_put(sample, i == 7 ? value / 0.0f * 0.0f : value); /* NaN */
    }
    tlc_sample_put(sample, 1e9f); /* one too many is dropped */
    return true;
}

static void app_result(void *app, const float *values, uint32_t count) {
    world_t *world = app;
    world->result_count = count;
    memcpy(world->result, values, sizeof(float) * count);
}

/* ---- flash ---- */

#define FLASH_SLOT 256u
static uint8_t flash[2][FLASH_SLOT];

static bool flash_read(void *self, uint8_t slot, uint32_t offset, uint8_t *bytes, uint32_t count) {
    (void)self;
    CHECK(slot < 2 && offset <= FLASH_SLOT && count <= FLASH_SLOT - offset);
    memcpy(bytes, flash[slot] + offset, count);
    return true;
}

static bool flash_erase(void *self, uint8_t slot) {
    (void)self;
    CHECK(slot < 2);
    memset(flash[slot], 0xFF, FLASH_SLOT);
    return true;
}

static bool flash_write(void *self, uint8_t slot, uint32_t offset, const uint8_t *bytes, uint32_t count) {
    (void)self;
    CHECK(slot < 2 && offset <= FLASH_SLOT && count <= FLASH_SLOT - offset);
    memcpy(flash[slot] + offset, bytes, count);
    return true;
}

static const tlc_storage_t storage = {flash_read, flash_erase, flash_write, FLASH_SLOT, NULL};

static void boot(bool standalone) {
    memset(&w, 0, sizeof w);
    memset(flash, 0xFF, sizeof flash);
    memset(&w.memory, 0xA5, sizeof w.memory);
    w.now = 0xFFFFFF00u; /* the clock wraps */
    w.acknowledges = 1;
    tlc_cobs_decoder_init(&w.decoder, w.frame, sizeof w.frame);
    w.port.read = port_read;
    w.port.write = port_write;
    w.port.millis = port_millis;
    w.port.ticks = port_ticks;
    w.port.entropy = port_entropy;
    w.port.self = &w;
    tlc_device_config_t config;
    tlc_device_defaults(&config);
    config.model = &tlc_model;
    config.port = &w.port;
    config.arena = w.memory.arena;
    config.state = w.memory.state;
    config.link_memory = w.memory.link;
    config.link_memory_bytes = TLC_LINK_MEMORY(WINDOW, FRAGMENT);
    config.fragment = FRAGMENT;
    config.window = WINDOW;
    config.peer_window = WINDOW;
    config.board = "test";
    config.standalone = standalone;
    config.keeper = &tlc_keeper;
    config.storage = &storage;
    config.sample = app_sample;
    config.result = app_result;
    config.app = &w;
    CHECK(tlc_device_init(&w.device, &config) == TLC_OK);
    config.link_memory_bytes--;
    tlc_device_t other;
    CHECK(tlc_device_init(&other, &config) == TLC_ERR_SIZE);
}

static void guards_hold(void) {
    for (uint32_t i = 0; i < GUARD; i++) {
        CHECK(w.memory.before[i] == 0xA5 && w.memory.between[i] == 0xA5 && w.memory.after[i] == 0xA5 &&
              w.memory.last[i] == 0xA5);
    }
}

static void run(uint32_t ms) {
    for (uint32_t i = 0; i < ms; i++) {
        w.now++;
        while (tlc_device_poll(&w.device)) {
        }
        if (w.in_at == w.in_count) {
            w.in_at = 0;
            w.in_count = 0;
        }
    }
}

static void put_frame(uint8_t type, uint8_t stream, uint32_t session, uint16_t sequence, uint16_t number,
                      uint32_t offset, uint32_t length, const uint8_t *payload, size_t count) {
    uint8_t header[TLC_LINK_FRAME_HEADER] = {TLC_LINK_VERSION, type, stream};
    tlc_put_u24(header + 3, 0x700000u);
    tlc_put_u32(header + 8, session);
    tlc_put_u16(header + 12, sequence);
    tlc_put_u16(header + 14, w.acknowledge);
    tlc_put_u16(header + 20, number);
    tlc_put_u24(header + 22, offset);
    tlc_put_u24(header + 25, length);
    tlc_cobs_encoder_t encoder;
    tlc_cobs_begin(&encoder, w.in + w.in_count, sizeof w.in - w.in_count);
    tlc_cobs_put(&encoder, header, sizeof header);
    if (count) {
        tlc_cobs_put(&encoder, payload, count);
    }
    w.in_count += tlc_cobs_end(&encoder);
}

static void acknowledge(void) { put_frame(TLC_FRAME_ACK, 0, w.session, w.sequence, 0, 0, 0, NULL, 0); }

static void say(uint8_t type, uint8_t stream, const uint8_t *message, uint32_t count) {
    for (uint32_t at = 0; at < count; at += FRAGMENT) {
        const uint32_t part = count - at < FRAGMENT ? count - at : FRAGMENT;
        const uint16_t before = w.sequence;
        for (int i = 0; i < 50 && w.sequence == before; i++) {
            put_frame(type, stream, w.session, before, w.number[stream], at, count, message + at, part);
            run(20);
            if (!w.acknowledges) {
                break;
            }
        }
    }
    w.number[stream]++;
}

static uint8_t *newest(uint8_t type) {
    for (int i = 0; i < 60; i++) { /* let what is under way arrive */
        acknowledge();
        run(20);
    }
    static uint8_t none[1024];
    const uint32_t at = (w.messages - 1u) % 8u;
    CHECK(w.messages && w.type[at] == type);
    return w.messages && w.type[at] == type ? w.message[at] : none;
}

static void open_session(uint32_t nonce) {
    uint8_t body[TLC_LINK_OPEN_BYTES] = {0};
    tlc_put_u32(body, nonce);
    tlc_put_u16(body + 8, 1024);
    body[10] = 32;
    tlc_put_u32(body + 12, 1u << 20);
    tlc_put_u32(body + 16, 1);
    tlc_put_u16(body + 20, 1024);
    tlc_put_u16(body + 22, 1000);
    w.session = 0;
    put_frame(TLC_FRAME_OPEN, 0, 0, 0, 0, 0, 0, body, sizeof body);
    run(5);
    CHECK(w.session != 0);
    w.sequence = 0;
    w.acknowledge = 0;
    w.got = 0;
    memset(w.number, 0, sizeof w.number);
    acknowledge();
    run(5);
    const uint8_t *hello = newest(TLC_MSG_HELLO);
    CHECK(memcmp(hello + TLC_HELLO_HASH, tlc_model.bundle_hash, TLC_HASH_BYTES) == 0);
    CHECK(memcmp(hello + TLC_HELLO_BYTES, "test", 4) == 0);
    uint8_t welcome[TLC_WELCOME_BYTES] = {9};
    tlc_put_u32(welcome + TLC_WELCOME_TOKEN, 77);
    memcpy(welcome + TLC_WELCOME_HASH, tlc_model.bundle_hash, TLC_HASH_BYTES);
    say(TLC_MSG_WELCOME, TLC_STREAM_CONTROL, welcome, sizeof welcome);
    CHECK(newest(TLC_MSG_DONE)[TLC_DONE_OF] == TLC_MSG_WELCOME);
}

static void say_forward(uint32_t request, int8_t first) {
    uint8_t message[TLC_FORWARD_BYTES + SMALL_N] = {0};
    tlc_put_u32(message, request);
    message[TLC_FORWARD_FLAGS] = TLC_FORWARD_RUN | TLC_FORWARD_KEEP;
    for (uint32_t i = 0; i < SMALL_N; i++) {
        message[TLC_FORWARD_BYTES + i] = (uint8_t)(int8_t)(first + (int)(i % 11u));
    }
    say(TLC_MSG_FORWARD, TLC_STREAM_BULK, message, sizeof message);
}

static void check_smashed(uint32_t request, int8_t first) {
    const uint8_t *smashed = newest(TLC_MSG_SMASHED);
    CHECK(tlc_get_u32(smashed) == request);
    for (uint32_t i = 0; i < SMALL_N; i++) {
        CHECK((int8_t)smashed[TLC_SMASHED_BYTES + i] == first + (int)(i % 11u) + (int)(i % 7u));
    }
}

static void test_training_in_the_arena(void) {
    boot(false);
    open_session(1);
    say_forward(40, 10);
    check_smashed(40, 10);
    uint8_t message[TLC_BACKWARD_BYTES + SMALL_N] = {0};
    tlc_put_u32(message, 41);
    tlc_put_u32(message + TLC_BACKWARD_FORWARD, 40);
    message[TLC_BACKWARD_DTYPE] = TLC_S8;
    tlc_put_f32(message + TLC_BACKWARD_SCALE, 0.5f);
    for (uint32_t i = 0; i < SMALL_N; i++) {
        message[TLC_BACKWARD_BYTES + i] = (uint8_t)(int8_t)((int)i - 50);
    }
    say(TLC_MSG_BACKWARD, TLC_STREAM_BULK, message, sizeof message);
    CHECK(tlc_get_u32(newest(TLC_MSG_DONE) + TLC_DONE_SAMPLES) == 1);
    const float *acc = (const float *)(const void *)(w.memory.state + SMALL_ACC);
    for (uint32_t i = 0; i < SMALL_N; i++) {
        const float expected = 0.5f * (float)((int)i - 50) * (float)(10 + (int)(i % 11u));
        CHECK(acc[i] == expected);
    }
    say(TLC_MSG_BACKWARD, TLC_STREAM_BULK, message, sizeof message);
    CHECK(newest(TLC_MSG_DONE)[TLC_DONE_FLAGS] == TLC_DONE_REPEATED);
    CHECK(w.device.ctx.samples == 1);
    guards_hold();
}

/* A second FORWARD before the first output was acknowledged may not overwrite it. */
static void test_outputs_stay_until_acknowledged(void) {
    boot(false);
    open_session(1);
    w.acknowledges = 0;
    say_forward(50, 3);
    run(3);
    say_forward(51, 60);
    run(100);
    CHECK(w.device.forwards == 1);
    CHECK((int8_t)w.memory.arena[SMALL_Y] == 3);
    w.acknowledges = 1;
    w.number[TLC_STREAM_BULK]--;
    check_smashed(50, 3);
    say_forward(51, 60);
    check_smashed(51, 60);
    guards_hold();
}

/* Nor may one that comes while the device's own sample is on its way. */
static void test_own_sample_stays_until_acknowledged(void) {
    boot(false);
    open_session(1);
    w.acknowledges = 0;
    w.samples = 1;
    run(3);
    CHECK(w.device.forwards == 1);
    const uint8_t before = w.memory.arena[SMALL_X];
    say_forward(51, 60);
    run(100);
    CHECK(w.device.forwards == 1 && w.memory.arena[SMALL_X] == before);
    w.acknowledges = 1;
    w.number[TLC_STREAM_BULK]--;
    const uint8_t *smashed = newest(TLC_MSG_SMASHED);
    CHECK(smashed[TLC_SMASHED_FLAGS] == TLC_SMASHED_SAMPLE && tlc_get_u32(smashed) == 0x80000001u);
    for (uint32_t i = 0; i < SMALL_N; i++) {
        CHECK((int8_t)smashed[TLC_SMASHED_BYTES + i] == (i == 7 ? 3 : (int)i - 40 + 3) + (int)(i % 7u));
    }
    uint8_t result[TLC_RESULT_BYTES + 8] = {0};
    memcpy(result, smashed, 4);
    result[TLC_RESULT_COUNT] = 2;
    tlc_put_f32(result + TLC_RESULT_BYTES, 1.5f);
    tlc_put_f32(result + TLC_RESULT_BYTES + 4, -2.0f);
    say(TLC_MSG_RESULT, TLC_STREAM_BULK, result, sizeof result);
    run(5);
    CHECK(w.result_count == 2 && w.result[0] == 1.5f && w.result[1] == -2.0f);
}

/* Fragments that reach beyond their message, or that overlap, and acknowledgements of what was never sent. */
static void test_lies_are_not_believed(void) {
    boot(false);
    open_session(1);
    uint8_t bytes[FRAGMENT];
    memset(bytes, 0x77, sizeof bytes);
    const uint32_t length = TLC_FORWARD_BYTES + SMALL_N;
    memset(w.memory.arena, 0, SMALL_ARENA);
    put_frame(TLC_MSG_FORWARD, TLC_STREAM_BULK, w.session, w.sequence, w.number[1], length - 1, length, bytes, 100);
    run(10);
    put_frame(TLC_MSG_FORWARD, TLC_STREAM_BULK, w.session, w.sequence, w.number[1], 20, length, bytes, 90);
    run(10);
    CHECK(w.memory.arena[SMALL_X] == 0x77);
    const uint16_t before = w.device.link.take_sequence;
    put_frame(TLC_MSG_FORWARD, TLC_STREAM_BULK, w.session, w.sequence, w.number[1], 20, length, bytes, 90);
    run(10);
    put_frame(TLC_MSG_BACKWARD, TLC_STREAM_BULK, w.session, w.sequence, w.number[1], 0, length, bytes, 20);
    run(10);
    CHECK(w.device.link.take_sequence == before);
    for (uint32_t i = SMALL_N; i < SMALL_ARENA; i++) {
        CHECK(w.memory.arena[i] == 0);
    }
    boot(false);
    open_session(1);
    w.acknowledges = 0;
    say_forward(50, 3);
    const uint16_t honest = w.acknowledge;
    w.acknowledge = (uint16_t)(honest + 100u);
    acknowledge();
    run(3);
    CHECK(tlc_link_payloads(&w.device.link) == 1);
    w.acknowledge = honest;
    w.acknowledges = 1;
    check_smashed(50, 3);
    guards_hold();
}

static void test_standalone_needs_no_host(void) {
    boot(true);
    w.samples = 1;
    run(3);
    CHECK(w.result_count == SMALL_N);
    for (uint32_t i = 0; i < SMALL_N; i++) {
        const int q = i == 7 ? 3 : (int)i - 40 + 3; /* x / 0.5 + 3; NaN is the zero point */
        CHECK(w.result[i] == 0.25f * (float)(q + (int)(i % 7u) + 4));
    }
    guards_hold();
}

static void test_log(void) {
    boot(false);
    CHECK(!tlc_device_log(&w.device, 20, "nobody hears"));
    open_session(1);
    CHECK(tlc_device_log(&w.device, 20, "hello"));
    CHECK(!tlc_device_log(&w.device, 20, "too soon"));
    const uint8_t *line = newest(TLC_MSG_LOG);
    CHECK(line[TLC_LOG_LEVEL] == 20 && memcmp(line + TLC_LOG_BYTES, "hello", 5) == 0);
    CHECK(tlc_device_log(&w.device, 40, "again"));
}

static void test_what_does_not_fit_is_answered(void) {
    boot(false);
    open_session(1);
    uint8_t message[400] = {0};
    say(TLC_MSG_FORWARD, TLC_STREAM_BULK, message, TLC_FORWARD_BYTES + SMALL_N - 1);
    CHECK(newest(TLC_MSG_ERROR)[TLC_ERROR_STATUS] == TLC_ERR_SIZE);
    say(TLC_MSG_SET_PARAMS, TLC_STREAM_BULK, message, TLC_PARAMS_BYTES + SMALL_N + 1);
    CHECK(newest(TLC_MSG_ERROR)[TLC_ERROR_STATUS] == TLC_ERR_SIZE);
    tlc_put_u32(message + TLC_PARAMS_OFFSET, SMALL_N);
    tlc_put_u32(message + TLC_PARAMS_TOTAL, SMALL_N);
    say(TLC_MSG_SET_PARAMS, TLC_STREAM_BULK, message, TLC_PARAMS_BYTES + 1);
    CHECK(newest(TLC_MSG_ERROR)[TLC_ERROR_STATUS] == TLC_ERR_SIZE);
    tlc_put_u32(message + TLC_PARAMS_TOTAL, 0xFFFFFFFFu);
    say(TLC_MSG_GET_PARAMS, TLC_STREAM_CONTROL, message, TLC_PARAMS_BYTES);
    CHECK(newest(TLC_MSG_ERROR)[TLC_ERROR_STATUS] == TLC_ERR_SIZE);
    say(0x7F, TLC_STREAM_BULK, message, 300);
    CHECK(newest(TLC_MSG_ERROR)[TLC_ERROR_STATUS] == TLC_ERR_ARG);
    guards_hold();
}

static uint32_t state = 1;
static uint32_t rnd(uint32_t below) {
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % below;
}

/* Bytes and well-formed frames at random, within a session and without. */
static void test_anything(void) {
    boot(false);
    open_session(1);
    for (uint32_t round = 0; round < 20000; round++) {
        uint8_t bytes[FRAGMENT + 40];
        const uint32_t count = rnd(sizeof bytes);
        for (uint32_t i = 0; i < count; i++) {
            bytes[i] = (uint8_t)(rnd(3) ? rnd(256) : rnd(4));
        }
        w.acknowledge = (uint16_t)(rnd(4) ? w.acknowledge : rnd(0x10000));
        if (rnd(8) == 0) {
            memcpy(w.in, bytes, count);
            w.in_count = count;
        } else {
            static const uint32_t lengths[] = {0, 1, 20, 120, 127, 128, 129, 424, 428, 4000, 0xFFFFFF};
            const uint32_t length = rnd(2) ? lengths[rnd(11)] : count;
            const uint32_t offset = rnd(2) ? 0 : rnd(3) ? rnd(500) : lengths[rnd(11)];
            const uint8_t type = (uint8_t)(rnd(6) ? TLC_MSG_HELLO + rnd(36) : rnd(256));
            put_frame(type, (uint8_t)(rnd(8) ? rnd(3) : rnd(256)), rnd(10) ? w.device.link.peer.session : rnd(3),
                      (uint16_t)(w.device.link.take_sequence + (rnd(2) ? 0 : rnd(40))),
                      (uint16_t)(w.device.link.take_number[rnd(2)] + rnd(2)), offset, length, bytes, count);
        }
        run(rnd(3));
        w.in_at = w.in_count = 0;
    }
    guards_hold();
    w.acknowledge = 0;
    tlc_cobs_decoder_init(&w.decoder, w.frame, sizeof w.frame);
    put_frame(TLC_FRAME_ACK, 0, 1, 0, 0, 0, 0, NULL, 0); /* ends what is half received */
    run(20);
    w.messages = 0;
    open_session(99);
    memset(w.memory.state, 0, SMALL_STATE);
    for (uint32_t i = 0; i < SMALL_N; i++) {
        w.memory.state[i] = (uint8_t)(i % 7u);
    }
    say_forward(70, 5);
    check_smashed(70, 5);
    guards_hold();
}

int main(void) {
    test_training_in_the_arena();
    test_outputs_stay_until_acknowledged();
    test_own_sample_stays_until_acknowledged();
    test_lies_are_not_believed();
    test_standalone_needs_no_host();
    test_log();
    test_what_does_not_fit_is_answered();
    test_anything();
    return check_result();
}
