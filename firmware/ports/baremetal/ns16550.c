/* SPDX-License-Identifier: Apache-2.0
 *
 * ns16550.c: UART0, CLINT and PLIC of QEMU's RISC-V virt machine, and of Renode's, where the UART's interrupt is
 * number 3. Registers: PC16550D data sheet; the RISC-V PLIC specification 1.0.
 */
#include "tlc_baremetal.h"

#define UART_BASE 0x10000000u
#define UART_DATA 0u
#define UART_INT_ENABLE 1u
#define UART_FIFO 2u
#define UART_LINE 3u
#define UART_STATUS 5u
#define UART_RX_READY 0x01u
#define UART_TX_EMPTY 0x20u

#define CLINT_BASE 0x02000000u
#define CLINT_COMPARE 0x4000u
#define CLINT_TIME 0xBFF8u
#define TIME_PERIOD_NS 100u

#define PLIC_BASE 0x0C000000u
#define PLIC_ENABLE 0x2000u
#define PLIC_THRESHOLD 0x200000u
#define PLIC_CLAIM 0x200004u
#if !defined(TLC_UART_INTERRUPT)
#define TLC_UART_INTERRUPT 10
#endif
#define UART_INTERRUPT ((uint32_t)TLC_UART_INTERRUPT)

#define WAKE_EXTERNAL_AND_TIMER 0x880u /* MEIE, MTIE */

#define CSR(instruction) ".option push\n\t.option arch, +zicsr\n\t" instruction "\n\t.option pop\n\t"

static uint64_t started; /* the counter at tlc_hw_init */
static uint64_t spent;   /* instructions that tlc_hw_ticks itself took */
static uint32_t fixed;   /* what one call takes, measured at start */

static volatile uint8_t *uart(uintptr_t offset) { return (volatile uint8_t *)(UART_BASE + offset); }

static uint64_t time_now(void) {
    uint32_t high, low;
    do {
        high = *tlc_reg(CLINT_BASE, CLINT_TIME + 4u);
        low = *tlc_reg(CLINT_BASE, CLINT_TIME);
    } while (high != *tlc_reg(CLINT_BASE, CLINT_TIME + 4u));
    return (uint64_t)high << 32 | low;
}

static void wake_at(uint64_t time) {
    *tlc_reg(CLINT_BASE, CLINT_COMPARE + 4u) = UINT32_MAX; /* never too early between the halves */
    *tlc_reg(CLINT_BASE, CLINT_COMPARE) = (uint32_t)time;
    *tlc_reg(CLINT_BASE, CLINT_COMPARE + 4u) = (uint32_t)(time >> 32);
}

uint64_t tlc_hw_nanos(void) { return time_now() * TIME_PERIOD_NS; }

__attribute__((noinline)) uint64_t tlc_hw_ticks(void) {
    uint32_t high = 0, low = 0, again = 0; /* cppcheck does not see that assembly writes them */
    do {
        __asm__ volatile(CSR("csrr %0, minstreth") : "=r"(high));
        __asm__ volatile(CSR("csrr %0, minstret") : "=r"(low));
        __asm__ volatile(CSR("csrr %0, minstreth") : "=r"(again));
    } while (high != again);
    uint64_t now = ((uint64_t)high << 32 | low) - started - spent;
    spent += fixed;
    return now;
}

void tlc_hw_init(void) {
    *uart(UART_INT_ENABLE) = 1; /* a byte has been received */
    *uart(UART_FIFO) = 0xC1;    /* on; an interrupt at 14 bytes, or soon after the last of fewer */
    *uart(UART_LINE) = 3;       /* 8 bits, no parity, one stop bit */
    wake_at(UINT64_MAX);
    *tlc_reg(PLIC_BASE, 4u * UART_INTERRUPT) = 1;
    *tlc_reg(PLIC_BASE, PLIC_ENABLE) = 1u << UART_INTERRUPT;
    *tlc_reg(PLIC_BASE, PLIC_THRESHOLD) = 0;
    /* They wake, and are never taken: mstatus.MIE stays 0. */
    __asm__ volatile(CSR("csrw mie, %0") : : "r"(WAKE_EXTERNAL_AND_TIMER));
    started = 0;
    spent = 0;
    fixed = 0;
    started = tlc_hw_ticks();
    uint64_t first = tlc_hw_ticks();
    fixed = (uint32_t)(tlc_hw_ticks() - first);
    spent += fixed;
}

bool tlc_uart_get(uint8_t *byte) {
    if ((*uart(UART_STATUS) & UART_RX_READY) == 0) {
        return false;
    }
    *byte = *uart(UART_DATA);
    return true;
}

bool tlc_uart_put(uint8_t byte) {
    if ((*uart(UART_STATUS) & UART_TX_EMPTY) == 0) {
        return false;
    }
    *uart(UART_DATA) = byte;
    return true;
}

void tlc_hw_sleep(void) {
    uint32_t source = *tlc_reg(PLIC_BASE, PLIC_CLAIM);
    if (source != 0) {
        *tlc_reg(PLIC_BASE, PLIC_CLAIM) = source;
    }
    if ((*uart(UART_STATUS) & UART_RX_READY) != 0) {
        return;
    }
    wake_at(time_now() + TLC_SLEEP_NS / TIME_PERIOD_NS);
    tlc_core_wait();
    wake_at(UINT64_MAX);
}
