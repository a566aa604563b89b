/* SPDX-License-Identifier: Apache-2.0
 *
 * posix.c: the firmware as a process. Its link is a TCP socket on the loopback interface, one host at a time.
 *
 *     program [--port N | --fd N | --connect N] [--ignore-stdin] [--seed N] [--flash FILE]
 *
 * --connect: calls a host that listens there, as a board on Wi-Fi does, and calls again when the connection breaks.
 * --flash: the file that stands for the flash in which what is learned outlives the process. One process at a time has
 * it; another, and one without the option, keeps nothing.
 * --port 0 (the default) takes any free port; --fd is a listening socket that the parent hands over. The program says
 * where it listens in one line, and ends when its standard input closes (unless it is to ignore that) or at SIGTERM.
 */
#define _DEFAULT_SOURCE /* flock */
#define _POSIX_C_SOURCE 200809L

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tlc/board.h"

#define USAGE_EXIT_CODE 2
#define FAULT_EXIT_CODE 70
#define SLEEP_MS 5        /* often enough for the link's timers */
#define CALL_BASE_MS 100u /* the wait after a call that failed: doubled each time up to */
#define CALL_CAP_MS 5000u /* ... this, half of it random: many devices are not to call in one instant */

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

typedef struct {
    int listener;
    int host;  /* the connected socket, or -1 */
    bool busy; /* bytes went in or out since the main loop last looked */
    bool watch_stdin;
    uint16_t call;     /* the port that it calls; 0: it listens */
    uint32_t call_ms;  /* when it last hung up or failed, and ... */
    uint32_t wait_ms;  /* ... how long it waits before it calls */
    uint32_t limit_ms; /* of that wait */
    uint32_t random;
    uint32_t seed;
    const char *flash_file; /* NULL: none */
    int flash;
    tlc_storage_t storage;
    tlc_port_t port;
} board_t;

static board_t board;

