/* SPDX-License-Identifier: Apache-2.0
 *
 * The device's messages: a host whose frames are right and whose messages are anything, resets, flash that fails. What
 * is asked twice with the same numbers is done once.
 */
#include "../conformance/small_model.h"
#include "input.h"
#include "tlc/bytes.h"
#include "tlc/device.h"

#define FRAGMENT 128u
#define WINDOW 4u
#define SLOT 256u
#define MOST 700u

typedef struct {
    tlc_device_t device;
    tlc_port_t port;
    tlc_storage_t storage;
    uint8_t *arena, *state, *message, *output;
    void *link;
    uint8_t flash[2][SLOT];
    uint32_t flash_left; /* operations until it fails; UINT32_MAX: never */
    uint32_t boot, now, nonce;
    bool samples;
    uint8_t in[1024];
    size_t in_count, in_at;
    tlc_cobs_decoder_t decoder;
    uint8_t frame[512];
    uint32_t session;
    uint16_t expects, acknowledge, sequence;
    uint16_t number[2];
    bool open;
} world_t;

static world_t w;

static size_t port_read(void *self, uint8_t *bytes, size_t capacity) {
    (void)self;
    const size_t left = w.in_count - w.in_at, count = left < capacity ? left : capacity;
    memcpy(bytes, w.in + w.in_at, count);
    w.in_at += count;
    return count;
}

static size_t port_write(void *self, const uint8_t *bytes, size_t count) {
    (void)self;
    const size_t most = count < 50u ? count : 50u; /* a small hardware buffer */
    size_t done = 0;
    while (done < most) {
        size_t used = 0, length = 0;
        const tlc_cobs_result_t result = tlc_cobs_decode(&w.decoder, bytes + done, most - done, &used, &length);
        HOLDS(result != TLC_COBS_BAD);
        done += used;
        if (result != TLC_COBS_FRAME) {
            continue;
        }
        HOLDS(length >= TLC_LINK_FRAME_HEADER);
        if (w.frame[1] == TLC_FRAME_ACCEPT) {
            w.session = tlc_get_u32(w.frame + 8);
        } else if (w.frame[1] >= TLC_FRAME_ACK && tlc_get_u32(w.frame + 8) == w.session) {
            w.expects = tlc_get_u16(w.frame + 14);
            if (w.frame[1] >= TLC_FRAME_MESSAGE) {
                w.acknowledge = (uint16_t)(tlc_get_u16(w.frame + 12) + 1u); /* nothing is lost here */
            }
        } else if (w.frame[1] == TLC_FRAME_END) {
            w.open = w.open && tlc_get_u32(w.frame + 8) != w.session;
        }
    }
    return most;
}

static uint32_t port_millis(void *self) {
    (void)self;
    return w.now;
}
static uint64_t port_ticks(void *self) {
    (void)self;
    return w.now;
}
static uint32_t port_entropy(void *self) {
    (void)self;
    return w.boot;
}

static bool flash_works(void) {
    if (w.flash_left == 0) {
        return false;
    }
    w.flash_left -= w.flash_left != UINT32_MAX;
    return true;
}

static bool flash_read(void *self, uint8_t slot, uint32_t offset, uint8_t *bytes, uint32_t count) {
    (void)self;
    HOLDS(slot < 2 && offset <= SLOT && count <= SLOT - offset);
    memcpy(bytes, w.flash[slot] + offset, count);
    return true;
}

static bool flash_erase(void *self, uint8_t slot) {
    (void)self;
    HOLDS(slot < 2);
    if (!flash_works()) {
        return false;
    }
    memset(w.flash[slot], 0xFF, SLOT);
    return true;
}

static bool flash_write(void *self, uint8_t slot, uint32_t offset, const uint8_t *bytes, uint32_t count) {
    (void)self;
    HOLDS(slot < 2 && offset <= SLOT && count <= SLOT - offset);
    if (!flash_works()) {
        return false;
    }
    memcpy(w.flash[slot] + offset, bytes, count);
    return true;
}

static bool app_sample(void *app, tlc_sample_t *sample) {
    (void)app;
    for (uint32_t i = 0; w.samples && i < SMALL_N; i++) {
        tlc_sample_put(sample, 0.5f * (float)i);
    }
    const bool given = w.samples;
    w.samples = false;
    return given;
}

