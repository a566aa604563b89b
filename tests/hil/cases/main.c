/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs calls of kernels that the host chooses: it sends a case's number and the bytes of its buffers, and gets them
 * back as the call left them (little endian).
 */
#include "cases.h"

#include <string.h>

#include "tlc/board.h"

typedef struct {
    const tlc_port_t *port;
    uint32_t have; /* bytes of head, then of arena */
    uint8_t head[4];
} runner_t;

static uint8_t arena[CASES_ARENA_BYTES] __attribute__((aligned(16)));

static uint32_t u16(const uint8_t *bytes) { return bytes[0] | (uint32_t)bytes[1] << 8; }

static void run(uint32_t number) {
    const case_t *one = &cases[number];
    int8_t *values[CASES_BUFFERS];
    float *gradients[CASES_BUFFERS];
    for (uint32_t i = 0; i < one->buffers; i++) {
        uint8_t *value = one->values[i] == CASE_NONE ? NULL : arena + one->values[i];
        uint8_t *gradient = one->gradients[i] == CASE_NONE ? NULL : arena + one->gradients[i];
        values[i] = (int8_t *)value;
        gradients[i] = (float *)(void *)gradient;
    }
    one->call(values, gradients);
}

static void send(runner_t *runner, const uint8_t *bytes, uint32_t count) {
    while (count > 0) {
        const size_t sent = runner->port->write(runner->port->self, bytes, count);
        bytes += sent;
        count -= (uint32_t)sent;
    }
}

static bool start(void *app, const tlc_port_t *port) {
    runner_t *runner = app;
    runner->port = port;
    runner->have = 0;
    return true;
}

static void poll(void *app) {
    runner_t *runner = app;
    if (runner->have < sizeof runner->head) {
        runner->have += (uint32_t)runner->port->read(runner->port->self, runner->head + runner->have,
                                                     sizeof runner->head - runner->have);
        return;
    }
    const uint32_t at = runner->have - (uint32_t)sizeof runner->head, bytes = u16(runner->head + 2);
    if (at < bytes) {
        runner->have += (uint32_t)runner->port->read(runner->port->self, arena + at, bytes - at);
        return;
    }
    run(u16(runner->head));
    send(runner, arena, bytes);
    runner->have = 0;
}

int main(int argc, char **argv) {
    static runner_t runner;
    return tlc_board_run(argc, argv, &(tlc_board_app_t){.start = start, .poll = poll, .app = &runner});
}
