/* SPDX-License-Identifier: Apache-2.0
 *
 * explored_link.c: the device's end of the link as the explorer sees it: memory that can be copied away and back. In
 * each session the application says the same few messages, and remembers which of the host's came.
 */
#include "explored.h"
#include "tlc/bytes.h"

#define MOST 256u
#define HEADER 16u
#define WINDOW 2u
#define FRAGMENT 128u

typedef struct {
    tlc_link_t link;
    uint32_t memory[(TLC_LINK_MEMORY(WINDOW, FRAGMENT) + 3) / 4];
    uint8_t in[TLC_LINK_INCOMING][MOST];
    uint8_t out[2][MOST];
    uint32_t session;   /* in which it said something */
    uint32_t said;      /* messages, of `script` */
    uint32_t got;       /* of the host's bulk messages, and << 8 control */
    uint32_t wrong;     /* 1: another session's, 2: out of order or twice, 3: damaged */
    uint16_t script[4]; /* stream << 12 | bytes; 0: no more */
} world_t;

size_t explored_bytes(void) { return sizeof(world_t); }

static bool place(void *arg, uint8_t type, uint32_t length, uint32_t offset, const uint8_t *bytes, size_t count,
                  tlc_link_place_t *where) {
    world_t *world = arg;
    (void)type;
    (void)length;
    (void)offset;
    (void)bytes;
    (void)count;
    for (uint32_t i = 0; i < world->link.config.messages; i++) {
        bool used = false;
        for (uint32_t k = 0; k < TLC_LINK_INCOMING; k++) {
            used = used || (world->link.incoming[k].used && world->link.incoming[k].payload == world->in[i]);
        }
        if (!used) {
            where->header_bytes = HEADER;
            where->payload = world->in[i];
            return true;
        }
    }
    return false;
}

static void settle(world_t *world) {
    normalize(&world->link);
    for (uint32_t i = 0; i < TLC_LINK_INCOMING; i++) {
        bool used = false;
        for (uint32_t k = 0; k < TLC_LINK_INCOMING; k++) {
            used = used || (world->link.incoming[k].used && world->link.incoming[k].payload == world->in[i]);
        }
        if (!used) {
            memset(world->in[i], 0, MOST);
        }
    }
}

/* A message's bytes: the session, its stream and number, and a pattern. */
static void fill(uint8_t *bytes, uint32_t count, uint32_t session, uint32_t what) {
    for (uint32_t i = 0; i < count; i++) {
        bytes[i] = (uint8_t)(what * 31u + i);
    }
    tlc_put_u32(bytes, session);
    bytes[4] = (uint8_t)what;
}

static void look(world_t *world) {
    tlc_link_message_t message;
    while (tlc_link_next(&world->link, &message)) {
        uint8_t bytes[MOST], wanted[MOST];
        memcpy(bytes, message.header, message.header_bytes);
        if (message.payload_bytes) {
            memcpy(bytes + message.header_bytes, message.payload, message.payload_bytes);
        }
        const uint32_t count = message.header_bytes + message.payload_bytes;
        const uint32_t shift = message.stream == TLC_STREAM_BULK ? 0 : 8, next = world->got >> shift & 0xFFu;
        fill(wanted, count, message.session, shift + next);
        world->wrong = tlc_get_u32(bytes) != message.session ? 1u
                       : bytes[4] != shift + next            ? 2u
                       : memcmp(bytes, wanted, count) != 0   ? 3u
                                                             : world->wrong;
        world->got += 1u << shift;
        tlc_link_release(&world->link, &message);
    }
}