static void app_result(void *app, const float *values, uint32_t count) {
    (void)app;
    float sum = 0.0f;
    for (uint32_t i = 0; i < count; i++) {
        sum += values[i];
    }
    HOLDS(sum == sum || sum != sum); /* all of them were read */
}

static void poll(uint32_t ms) {
    w.now += ms;
    for (int i = 0; i < 200 && tlc_device_poll(&w.device); i++) {
    }
    if (w.in_at == w.in_count) {
        w.in_at = w.in_count = 0;
    }
}

static void put_frame(uint8_t type, uint8_t stream, uint32_t session, uint32_t offset, uint32_t length,
                      const uint8_t *payload, size_t count) {
    uint8_t header[TLC_LINK_FRAME_HEADER] = {TLC_LINK_VERSION, type, stream};
    tlc_put_u24(header + 3, w.number[1] * MOST + 0x100000u);
    tlc_put_u32(header + 8, session);
    tlc_put_u16(header + 12, w.sequence);
    tlc_put_u16(header + 14, w.acknowledge);
    tlc_put_u16(header + 20, type >= TLC_FRAME_MESSAGE ? w.number[stream & 1u] : 0u);
    tlc_put_u24(header + 22, offset);
    tlc_put_u24(header + 25, length);
    if (session == 0) {
        memset(header + 3, 0, sizeof header - 3);
    }
    tlc_cobs_encoder_t encoder;
    tlc_cobs_begin(&encoder, w.in + w.in_count, sizeof w.in - w.in_count);
    tlc_cobs_put(&encoder, header, sizeof header);
    if (count) {
        tlc_cobs_put(&encoder, payload, count);
    }
    w.in_count += tlc_cobs_end(&encoder);
}

static void say_ack(void) {
    if (w.open) {
        put_frame(TLC_FRAME_ACK, (uint8_t)(TLC_FLAG_ACK_NOW << 4), w.session, 0, 0, NULL, 0);
        poll(1);
    }
}

static bool open_session(uint32_t control) {
    uint8_t body[TLC_LINK_OPEN_BYTES];
    memset(body, 0, sizeof body);
    tlc_put_u32(body, ++w.nonce);
    tlc_put_u16(body + 8, FRAGMENT);
    body[10] = 32;
    tlc_put_u32(body + 12, 4096);
    tlc_put_u32(body + 16, 1);
    tlc_put_u16(body + 20, (uint16_t)control);
    w.sequence = w.expects = w.acknowledge = w.number[0] = w.number[1] = 0;
    w.open = true;
    put_frame(TLC_FRAME_OPEN, 0, 0, 0, 0, body, sizeof body);
    poll(1);
    say_ack();
    say_ack();
    return w.open;
}

/* All of a message, or the session is given up: a host may not leave one out. */
static void send_message(uint8_t type, uint8_t stream, const uint8_t *bytes, uint32_t count) {
    if (!w.open && !open_session(TLC_LINK_MIN_FRAGMENT)) {
        return;
    }
    if (count == 0 || (stream == 0 && count > TLC_LINK_CONTROL_BYTES)) {
        return;
    }
    for (uint32_t at = 0; at < count;) {
        const uint32_t part = count - at < FRAGMENT ? count - at : FRAGMENT;
        int tries = 0;
        do {
            if (!w.open || ++tries > 6) {
                w.open = false;
                return;
            }
            put_frame(type, stream, w.session, at, count, bytes + at, part);
            poll(6);
            say_ack();
        } while (w.expects != (uint16_t)(w.sequence + 1u));
        w.sequence++;
        at += part;
    }
    w.number[stream]++;
    for (int i = 0; i < 4; i++) { /* answers come, and are acknowledged */
        poll(1);
        say_ack();
    }
}

static void welcome(uint8_t how) {
    uint8_t body[TLC_WELCOME_BYTES];
    memset(body, 0, sizeof body);
    tlc_put_u32(body, 5000u + how);
    tlc_put_u32(body + TLC_WELCOME_TOKEN, 77);
    memcpy(body + TLC_WELCOME_HASH, tlc_model.bundle_hash, TLC_HASH_BYTES);
    body[TLC_WELCOME_HASH] = (uint8_t)(body[TLC_WELCOME_HASH] + (how == 0xFF));
    send_message(TLC_MSG_WELCOME, 0, body, sizeof body);
}

