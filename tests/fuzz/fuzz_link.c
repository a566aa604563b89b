/* SPDX-License-Identifier: Apache-2.0
 *
 * The device's end of the link: raw bytes, frames whose checksum is right and whose fields are anything, messages of
 * its own, time that passes. Whatever comes, it writes nowhere but in its memory, and what it sends are whole frames
 * that keep to what the peer said it takes.
 */
#include "input.h"
#include "tlc/bytes.h"
#include "tlc/link.h"

#define MOST 512u /* bytes of a message */
#define HEADER 16u

typedef struct {
    tlc_link_t link;
    uint8_t *in[TLC_LINK_INCOMING];
    uint8_t payload[MOST];
    uint32_t refuse, places;
    uint32_t now;
    tlc_cobs_decoder_t sent; /* what the link says, read by the host */
    uint8_t frame[1024];
    uint32_t offered; /* session numbers that it named */
    uint16_t expects; /* the next sequence number that it has not taken */
} world_t;

static bool place(void *arg, uint8_t type, uint32_t length, uint32_t offset, const uint8_t *bytes, size_t count,
                  tlc_link_place_t *where) {
    world_t *world = arg;
    (void)type;
    HOLDS(length <= MOST && count > 0 && offset + count <= length);
    HOLDS(bytes[0] == bytes[0] && bytes[count - 1] == bytes[count - 1]);
    world->places++;
    if (world->refuse && world->places % world->refuse == 0) {
        return false;
    }
    for (uint32_t i = 0; i < world->link.config.messages; i++) {
        bool used = false;
        for (uint32_t k = 0; k < TLC_LINK_INCOMING; k++) {
            used = used || (world->link.incoming[k].used && world->link.incoming[k].payload == world->in[i]);
        }
        if (!used) {
            where->header_bytes = HEADER;
            where->payload = length % 7u == 3u ? NULL : world->in[i];
            return true;
        }
    }
    return false;
}

static void hear(world_t *world, const uint8_t *bytes, size_t count) {
    while (count) {
        size_t used = 0, length = 0;
        const tlc_cobs_result_t result = tlc_cobs_decode(&world->sent, bytes, count, &used, &length);
        HOLDS(result != TLC_COBS_BAD);
        bytes += used;
        count -= used;
        if (result != TLC_COBS_FRAME) {
            continue;
        }
        const uint8_t *frame = world->frame;
        HOLDS(length >= TLC_LINK_FRAME_HEADER && frame[0] == TLC_LINK_VERSION && frame[1] != TLC_FRAME_OPEN);
        if (frame[1] == TLC_FRAME_ACCEPT) {
            world->offered = tlc_get_u32(frame + 8);
            world->expects = 0;
        } else if (frame[1] >= TLC_FRAME_ACK) {
            world->offered = tlc_get_u32(frame + 8);
            world->expects = tlc_get_u16(frame + 14);
        }
        if (frame[1] >= TLC_FRAME_MESSAGE) {
            const size_t body = length - TLC_LINK_FRAME_HEADER;
            HOLDS(body > 0 && body <= world->link.peer.fragment);
            HOLDS(tlc_get_u24(frame + 22) + body <= tlc_get_u24(frame + 25));
        }
    }
}

static void flush(world_t *world) {
    for (int i = 0; i < 64; i++) {
        const uint8_t *bytes = NULL;
        const size_t count = tlc_link_output(&world->link, world->now, &bytes);
        if (count == 0) {
            return;
        }
        hear(world, bytes, count);
        tlc_link_sent(&world->link, count);
    }
}

static void send_frame(world_t *world, const uint8_t *frame, size_t count) {
    uint8_t wire[1024];
    tlc_cobs_encoder_t encoder;
    tlc_cobs_begin(&encoder, wire, sizeof wire);
    tlc_cobs_put(&encoder, frame, count);
    const size_t bytes = tlc_cobs_end(&encoder);
    HOLDS(bytes > 0);
    tlc_link_receive(&world->link, world->now, wire, bytes);
}

static void open_session(world_t *world, input_t *in) {
    uint8_t frame[TLC_LINK_FRAME_HEADER + TLC_LINK_OPEN_BYTES];
    memset(frame, 0, sizeof frame);
    frame[0] = (uint8_t)TLC_LINK_VERSION;
    frame[1] = TLC_FRAME_OPEN;
    uint8_t *body = frame + TLC_LINK_FRAME_HEADER;
    tlc_put_u32(body, 1u + take_byte(in));
    tlc_put_u16(body + 8, TLC_LINK_MIN_FRAGMENT + take_byte(in));
    body[10] = (uint8_t)(1u + take_byte(in) % 32u);
    tlc_put_u32(body + 12, take_short(in));
    tlc_put_u32(body + 16, 1u + take_byte(in));
    tlc_put_u16(body + 20, take_byte(in) & 127u);
    send_frame(world, frame, sizeof frame);
    flush(world);
    memset(frame, 0, sizeof frame);
    frame[0] = (uint8_t)TLC_LINK_VERSION;
    frame[1] = TLC_FRAME_ACK;
    tlc_put_u24(frame + 3, 0x7FFFFFu);
    tlc_put_u32(frame + 8, world->offered);
    send_frame(world, frame, TLC_LINK_FRAME_HEADER);
}

