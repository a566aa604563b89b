/* SPDX-License-Identifier: Apache-2.0
 *
 * baremetal.c: the port of every bare-metal board, over the board's driver and core files.
 */
#include "tlc_baremetal.h"

#include <string.h>

#define PAINT 0xA5A5A5A5u
#define FAULT_EXIT_CODE 70
#define BUILD_HEADER_BYTES 16u
#define BUILD_BYTES 8u       /* of the hash, that are told */
#define FAULT_SPINS 1000000u /* a UART that takes nothing must not hold the exit for ever */

static bool busy; /* bytes went in or out since the main loop last looked */

static size_t port_read(void *self, uint8_t *bytes, size_t capacity) {
    (void)self;
    size_t count = 0;
    while (count < capacity && tlc_uart_get(&bytes[count])) {
        count++;
    }
    busy = busy || count > 0;
    return count;
}

static size_t port_write(void *self, const uint8_t *bytes, size_t count) {
    (void)self;
    size_t sent = 0;
    while (sent < count && tlc_uart_put(bytes[sent])) {
        sent++;
    }
    busy = busy || sent > 0;
    return sent;
}

static uint32_t port_millis(void *self) {
    (void)self;
    return (uint32_t)(tlc_hw_nanos() / 1000000u);
}

static uint64_t port_ticks(void *self) {
    (void)self;
    return tlc_hw_ticks();
}

static uint32_t port_entropy(void *self) {
    (void)self;
    /* The time passes in real time while the board waits for a host, so it differs too. */
    uint64_t nanos = tlc_hw_nanos();
    uint32_t mix = tlc_boot_words[0] ^ (tlc_boot_words[1] * 0x9E3779B9u) ^ (uint32_t)nanos ^ (uint32_t)(nanos >> 32);
    mix = (mix ^ (mix >> 16)) * 0x85EBCA6Bu;
    mix = (mix ^ (mix >> 13)) * 0xC2B2AE35u;
    return mix ^ (mix >> 16);
}

static const tlc_port_t board_port = {
    .read = port_read,
    .write = port_write,
    .millis = port_millis,
    .ticks = port_ticks,
    .yield = NULL,
    .entropy = port_entropy,
    .self = NULL,
};

const tlc_port_t *tlc_board_port(void) { return &board_port; }

/* ---- the journal's flash ---- */

static tlc_storage_t storage;

static uint8_t *flash_at(uint8_t slot, uint32_t offset) { return tlc_journal + slot * storage.slot_bytes + offset; }

static bool flash_read(void *self, uint8_t slot, uint32_t offset, uint8_t *bytes, uint32_t count) {
    (void)self;
    memcpy(bytes, flash_at(slot, offset), count);
    return true;
}

static bool flash_erase(void *self, uint8_t slot) {
    (void)self;
    return tlc_hw_flash_erase(flash_at(slot, 0), storage.slot_bytes);
}

static bool flash_write(void *self, uint8_t slot, uint32_t offset, const uint8_t *bytes, uint32_t count) {
    (void)self;
    return tlc_hw_flash_write(flash_at(slot, offset), bytes, count);
}

const tlc_storage_t *tlc_board_storage(uint32_t slot_bytes) {
    if ((uintptr_t)tlc_journal_end - (uintptr_t)tlc_journal < 2u * slot_bytes) {
        return NULL;
    }
    storage.flash_read = flash_read;
    storage.flash_erase = flash_erase;
    storage.flash_write = flash_write;
    storage.slot_bytes = slot_bytes;
    return &storage;
}

__attribute__((noinline)) void tlc_stack_paint(void) {
    /* 64 bytes of room for this function's own frame. */
    uintptr_t end = (uintptr_t)__builtin_frame_address(0) - 64u;
    for (volatile uint32_t *word = tlc_stack_bottom; (uintptr_t)word < end; word++) {
        *word = PAINT;
    }
}

uint32_t tlc_board_stack_high_water(void) {
    const volatile uint32_t *word = tlc_stack_bottom;
    while (word < tlc_stack_top && *word == PAINT) {
        word++;
    }
    return (uint32_t)((uintptr_t)tlc_stack_top - (uintptr_t)word);
}

int tlc_board_run(int argc, char **argv, const tlc_board_app_t *app) {
    (void)argc;
    (void)argv;
    tlc_hw_init();
    tlc_boot_words[1]++; /* the launcher waits for this before it lets a host send */
    if (!app->start(app->app, &board_port)) {
        return 1;
    }
    for (;;) {
        busy = false;
        app->poll(app->app);
        if (!busy) {
            tlc_hw_sleep();
        }
    }
}

static void fault_put(char letter) {
    for (uint32_t spin = 0; spin < FAULT_SPINS && !tlc_uart_put((uint8_t)letter); spin++) {
    }
}

static void fault_text(const char *text) {
    while (*text != '\0') {
        fault_put(*text++);
    }
}

static void fault_digits(uint32_t value, int bits) {
    for (int shift = bits - 4; shift >= 0; shift -= 4) {
        fault_put("0123456789abcdef"[(value >> shift) & 15u]);
    }
}

static void fault_hex(const char *name, uint32_t value) {
    fault_text(name);
    fault_digits(value, 32);
}

void tlc_fault(const tlc_fault_t *fault) {
    const bool overflow = fault->cause != 0 && fault->sp <= (uint32_t)(uintptr_t)tlc_stack_bottom;
    fault_put('\0');
    fault_text("\r\ntlc fault: ");
    fault_text(overflow ? "stack overflow" : fault->what);
    if (fault->which != NULL) {
        fault_text(fault->which);
    }
    fault_hex("; cause ", fault->cause);
    fault_hex(" pc ", fault->pc);
    fault_hex(" lr ", fault->lr);
    fault_hex(" sp ", fault->sp);
    fault_hex(" detail ", fault->detail);
    fault_text(" build ");
    const bool known = (uintptr_t)tlc_build_id_end - (uintptr_t)tlc_build_id >= BUILD_HEADER_BYTES + BUILD_BYTES;
    for (uint32_t i = 0; i < BUILD_BYTES; i++) {
        fault_digits(known ? tlc_build_id[BUILD_HEADER_BYTES + i] : 0u, 8);
    }
    fault_text("\r\n");
    fault_put('\0');
    tlc_board_exit(FAULT_EXIT_CODE);
}

/* The call lies two bytes before where it returns to, whatever the core; an Arm address tells its state in bit 0. */
__attribute__((noreturn)) static void panic_at(const char *what, const char *which, const void *returns_to) {
    const uint32_t pc = ((uint32_t)(uintptr_t)returns_to & ~1u) - 2u;
    const uint32_t sp = (uint32_t)(uintptr_t)__builtin_frame_address(0);
    const tlc_fault_t fault = {.what = what, .which = which, .pc = pc, .sp = sp};
    tlc_fault(&fault);
}

void tlc_board_panic(const char *what) { panic_at(what, NULL, __builtin_return_address(0)); }

/* What assert() of newlib and picolibc calls, and abort(): theirs need stdio and signals. */
void __assert_func(const char *file, int line, const char *function, const char *expression);
__attribute__((noreturn)) void __assert_func(const char *file, int line, const char *function, const char *expression) {
    (void)file; /* the address tells both */
    (void)line;
    (void)function;
    panic_at("assertion failed: ", expression, __builtin_return_address(0));
}

void abort(void);
__attribute__((noreturn)) void abort(void) { panic_at("abort", NULL, __builtin_return_address(0)); }