static void boot(uint8_t how) {
    w.boot++;
    w.open = false;
    w.in_at = w.in_count = 0;
    tlc_cobs_decoder_init(&w.decoder, w.frame, sizeof w.frame);
    memset(w.state, 0xA5, SMALL_STATE);
    tlc_device_config_t config;
    tlc_device_defaults(&config);
    config.model = &tlc_model;
    config.port = &w.port;
    config.arena = w.arena;
    config.state = w.state;
    config.link_memory = w.link;
    config.link_memory_bytes = TLC_LINK_MEMORY(WINDOW, FRAGMENT);
    config.fragment = FRAGMENT;
    config.window = WINDOW;
    config.peer_window = WINDOW;
    config.board = "fuzz";
    config.standalone = how & 1u;
    if (how & 2u) {
        config.message = w.message;
        config.message_bytes = 2 * 448;
        config.output = w.output;
        config.output_bytes = SMALL_N;
    }
    if (how & 4u) {
        config.keeper = &tlc_keeper;
        config.storage = how & 8u ? &w.storage : NULL;
        config.save_every = how >> 4 & 3u;
    }
    config.sample = app_sample;
    config.result = app_result;
    HOLDS(tlc_device_init(&w.device, &config) == TLC_OK);
    poll(1);
}

/* Sound numbers for a step, where the fuzzer wants them. */
static void tell(uint8_t *at, uint8_t what) {
    if (what & 4u) {
        memset(at + 8, 0, 16);
        tlc_put_u32(at, 0x3D000000u);
    }
}

