/* SPDX-License-Identifier: Apache-2.0
 *
 * link_device.c: devices for benchmarks/link.py: the firmware's own device and link over a terminal or over TCP
 * connections, any number in one process, with a model that copies its input. Ends when its standard input closes.
 *
 *     link_device (--tty PATH | --connect PORT [--count N]) [--fragment N] [--window N] [--rate BYTES_PER_SECOND]
 *
 * --rate paces what a device sends as a UART does that has a transmit buffer of UART_BUFFER bytes.
 */
#define _DEFAULT_SOURCE
#define _POSIX_C_SOURCE 200809L

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "tlc/device.h"

#define ELEMENTS 32768u
#define BUFFERS TLC_LINK_INCOMING
#define UART_BUFFER 2048
#define LOOK_NS 4000000u /* a fifth of what the transmit buffer lasts at 921,600 baud; the link's timers are 5 ms */

typedef struct {
    int fd;
    uint64_t line_free; /* ns: when all that was written will have left */
    uint64_t rate;      /* bytes a second; 0: as fast as they go */
    uint64_t look_at;   /* ns: when it has something to do, though nothing came in */
    uint32_t boot;
    tlc_port_t port;
    tlc_device_t device;
    uint8_t *arena, *message;
    void *link;
} unit_t;

static tlc_status_t forward(tlc_ctx_t *ctx) {
    memcpy(ctx->arena + ELEMENTS, ctx->arena, ELEMENTS);
    ctx->has_forward = 1;
    return TLC_OK;
}

static const tlc_tensor_t input = {"x", 0, ELEMENTS, 1.0f, 0, {1, ELEMENTS}, 2, TLC_S8};
static const tlc_tensor_t output = {"y", ELEMENTS, ELEMENTS, 1.0f, 0, {1, ELEMENTS}, 2, TLC_S8};
static const tlc_model_t model = {
    .name = "copy",
    .bundle_hash = {9},
    .arena_bytes = 2 * ELEMENTS,
    .layer_count = 1,
    .input_count = 1,
    .output_count = 1,
    .inputs = &input,
    .outputs = &output,
    .forward = forward,
};

static uint64_t nanos(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static size_t port_read(void *self, uint8_t *bytes, size_t capacity) {
    const ssize_t count = read(((unit_t *)self)->fd, bytes, capacity);
    return count > 0 ? (size_t)count : 0;
}

static size_t port_write(void *self, const uint8_t *bytes, size_t count) {
    unit_t *unit = self;
    uint64_t now = 0;
    if (unit->rate) {
        now = nanos();
        if (unit->line_free < now) {
            unit->line_free = now;
        }
        const uint64_t waiting = (unit->line_free - now) * unit->rate / 1000000000u;
        const size_t room = waiting < UART_BUFFER ? (size_t)(UART_BUFFER - waiting) : 0;
        if (room < count && room < UART_BUFFER / 2) {
            return 0; /* as an interrupt does: it asks for more when half has left */
        }
        count = count < room ? count : room;
    }
    const ssize_t sent = count ? write(unit->fd, bytes, count) : 0;
    if (sent <= 0) {
        return 0;
    }
    if (unit->rate) {
        unit->line_free += (uint64_t)sent * 1000000000u / unit->rate;
    }
    return (size_t)sent;
}

static uint32_t port_millis(void *self) {
    (void)self;
    return (uint32_t)(nanos() / 1000000u);
}
static uint64_t port_ticks(void *self) {
    (void)self;
    return nanos();
}
static uint32_t port_entropy(void *self) { return ((unit_t *)self)->boot; }

static void die(const char *what) {
    (void)fprintf(stderr, "link_device: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int open_tty(const char *path) {
    const int fd = open(path, O_RDWR | O_NOCTTY);
    struct termios raw;
    if (fd < 0 || tcgetattr(fd, &raw) != 0) {
        die(path);
    }
    cfmakeraw(&raw);
    (void)tcsetattr(fd, TCSANOW, &raw);
    return fd;
}

static int open_tcp(uint16_t port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    const int one = 1;
    if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof address) != 0) {
        die("connect");
    }
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

int main(int argc, char **argv) {
    (void)signal(SIGPIPE, SIG_IGN); /* a host that hangs up */
    const char *tty = NULL;
    long port = 0, count = 1, fragment = 1024, window = 32, rate = 0;
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *value = argv[i + 1];
        if (strcmp(argv[i], "--tty") == 0) {
            tty = value;
        } else if (strcmp(argv[i], "--connect") == 0) {
            port = atol(value);
        } else if (strcmp(argv[i], "--count") == 0) {
            count = atol(value);
        } else if (strcmp(argv[i], "--fragment") == 0) {
            fragment = atol(value);
        } else if (strcmp(argv[i], "--window") == 0) {
            window = atol(value);
        } else if (strcmp(argv[i], "--rate") == 0) {
            rate = atol(value);
        }
    }
    unit_t *units = calloc((size_t)count, sizeof *units);
    struct pollfd *watched = calloc((size_t)count + 1, sizeof *watched);
    const size_t message_bytes = BUFFERS * (size_t)(ELEMENTS + 64);
    const size_t link_bytes = TLC_LINK_MEMORY((size_t)window, (size_t)fragment);
    for (long i = 0; units && watched && i < count; i++) {
        unit_t *unit = &units[i];
        unit->fd = tty ? open_tty(tty) : open_tcp((uint16_t)port);
        (void)fcntl(unit->fd, F_SETFL, fcntl(unit->fd, F_GETFL) | O_NONBLOCK);
        unit->rate = (uint64_t)rate;
        unit->boot = (uint32_t)(i + 1);
        unit->arena = malloc(model.arena_bytes);
        unit->message = malloc(message_bytes);
        unit->link = calloc(1, link_bytes);
        unit->port = (tlc_port_t){port_read, port_write, port_millis, port_ticks, NULL, port_entropy, unit};
        tlc_device_config_t config;
        tlc_device_defaults(&config);
        config.model = &model;
        config.port = &unit->port;
        config.arena = unit->arena;
        config.link_memory = unit->link;
        config.link_memory_bytes = link_bytes;
        config.fragment = (uint16_t)fragment;
        config.window = (uint8_t)window;
        config.peer_window = (uint8_t)window;
        config.message = unit->message;
        config.message_bytes = (uint32_t)message_bytes;
        config.board = "benchmark";
        config.id[0] = (uint32_t)(i + 1);
        if (!unit->arena || !unit->message || !unit->link || tlc_device_init(&unit->device, &config) != TLC_OK) {
            die("no memory");
        }
        uint32_t random = 0x9E3779B9u; /* bytes of all values: zeros, too, cost something on the wire */
        for (uint32_t at = 0; at < model.arena_bytes; at++) {
            random = random * 1664525u + 1013904223u;
            unit->arena[at] = (uint8_t)(random >> 24);
        }
        watched[i] = (struct pollfd){.fd = unit->fd, .events = POLLIN};
    }
    watched[count] = (struct pollfd){.fd = STDIN_FILENO, .events = POLLIN};
    for (;;) {
        bool active = false;
        const uint64_t now = nanos();
        for (long i = 0; i < count; i++) {
            unit_t *unit = &units[i];
            if (watched[i].revents || unit->look_at <= now) {
                watched[i].revents = 0;
                const bool more = tlc_device_poll(&unit->device);
                unit->look_at = now + (more ? 0 : LOOK_NS);
                active = active || more;
            }
        }
        if (poll(watched, (nfds_t)count + 1, active ? 0 : 1) > 0 && watched[count].revents) {
            return 0;
        }
    }
}