/* A frame: some of its header as the fuzzer says, the rest as a peer would. */
static void frame_of(world_t *world, input_t *in, uint8_t own) {
    uint8_t frame[TLC_LINK_FRAME_HEADER + 300u];
    memset(frame, 0, sizeof frame);
    const size_t count = take_byte(in);
    if (own & 1u) {
        (void)take_bytes(in, frame, TLC_LINK_FRAME_HEADER);
    } else {
        frame[1] = (uint8_t)(TLC_FRAME_ACK + take_byte(in) % 20u);
        frame[2] = (uint8_t)(take_byte(in) & 0x63u);
        tlc_put_u24(frame + 3, 0x7FFFFFu);
        tlc_put_u16(frame + 12, (uint16_t)(world->expects + take_byte(in) % 4u));
        tlc_put_u16(frame + 14, (uint16_t)(world->link.send_sequence - take_byte(in) % 4u));
        tlc_put_u32(frame + 16, take_byte(in));
        tlc_put_u16(frame + 20, (uint16_t)(world->link.take_number[frame[2] & 1u] + take_byte(in) % 3u));
        tlc_put_u24(frame + 22, take_byte(in));
        tlc_put_u24(frame + 25, own & 2u ? tlc_get_u24(frame + 22) + (uint32_t)count : take_short(in));
    }
    frame[0] = own & 4u ? frame[0] : (uint8_t)TLC_LINK_VERSION;
    if (!(own & 8u)) {
        tlc_put_u32(frame + 8, world->offered);
    }
    (void)take_bytes(in, frame + TLC_LINK_FRAME_HEADER, count);
    send_frame(world, frame, TLC_LINK_FRAME_HEADER + count);
}

static void look(world_t *world, bool release) {
    tlc_link_message_t message;
    while (tlc_link_next(&world->link, &message)) {
        HOLDS(message.header_bytes <= TLC_LINK_CONTROL_BYTES && message.header_bytes + message.payload_bytes > 0);
        HOLDS(message.header_bytes + message.payload_bytes <= MOST);
        for (uint32_t i = 0; message.payload && i < message.payload_bytes; i++) {
            HOLDS(message.payload[i] == message.payload[i]); /* AddressSanitizer looks at the place */
        }
        if (!release) {
            return;
        }
        tlc_link_release(&world->link, &message);
        tlc_link_release(&world->link, &message);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input_t in = {data, size};
    static world_t world; /* too large for the stack; begun anew below */
    memset(&world, 0, sizeof world);
    const uint32_t window = 2u + take_byte(&in) % 31u, fragment = TLC_LINK_MIN_FRAGMENT + take_byte(&in);
    tlc_link_config_t config;
    memset(&config, 0, sizeof config);
    config.memory_bytes = TLC_LINK_MEMORY(window, fragment);
    config.memory = malloc(config.memory_bytes);
    config.fragment = (uint16_t)fragment;
    config.window = (uint8_t)window;
    config.peer_window = 8;
    config.messages = (uint8_t)(1u + (window & 1u));
    config.max_message = MOST;
    config.boot = 1;
    config.place = place;
    config.arg = &world;
    world.refuse = take_byte(&in) % 5u;
    for (uint32_t i = 0; i < TLC_LINK_INCOMING; i++) {
        world.in[i] = malloc(MOST - HEADER);
        memset(world.in[i], 0, MOST - HEADER);
    }
    tlc_cobs_decoder_init(&world.sent, world.frame, sizeof world.frame);
    HOLDS(tlc_link_init(&world.link, &config) == TLC_OK);
    while (in.left) {
        const uint8_t what = take_byte(&in);
        switch (what % 8u) {
        case 0: {
            uint8_t raw[256];
            const size_t count = take_bytes(&in, raw, take_byte(&in));
            tlc_link_receive(&world.link, world.now, raw, count);
            break;
        }
        case 1:
        case 2:
            frame_of(&world, &in, what >> 3);
            break;
        case 3:
            open_session(&world, &in);
            break;
        case 4: {
            const uint32_t stream = what >> 3 & 3u, header = take_byte(&in) % (TLC_LINK_HEADER_BYTES + 1u);
            (void)!tlc_link_send(&world.link, (tlc_stream_t)stream, (uint8_t)(16u + what), world.payload, header,
                                 world.payload, take_short(&in) % (MOST + 1u));
            break;
        }
        case 5:
            look(&world, what & 8u);
            break;
        case 6:
            world.now += what & 8u ? 1000u * take_byte(&in) : take_byte(&in);
            break;
        default:
            if (what & 8u) {
                tlc_link_busy(&world.link, what & 16u, what & 32u);
            } else if (what == 0xF7) {
                tlc_link_close(&world.link);
            }
            break;
        }
        flush(&world);
    }
    look(&world, true);
    for (uint32_t i = 0; i < TLC_LINK_INCOMING; i++) {
        free(world.in[i]);
    }
    free(config.memory);
    return 0;
}