static uint64_t nanos(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint32_t port_millis(void *context) {
    (void)context;
    return (uint32_t)(nanos() / 1000000u);
}

/* Equal jitter: a wait in [limit / 2, limit]. */
static void call_later(board_t *self) {
    self->random ^= self->random << 13; /* Marsaglia's xorshift32 */
    self->random ^= self->random >> 17;
    self->random ^= self->random << 5;
    self->call_ms = port_millis(self);
    self->wait_ms = self->limit_ms / 2u + self->random % (self->limit_ms / 2u + 1u);
    self->limit_ms = self->limit_ms < CALL_CAP_MS / 2u ? self->limit_ms * 2u : CALL_CAP_MS;
}

static void drop_host(board_t *self) {
    if (self->host >= 0) {
        (void)close(self->host);
        self->host = -1;
        call_later(self);
    }
}

static bool would_block(void) { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

static size_t port_read(void *context, uint8_t *bytes, size_t capacity) {
    board_t *self = context;
    if (self->host < 0 || capacity == 0) {
        return 0;
    }
    ssize_t count = recv(self->host, bytes, capacity, 0);
    if (count > 0) {
        self->busy = true;
        self->limit_ms = CALL_BASE_MS; /* only now: a host that hangs up at once is no host yet */
        return (size_t)count;
    }
    if (count == 0 || !would_block()) {
        drop_host(self);
    }
    return 0;
}

/* With no host there, the bytes go where a UART with no cable sends them. */
static size_t port_write(void *context, const uint8_t *bytes, size_t count) {
    board_t *self = context;
    if (self->host < 0 || count == 0) {
        return count;
    }
    ssize_t sent = send(self->host, bytes, count, MSG_NOSIGNAL);
    if (sent >= 0) {
        self->busy = true;
        return (size_t)sent;
    }
    if (would_block()) {
        return 0;
    }
    drop_host(self);
    return count;
}

static uint64_t port_ticks(void *context) {
    (void)context;
    return nanos();
}

static uint32_t port_entropy(void *context) {
    const board_t *self = context;
    uint32_t mix = self->seed;
    if (mix == 0) {
        uint64_t now = nanos();
        mix = (uint32_t)now ^ (uint32_t)(now >> 32) ^ ((uint32_t)getpid() * 0x9E3779B9u);
    }
    mix = (mix ^ (mix >> 16)) * 0x85EBCA6Bu;
    mix = (mix ^ (mix >> 13)) * 0xC2B2AE35u;
    return mix ^ (mix >> 16);
}

const tlc_port_t *tlc_board_port(void) { return &board.port; }

/* ---- the journal's flash ---- */

static off_t flash_at(const board_t *self, uint8_t slot, uint32_t offset) {
    return (off_t)slot * (off_t)self->storage.slot_bytes + (off_t)offset;
}

/* What the file does not hold yet was never written. */
static bool flash_read(void *context, uint8_t slot, uint32_t offset, uint8_t *bytes, uint32_t count) {
    const board_t *self = context;
    memset(bytes, 0xFF, count);
    return pread(self->flash, bytes, count, flash_at(self, slot, offset)) >= 0;
}

static bool flash_write(void *context, uint8_t slot, uint32_t offset, const uint8_t *bytes, uint32_t count) {
    const board_t *self = context;
    return pwrite(self->flash, bytes, count, flash_at(self, slot, offset)) == (ssize_t)count;
}

static bool flash_erase(void *context, uint8_t slot) {
    const board_t *self = context;
    uint8_t blank[TLC_JOURNAL_UNIT];
    memset(blank, 0xFF, sizeof blank);
    bool done = true;
    for (uint32_t offset = 0; done && offset < self->storage.slot_bytes; offset += (uint32_t)sizeof blank) {
        done = flash_write(context, slot, offset, blank, sizeof blank);
    }
    return done;
}

const tlc_storage_t *tlc_board_storage(uint32_t slot_bytes) {
    if (!board.flash_file) {
        return NULL;
    }
    if (board.flash < 0) {
        board.flash = open(board.flash_file, O_RDWR | O_CREAT, 0666);
        if (board.flash < 0 || flock(board.flash, LOCK_EX | LOCK_NB) != 0) {
            (void)fprintf(stderr, "%s: %s: nothing is kept there\n", board.flash_file, strerror(errno));
            board.flash_file = NULL;
            return NULL;
        }
    }
    board.storage = (tlc_storage_t){.flash_read = flash_read,
                                    .flash_erase = flash_erase,
                                    .flash_write = flash_write,
                                    .slot_bytes = slot_bytes,
                                    .self = &board};
    return &board.storage;
}

uint32_t tlc_board_stack_high_water(void) { return 0; }

void tlc_board_exit(int code) {
    (void)fflush(stdout);
    _exit(code);
}

static void set_nonblocking(int fd) { (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }

static void keep_host(board_t *self, int host) {
    const int one = 1;
    self->host = host;
    if (host >= 0) {
        set_nonblocking(host);
        (void)setsockopt(host, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
}

static struct sockaddr_in loopback(uint16_t port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

/* On the loopback interface a connection is made, or refused, at once. */
static void call_host(board_t *self) {
    if (self->host >= 0 || port_millis(self) - self->call_ms < self->wait_ms) {
        return;
    }
    const struct sockaddr_in address = loopback(self->call);
    const int host = socket(AF_INET, SOCK_STREAM, 0);
    if (host >= 0 && connect(host, (const struct sockaddr *)&address, sizeof address) == 0) {
        keep_host(self, host);
        return;
    }
    if (host >= 0) {
        (void)close(host);
    }
    call_later(self);
}

/* Takes the next host if none is connected; waits for something to happen if `idle`. */
static void serve(board_t *self, bool idle) {
    struct pollfd watched[2];
    nfds_t count = 1;
    if (self->call) {
        call_host(self);
    }
    /* without either there is nothing to watch, which poll() takes a negative number for */
    watched[0] = (struct pollfd){.fd = self->host >= 0 ? self->host : self->listener, .events = POLLIN};
    if (self->watch_stdin) {
        watched[count++] = (struct pollfd){.fd = STDIN_FILENO, .events = POLLIN};
    }
    if (poll(watched, count, idle ? SLEEP_MS : 0) <= 0) {
        return;
    }
    if (self->host < 0 && (watched[0].revents & POLLIN) != 0) {
        keep_host(self, accept(self->listener, NULL, NULL));
    }
    if (count > 1 && watched[1].revents != 0) {
        char discarded[64];
        if (read(STDIN_FILENO, discarded, sizeof discarded) <= 0) {
            tlc_board_exit(0); /* whoever started us is gone */
        }
    }
}

/* In the words of a bare-metal board. Addresses of a process tell nothing: it is told to the terminal as well. */
void tlc_board_panic(const char *what) {
    if (board.host >= 0) {
        const char end = '\0';
        (void)send(board.host, &end, 1, MSG_NOSIGNAL);
        (void)dprintf(board.host,
                      "\r\ntlc fault: %s; cause 00000000 pc 00000000 lr 00000000 sp 00000000 detail 00000000 "
                      "build 0000000000000000\r\n",
                      what);
        (void)send(board.host, &end, 1, MSG_NOSIGNAL);
    }
    (void)fprintf(stderr, "tlc fault: %s\n", what);
    exit(FAULT_EXIT_CODE);
}

static int listen_on(uint16_t port) {
    int one = 1;
    const struct sockaddr_in address = loopback(port);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0) {
        return -1;
    }
    (void)setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (const struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 1) != 0) {
        (void)close(listener);
        return -1;
    }
    return listener;
}

static bool number(const char *text, long limit, long *value) {
    char *end;
    errno = 0;
    *value = text == NULL ? -1 : strtol(text, &end, 10);
    return text != NULL && errno == 0 && end != text && *end == '\0' && *value >= 0 && *value <= limit;
}

int tlc_board_run(int argc, char **argv, const tlc_board_app_t *app) {
    long port = 0, fd = -1, seed = 0, call = 0;
    board = (board_t){.listener = -1, .host = -1, .watch_stdin = true, .flash = -1, .limit_ms = CALL_BASE_MS};
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        bool known = true, valid = true;
        if (strcmp(argv[i], "--ignore-stdin") == 0) {
            board.watch_stdin = false;
            continue;
        }
        if (strcmp(argv[i], "--port") == 0) {
            valid = number(value, UINT16_MAX, &port);
        } else if (strcmp(argv[i], "--fd") == 0) {
            valid = number(value, INT_MAX, &fd);
        } else if (strcmp(argv[i], "--connect") == 0) {
            valid = number(value, UINT16_MAX, &call) && call > 0;
        } else if (strcmp(argv[i], "--seed") == 0) {
            valid = number(value, INT_MAX, &seed);
        } else if (strcmp(argv[i], "--flash") == 0) {
            board.flash_file = value;
            valid = value != NULL;
        } else {
            known = false;
        }
        if (!known || !valid) {
            (void)fprintf(stderr,
                          "usage: %s [--port N | --fd N | --connect N] [--ignore-stdin] [--seed N] [--flash FILE]\n",
                          argv[0]);
            return USAGE_EXIT_CODE;
        }
        i++;
    }
    board.seed = (uint32_t)seed;
    board.port = (tlc_port_t){.read = port_read,
                              .write = port_write,
                              .millis = port_millis,
                              .ticks = port_ticks,
                              .yield = NULL,
                              .entropy = port_entropy,
                              .self = &board};
    if (call) {
        board.call = (uint16_t)call;
        board.random = port_entropy(&board) | 1u;
    } else {
        board.listener = fd >= 0 ? (int)fd : listen_on((uint16_t)port);
        struct sockaddr_in address;
        socklen_t size = sizeof address;
        if (board.listener < 0 || getsockname(board.listener, (struct sockaddr *)&address, &size) != 0) {
            (void)fprintf(stderr, "cannot listen on 127.0.0.1:%ld: %s\n", port, strerror(errno));
            return 1;
        }
        set_nonblocking(board.listener);
        port = (long)ntohs(address.sin_port);
    }
    if (!app->start(app->app, &board.port)) {
        return 1;
    }
    (void)printf("%s 127.0.0.1:%ld\n", call ? "calling" : "listening", call ? call : port);
    (void)fflush(stdout);
    for (;;) {
        const bool idle = !board.busy;
        serve(&board, idle);
        board.busy = false;
        app->poll(app->app);
    }
}