static void message(input_t *in, uint8_t what) {
    static const uint8_t types[16] = {TLC_MSG_FORWARD, TLC_MSG_FORWARD,     TLC_MSG_BACKWARD,  TLC_MSG_BACKWARD,
                                      TLC_MSG_STEP,    TLC_MSG_STEP,        TLC_MSG_SAVE,      TLC_MSG_GET_PARAMS,
                                      TLC_MSG_TEST,    TLC_MSG_SET_PARAMS,  TLC_MSG_TRAIN,     TLC_MSG_RESULT,
                                      TLC_MSG_REFUSE,  TLC_MSG_RESET_STATE, TLC_MSG_GET_STATS, 0};
    uint8_t type = types[what >> 4];
    type = type ? type : take_byte(in);
    uint8_t body[MOST];
    memset(body, 0, sizeof body);
    uint32_t count = tlc_message_header_bytes(type);
    count = count < TLC_COMMON_BYTES ? TLC_COMMON_BYTES : count;
    tlc_put_u32(body, 1u + take_byte(in) % 8u);
    tlc_put_u32(body + 8, take_byte(in));
    tlc_put_u32(body + 12, take_byte(in) % 3u);
    (void)take_bytes(in, body + TLC_COMMON_BYTES, count - TLC_COMMON_BYTES);
    uint32_t payload = 0;
    switch (type) {
    case TLC_MSG_FORWARD:
        payload = SMALL_N;
        body[TLC_FORWARD_INDEX] &= what & 4u ? 0xFFu : 0u;
        break;
    case TLC_MSG_BACKWARD:
        tlc_put_u32(body + TLC_BACKWARD_FORWARD, 1u + take_byte(in) % 8u);
        body[TLC_BACKWARD_DTYPE] &= 1u;
        payload = body[TLC_BACKWARD_DTYPE] ? SMALL_N : 4u * SMALL_N;
        if (what & 4u) {
            tlc_put_u32(body + TLC_BACKWARD_SCALE, 0x3C000000u);
        }
        break;
    case TLC_MSG_STEP:
        tell(body + TLC_STEP_TOLD, what);
        break;
    case TLC_MSG_TRAIN:
        tlc_put_u32(body + TLC_TRAIN_FORWARD, 1u + take_byte(in) % 8u);
        body[TLC_TRAIN_KIND] &= 3u;
        payload = body[TLC_TRAIN_KIND] == TLC_TRAIN_LABEL ? 0
                  : body[TLC_TRAIN_KIND] == TLC_TRAIN_S8  ? SMALL_N
                                                          : 4u * SMALL_N;
        if (what & 4u) {
            tlc_put_u32(body + TLC_TRAIN_VALUE, body[TLC_TRAIN_KIND] == TLC_TRAIN_S8 ? 0x3C000000u : 3u);
        }
        tell(body + TLC_TRAIN_TOLD, what);
        break;
    case TLC_MSG_GET_PARAMS:
    case TLC_MSG_SET_PARAMS:
        tlc_put_u32(body + TLC_PARAMS_OFFSET, what & 4u ? 0 : take_byte(in));
        tlc_put_u32(body + TLC_PARAMS_TOTAL, type == TLC_MSG_SET_PARAMS ? SMALL_N : take_byte(in));
        body[TLC_PARAMS_CODING] &= 1u;
        payload = type == TLC_MSG_SET_PARAMS ? take_byte(in) : 0;
        break;
    case TLC_MSG_RESULT:
        payload = take_short(in) % 600u;
        tlc_put_u32(body, 0x80000000u + w.device.sample_count);
        break;
    case TLC_MSG_TEST:
        tlc_put_u32(body + TLC_TEST_COUNT, take_short(in) % 800u);
        payload = take_short(in) % 600u;
        break;
    default:
        break;
    }
    payload = payload > MOST - count ? MOST - count : payload;
    (void)take_bytes(in, body + count, payload);
    count += payload;
    if (what & 8u && !(what & 4u)) { /* another length than it should have */
        count = take_short(in) % (MOST + 1u);
    }
    const bool bulk = payload || type == TLC_MSG_FORWARD || type == TLC_MSG_TEST || type == TLC_MSG_TRAIN ||
                      count > TLC_LINK_CONTROL_BYTES;
    send_message(type, bulk, body, count);
    if ((type == TLC_MSG_BACKWARD || type == TLC_MSG_TRAIN || type == TLC_MSG_STEP || type == TLC_MSG_SAVE) && w.open) {
        uint8_t before[SMALL_STATE];
        memcpy(before, w.state, sizeof before);
        const uint32_t step = w.device.step, saves = w.device.journal.saves;
        send_message(type, bulk, body, count);
        HOLDS(memcmp(before, w.state, sizeof before) == 0 && w.device.step == step);
        HOLDS(w.device.journal.saves == saves || w.flash_left != UINT32_MAX);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input_t in = {data, size};
    memset(&w, 0, sizeof w);
    memset(w.flash, 0xFF, sizeof w.flash);
    w.now = 0xFFFFFE00u; /* the clock wraps */
    w.flash_left = UINT32_MAX;
    w.port = (tlc_port_t){.read = port_read,
                          .write = port_write,
                          .millis = port_millis,
                          .ticks = port_ticks,
                          .entropy = port_entropy,
                          .self = &w};
    w.storage = (tlc_storage_t){flash_read, flash_erase, flash_write, SLOT, NULL};
    w.arena = calloc(1, SMALL_ARENA); /* each of exactly its size */
    w.state = calloc(1, SMALL_STATE);
    w.message = calloc(1, 2 * 448);
    w.output = calloc(1, SMALL_N);
    w.link = calloc(1, TLC_LINK_MEMORY(WINDOW, FRAGMENT));
    boot(take_byte(&in));
    for (int i = 0; i < 40 && in.left; i++) {
        const uint8_t what = take_byte(&in);
        switch (what & 3u) {
        case 0:
        case 1:
            message(&in, what);
            break;
        case 2:
            if (what >> 4 == 0) {
                (void)open_session(take_byte(&in) & 127u);
            } else {
                welcome(what);
            }
            break;
        default:
            if (what == 0xFF) {
                boot(take_byte(&in));
            } else if (what & 4u) {
                w.flash_left = what & 8u ? take_byte(&in) : UINT32_MAX;
            } else if (what & 8u) {
                w.samples = true;
                poll(1);
                say_ack();
            } else {
                poll(100u * take_byte(&in));
            }
            break;
        }
        HOLDS(w.device.params_at <= SMALL_N);
    }
    free(w.arena);
    free(w.state);
    free(w.message);
    free(w.output);
    free(w.link);
    return 0;
}
