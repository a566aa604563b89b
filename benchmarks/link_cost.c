/* SPDX-License-Identifier: Apache-2.0
 *
 * link_cost.c: what a message costs the device's link, in the board's ticks, for benchmarks/link.py. The host's frames
 * come from link_frames.h, which it writes. For every byte that comes in: RAM of the link, then for each fragment size
 * the ticks of a message received (its acknowledgement sent) and of one sent (its acknowledgement received), as u64.
 */
#include "link_frames.h"
#include "tlc/board.h"
#include "tlc/link.h"

#define MESSAGE 1024u
#define HEAD 20u
#define LARGEST 1024u
#define WINDOW 8u

typedef struct {
    const tlc_port_t *port;
    tlc_link_t link;
    uint32_t memory[(TLC_LINK_MEMORY(WINDOW, LARGEST) + 3u) / 4u];
    uint8_t message[MESSAGE];
    uint32_t now;
} bench_t;

static bool place(void *arg, uint8_t type, uint32_t length, uint32_t offset, const uint8_t *bytes, size_t count,
                  tlc_link_place_t *where) {
    (void)type;
    (void)length;
    (void)offset;
    (void)bytes;
    (void)count;
    where->header_bytes = HEAD;
    where->payload = ((bench_t *)arg)->message;
    return true;
}

static void drain(bench_t *bench) {
    const uint8_t *bytes;
    bench->now += 10u; /* acknowledgements are due */
    for (size_t count = tlc_link_output(&bench->link, bench->now, &bytes); count;
         count = tlc_link_output(&bench->link, bench->now, &bytes)) {
        tlc_link_sent(&bench->link, count);
    }
}

static void hear(bench_t *bench, const uint8_t *bytes, size_t count) {
    tlc_link_receive(&bench->link, bench->now, bytes, count);
}

static uint64_t ticks(const bench_t *bench) { return bench->port->ticks(bench->port->self); }

static bool measure(bench_t *bench, const link_frames_t *frames, uint64_t *result) {
    tlc_link_config_t config = {0};
    tlc_link_message_t message;
    config.memory = bench->memory;
    config.memory_bytes = sizeof bench->memory;
    config.fragment = frames->fragment;
    config.window = WINDOW;
    config.peer_window = WINDOW;
    config.messages = 1;
    config.max_message = MESSAGE;
    config.boot = LINK_BOOT;
    config.place = place;
    config.arg = bench;
    if (tlc_link_init(&bench->link, &config) != TLC_OK) {
        return false;
    }
    hear(bench, frames->open, frames->open_bytes);
    drain(bench);
    hear(bench, frames->begin, frames->begin_bytes);
    drain(bench);
    uint64_t before = ticks(bench);
    hear(bench, frames->message, frames->message_bytes);
    const bool came = tlc_link_next(&bench->link, &message);
    tlc_link_release(&bench->link, &message);
    drain(bench);
    result[0] = ticks(bench) - before;
    before = ticks(bench);
    const tlc_status_t sent =
        tlc_link_send(&bench->link, TLC_STREAM_BULK, 0x2F, bench->message, HEAD, bench->message + HEAD, MESSAGE - HEAD);
    drain(bench);
    hear(bench, frames->acknowledge, frames->acknowledge_bytes);
    result[1] = ticks(bench) - before;
    return came && sent == TLC_OK && tlc_link_queued(&bench->link, TLC_STREAM_BULK) == 0;
}

static void poll(void *app) {
    bench_t *bench = app;
    uint64_t results[4 + 2 * LINK_CASES] = {sizeof bench->link, TLC_LINK_MEMORY(2, 128), TLC_LINK_MEMORY(4, 256),
                                            TLC_LINK_MEMORY(8, 1024)};
    uint8_t byte;
    if (bench->port->read(bench->port->self, &byte, 1) == 0) {
        return;
    }
    for (uint32_t i = 0; i < LINK_CASES; i++) {
        if (!measure(bench, &link_frames[i], &results[4 + 2 * i])) {
            tlc_board_exit(1);
        }
    }
    const uint8_t *bytes = (const uint8_t *)results;
    for (size_t at = 0; at < sizeof results;) {
        at += bench->port->write(bench->port->self, bytes + at, sizeof results - at);
    }
}

static bool start(void *app, const tlc_port_t *port) {
    ((bench_t *)app)->port = port;
    return true;
}

int main(int argc, char **argv) {
    static bench_t bench;
    const tlc_board_app_t app = {start, poll, &bench};
    return tlc_board_run(argc, argv, &app);
}