static void speak(world_t *world) {
    const uint32_t session = tlc_link_session(&world->link);
    if (session != world->session) {
        world->session = session;
        world->said = world->got = 0;
    }
    while (session && world->said < 4 && world->script[world->said]) {
        const uint32_t stream = world->script[world->said] >> 12, bytes = world->script[world->said] & 0xFFFu;
        uint8_t all[MOST];
        fill(all, bytes, session, world->said);
        const uint32_t header = bytes < HEADER ? bytes : HEADER;
        uint8_t *to = world->out[world->said & 1u];
        memcpy(to, all + header, bytes - header);
        if (tlc_link_send(&world->link, (tlc_stream_t)stream, (uint8_t)(16u + world->said), all, header, to,
                          bytes - header) != TLC_OK) {
            return;
        }
        world->said++;
    }
}

int explored_init(world_t *world, uint32_t boot, uint32_t messages, const uint16_t *script) {
    memset(world, 0, sizeof *world);
    memcpy(world->script, script, sizeof world->script);
    tlc_link_config_t config;
    memset(&config, 0, sizeof config);
    config.memory = world->memory;
    config.memory_bytes = sizeof world->memory;
    config.fragment = FRAGMENT;
    config.window = WINDOW;
    config.peer_window = WINDOW;
    config.messages = (uint8_t)messages;
    config.max_message = MOST;
    config.boot = boot;
    config.place = place;
    config.arg = world;
    const tlc_status_t status = tlc_link_init(&world->link, &config);
    world->link.announce_ms = NOW;
    settle(world);
    return (int)status;
}

void explored_receive(world_t *world, const uint8_t *bytes, size_t count) {
    tlc_link_receive(&world->link, NOW, bytes, count);
    speak(world); /* the session is a new one, perhaps: before anything of it is looked at */
    look(world);
    settle(world);
}

size_t explored_output(world_t *world, uint8_t *out) {
    const uint8_t *bytes = NULL;
    const size_t count = tlc_link_output(&world->link, NOW, &bytes);
    if (count) {
        memcpy(out, bytes, count);
        tlc_link_sent(&world->link, count);
    }
    speak(world);
    settle(world);
    return count;
}

void explored_pass(world_t *world, int dead) {
    let_pass(&world->link, dead != 0);
    settle(world);
}

static uint32_t offset_of(const world_t *world, const void *field) {
    return (uint32_t)((const uint8_t *)field - (const uint8_t *)world);
}

/* Offsets of all that is a session number or a nonce: what matters is only which are equal. How many. */
size_t explored_names(const world_t *world, uint32_t *at) {
    const tlc_link_t *link = &world->link;
    size_t count = 0;
    at[count++] = offset_of(world, &link->peer.session);
    at[count++] = offset_of(world, &link->peer.nonce);
    at[count++] = offset_of(world, &link->pending.session);
    at[count++] = offset_of(world, &link->pending.nonce);
    at[count++] = offset_of(world, &link->last_session);
    at[count++] = offset_of(world, &link->end_session);
    at[count++] = offset_of(world, &world->session);
    at[count++] = offset_of(world, link->control); /* messages begin with their session */
    for (uint32_t i = 0; i < TLC_LINK_OUTGOING; i++) {
        at[count++] = offset_of(world, link->outgoing[i].header);
    }
    for (uint32_t i = 0; i < TLC_LINK_INCOMING; i++) {
        at[count++] = offset_of(world, link->incoming[i].header);
    }
    return count;
}

/* Offsets of what only makes session numbers that were not used before. */
size_t explored_seeds(const world_t *world, uint32_t *at) {
    at[0] = offset_of(world, &world->link.opened);
    at[1] = offset_of(world, &world->link.config.boot);
    return 2;
}

uint32_t explored_session(const world_t *world) { return tlc_link_session(&world->link); }
uint32_t explored_got(const world_t *world) { return world->got; }
uint32_t explored_wrong(const world_t *world) { return world->wrong; }

/* 1: all it had to say in this session was said and acknowledged. */
int explored_done(const world_t *world) {
    return world->link.peer.session && (world->said == 4 || !world->script[world->said]) &&
           tlc_link_room(&world->link) == TLC_LINK_OUTGOING;
}
