/* SPDX-License-Identifier: Apache-2.0
 *
 * link_peer.c: the device's end of the link as a shared library for the tests: messages in, messages out.
 */
#include <string.h>

#include "tlc/cobs.h"
#include "tlc/crc32.h"
#include "tlc/link.h"
#include "tlc/messages.h"

#define MOST 65536u
#define HEADER 16u /* of every message goes into the link's own header store, so that both ways are used */

typedef struct {
    tlc_link_t link;
    uint32_t memory[(TLC_LINK_MEMORY(32, 8192) + 3) / 4];
    uint8_t out[TLC_LINK_OUTGOING][MOST];
    uint8_t in[TLC_LINK_INCOMING][MOST];
    uint32_t refuse; /* every how many-th placing is refused; 0: none */
    uint32_t places;
} peer_t;

static bool place(void *arg, uint8_t type, uint32_t length, uint32_t offset, const uint8_t *bytes, size_t count,
                  tlc_link_place_t *where) {
    peer_t *peer = arg;
    (void)type;
    (void)offset;
    (void)bytes;
    (void)count;
    peer->places++;
    if (length > MOST || (peer->refuse && peer->places % peer->refuse == 0)) {
        return false;
    }
    for (uint32_t i = 0; i < TLC_LINK_INCOMING; i++) {
        bool used = false;
        for (uint32_t j = 0; j < TLC_LINK_INCOMING; j++) {
            used = used || (peer->link.incoming[j].used && peer->link.incoming[j].payload == peer->in[i]);
        }
        if (!used) {
            where->header_bytes = HEADER;
            where->payload = peer->in[i];
            return true;
        }
    }
    return false;
}

size_t peer_bytes(void) { return sizeof(peer_t); }
size_t peer_link_bytes(uint32_t window, uint32_t fragment) {
    return sizeof(tlc_link_t) + TLC_LINK_MEMORY(window, fragment);
}

int peer_init(peer_t *peer, uint32_t window, uint32_t fragment, uint32_t messages, uint32_t max_message, uint32_t boot,
              uint32_t refuse) {
    memset(peer, 0, sizeof *peer);
    peer->refuse = refuse;
    tlc_link_config_t config;
    memset(&config, 0, sizeof config);
    config.memory = peer->memory;
    config.memory_bytes = sizeof peer->memory;
    config.fragment = (uint16_t)fragment;
    config.window = (uint8_t)window;
    config.peer_window = (uint8_t)window;
    config.messages = (uint8_t)messages;
    config.max_message = max_message;
    config.boot = boot;
    config.place = place;
    config.arg = peer;
    return (int)tlc_link_init(&peer->link, &config);
}

void peer_receive(peer_t *peer, uint32_t now, const uint8_t *bytes, size_t count) {
    tlc_link_receive(&peer->link, now, bytes, count);
}

/* One frame at most, whole. */
size_t peer_output(peer_t *peer, uint32_t now, uint8_t *out, size_t capacity) {
    const uint8_t *bytes;
    const size_t count = tlc_link_output(&peer->link, now, &bytes);
    if (count == 0 || count > capacity) {
        return 0;
    }
    memcpy(out, bytes, count);
    tlc_link_sent(&peer->link, count);
    return count;
}

uint32_t peer_session(const peer_t *peer) { return tlc_link_session(&peer->link); }

int peer_send(peer_t *peer, int stream, uint32_t type, const uint8_t *bytes, uint32_t count) {
    const uint32_t header = count < HEADER ? count : HEADER;
    for (uint32_t i = 0; i < TLC_LINK_OUTGOING; i++) {
        bool used = false;
        for (uint32_t j = 0; j < TLC_LINK_OUTGOING; j++) {
            used = used || (peer->link.outgoing[j].used && peer->link.outgoing[j].payload == peer->out[i]);
        }
        if (!used) {
            if (count > header && count - header <= MOST) {
                memcpy(peer->out[i], bytes + header, count - header);
            }
            return (int)tlc_link_send(&peer->link, (tlc_stream_t)stream, (uint8_t)type, bytes, header, peer->out[i],
                                      count - header);
        }
    }
    return TLC_ERR_FULL;
}

/* The next message, its bytes in `out`; type | stream << 8, or -1. `release` 0 leaves it with the link. */
int peer_next(peer_t *peer, uint8_t *out, uint32_t *count) {
    tlc_link_message_t message;
    if (!tlc_link_next(&peer->link, &message)) {
        return -1;
    }
    memcpy(out, message.header, message.header_bytes);
    if (message.payload_bytes) {
        memcpy(out + message.header_bytes, message.payload, message.payload_bytes);
    }
    *count = message.header_bytes + message.payload_bytes;
    tlc_link_release(&peer->link, &message);
    return message.type | message.stream << 8;
}

void peer_busy(peer_t *peer, int busy, int announce) { tlc_link_busy(&peer->link, busy != 0, announce != 0); }

void peer_counters(const peer_t *peer, uint32_t *out) { memcpy(out, &peer->link.counters, sizeof peer->link.counters); }

uint32_t peer_rtt_ms(const peer_t *peer) { return peer->link.srtt8 >> 3; }

size_t peer_encode(const uint8_t *bytes, size_t count, uint8_t *out, size_t capacity) {
    tlc_cobs_encoder_t encoder;
    tlc_cobs_begin(&encoder, out, capacity);
    tlc_cobs_put(&encoder, bytes, count);
    return tlc_cobs_end(&encoder);
}

/* Decodes one frame; its length, or -1. */
int peer_decode(const uint8_t *bytes, size_t count, uint8_t *out, size_t capacity) {
    tlc_cobs_decoder_t decoder;
    tlc_cobs_decoder_init(&decoder, out, capacity);
    size_t used;
    size_t length;
    return tlc_cobs_decode(&decoder, bytes, count, &used, &length) == TLC_COBS_FRAME ? (int)length : -1;
}

uint32_t peer_crc32(uint32_t crc, const uint8_t *bytes, size_t count) { return tlc_crc32(crc, bytes, count); }
