/* SPDX-License-Identifier: Apache-2.0
 *
 * tlc_baremetal.h: what one bare-metal board must bring; baremetal.c makes a port of it. A board is one driver file
 * (UART, clock), one core file (start-up, faults, exit) and one linker script. Programs include tlc/board.h instead.
 */
#ifndef TLC_BAREMETAL_H
#define TLC_BAREMETAL_H

#include <stdbool.h>
#include <stdint.h>

#include "tlc/board.h"

/* ---- a driver file ---- */

void tlc_hw_init(void);

/* One byte from or to the UART, if it can be had at once. */
bool tlc_uart_get(uint8_t *byte);
bool tlc_uart_put(uint8_t byte);

/* Nanoseconds since tlc_hw_init. */
uint64_t tlc_hw_nanos(void);

/* Instructions since tlc_hw_init, without those that reading this very counter took. */
uint64_t tlc_hw_ticks(void);

/* Returns when a byte may have arrived, or after TLC_SLEEP_NS: often enough for the link's timers. */
#define TLC_SLEEP_NS 4000000u
void tlc_hw_sleep(void);

/* ---- flash: a driver file, or memory_flash.c ---- */

/* All bytes become 0xFF. `at` and `bytes`: whole sectors. */
bool tlc_hw_flash_erase(uint8_t *at, uint32_t bytes);
/* Clears bits. All three in multiples of 4. */
bool tlc_hw_flash_write(uint8_t *at, const uint8_t *bytes, uint32_t count);

/* ---- a core file ---- */

/* Sleeps until an interrupt is pending, masked or not. */
void tlc_core_wait(void);

/* Interrupts are masked from start-up on. A driver that takes some is built with TLC_INTERRUPTS, brings
 * tlc_hw_interrupt, which all of them call, and unmasks them. Cortex-M alone. */
void tlc_core_mask(void);
void tlc_core_unmask(void);
void tlc_hw_interrupt(void);

/* ---- ring.c: bytes from an interrupt handler to the main loop ---- */

/* A power of two. The host's frames on their way must fit: link.peer_window * (link.fragment + 64) of the board file.
 */
#define TLC_RING_BYTES 4096u

typedef struct {
    volatile uint32_t put, taken; /* counts of bytes: one writer each */
    uint8_t bytes[TLC_RING_BYTES];
} tlc_ring_t;

bool tlc_ring_full(const tlc_ring_t *ring);
bool tlc_ring_empty(const tlc_ring_t *ring);
void tlc_ring_put(tlc_ring_t *ring, uint8_t byte); /* there must be room */
bool tlc_ring_take(tlc_ring_t *ring, uint8_t *byte);

/* ---- baremetal.c ---- */

typedef struct {
    const char *what;  /* in words */
    const char *which; /* of an assertion: the expression; else NULL */
    uint32_t cause;    /* exception number, mcause or EXCCAUSE; 0 of a panic */
    uint32_t pc;       /* of the faulting instruction, or of the last call that is known where that is lost */
    uint32_t lr;
    uint32_t sp;
    uint32_t detail; /* CFSR, mtval or EXCVADDR */
} tlc_fault_t;

/* Says what happened over the UART, one readable line between two zeros, so that it cuts off a frame on its way and is
 * one of its own (PROTOCOL.md, section 2), and ends the program with exit code 70. */
__attribute__((noreturn)) void tlc_fault(const tlc_fault_t *fault);

/* Fills the unused stack below `sp`, so that the high-water mark can be read later. */
void tlc_stack_paint(void);

/* ---- the linker script ---- */

extern uint32_t tlc_stack_bottom[], tlc_stack_top[];
extern uint32_t tlc_text_start[]; /* of a Cortex-M */
extern uint32_t tlc_data_load[], tlc_data_start[], tlc_data_end[];
extern uint32_t tlc_bss_start[], tlc_bss_end[];
/* The last two words of RAM, which no start-up clears: a number that the launcher may put there before the program
 * starts, and how often this board has started since. */
extern uint32_t tlc_boot_words[2];
/* The end of flash, kept free for the journal: as many bytes as the project's manifest says. */
extern uint8_t tlc_journal[], tlc_journal_end[];
/* The linker's hash of this very image, a note of 16 bytes of header and 20 of hash. */
extern const uint8_t tlc_build_id[], tlc_build_id_end[];

static inline volatile uint32_t *tlc_reg(uintptr_t base, uintptr_t offset) {
    return (volatile uint32_t *)(base + offset);
}

/* A register is read and written through these where a driver is tested against a model of its peripherals. Values are
 * addresses too, for DMA. */
#if defined(TLC_REGISTER_MODEL)
uint32_t tlc_read(uintptr_t address);
void tlc_write(uintptr_t address, uintptr_t value);
#else
static inline uint32_t tlc_read(uintptr_t address) { return *tlc_reg(address, 0); }
static inline void tlc_write(uintptr_t address, uintptr_t value) { *tlc_reg(address, 0) = (uint32_t)value; }
#endif

#endif /* TLC_BAREMETAL_H */
