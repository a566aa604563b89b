/* SPDX-License-Identifier: Apache-2.0
 *
 * A small program that tries out a port: one command byte, its arguments, an answer (little endian).
 */
#include <string.h>

#include "tlc/board.h"

typedef struct {
    const tlc_port_t *port;
    uint8_t command[8];
    uint32_t have;
    uint32_t to_echo; /* bytes that go back as they come, from the main loop */
} probe_t;

static volatile uint32_t sink;

__attribute__((noinline)) static void work(uint32_t rounds) {
    for (uint32_t i = 0; i < rounds; i++) {
        sink = i;
    }
}

static void send(probe_t *probe, const void *bytes, uint32_t count) {
    const uint8_t *next = bytes;
    while (count > 0) {
        size_t sent = probe->port->write(probe->port->self, next, count);
        next += sent;
        count -= (uint32_t)sent;
    }
}

static uint8_t receive(probe_t *probe) {
    uint8_t byte;
    while (probe->port->read(probe->port->self, &byte, 1) == 0) {
    }
    return byte;
}

static uint64_t timed(probe_t *probe, uint32_t rounds) {
    uint64_t before = probe->port->ticks(probe->port->self);
    work(rounds);
    return probe->port->ticks(probe->port->self) - before;
}

/* Takes `count` bytes, and computes for a while every now and then without looking at the UART. */
static uint32_t swallow(probe_t *probe, uint32_t count, uint32_t rounds) {
    uint32_t sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        sum = sum * 31u + receive(probe);
        if (i % 1024u == 0) {
            work(rounds);
        }
    }
    return sum;
}

/* A loop that uses up any stack. */
__attribute__((noinline)) static uint32_t deep(volatile uint32_t *above, uint32_t level) {
    volatile uint32_t frame[64];
    memset((void *)(uintptr_t)frame, (int)level, sizeof frame);
    return level == 0 ? *above : deep(frame, level - 1u) + frame[level & 63u];
}

static uint32_t argument(const probe_t *probe) {
    uint32_t value;
    memcpy(&value, probe->command + 1, sizeof value);
    return value;
}

static void answer(probe_t *probe) {
    uint32_t value = argument(probe);
    uint64_t wide;
    switch (probe->command[0]) {
    case 'e':
        probe->to_echo = value;
        break;
    case 'k':
        value = swallow(probe, value, 100000u);
        send(probe, &value, sizeof value);
        break;
    case 't':
        wide = timed(probe, value);
        send(probe, &wide, sizeof wide);
        break;
    case 'm':
        value = probe->port->millis(probe->port->self);
        send(probe, &value, sizeof value);
        break;
    case 'r':
        value = probe->port->entropy(probe->port->self);
        send(probe, &value, sizeof value);
        break;
    case 's':
        value = tlc_board_stack_high_water();
        send(probe, &value, sizeof value);
        break;
    case 'd':
        sink = deep(&sink, value);
        send(probe, &value, sizeof value);
        break;
    case 'f':
        sink = *(volatile uint32_t *)(uintptr_t)value;
        break;
    case 'x':
        tlc_board_exit((int)value);
    default:
        break;
    }
}

static bool start(void *app, const tlc_port_t *port) {
    probe_t *probe = app;
    probe->port = port;
    probe->have = 0;
    probe->to_echo = 0;
    return true;
}

static void poll(void *app) {
    probe_t *probe = app;
    if (probe->to_echo > 0) {
        uint8_t bytes[64];
        size_t wanted = probe->to_echo < sizeof bytes ? probe->to_echo : sizeof bytes;
        size_t count = probe->port->read(probe->port->self, bytes, wanted);
        send(probe, bytes, (uint32_t)count);
        probe->to_echo -= (uint32_t)count;
        return;
    }
    probe->have += (uint32_t)probe->port->read(probe->port->self, probe->command + probe->have, 5u - probe->have);
    if (probe->have == 5u) {
        answer(probe);
        probe->have = 0;
    }
}

int main(int argc, char **argv) {
    static probe_t probe;
    return tlc_board_run(argc, argv, &(tlc_board_app_t){.start = start, .poll = poll, .app = &probe});
}
