/* SPDX-License-Identifier: Apache-2.0
 *
 * cmsdk.c: UART0 and TIMER0 of Arm's Cortex-M System Design Kit, as on the MPS2 boards (AN385, AN386, AN500).
 * Registers: Arm DDI 0479, chapters 4.2 (timer) and 4.3 (UART).
 */
#include "tlc_baremetal.h"

#define UART_BASE 0x40004000u
#define UART_DATA 0x00u
#define UART_STATE 0x04u
#define UART_CTRL 0x08u
#define UART_INT 0x0Cu
#define UART_BAUDDIV 0x10u
#define UART_TX_FULL 1u
#define UART_RX_FULL 2u
#define UART_TX_RX_ON 3u
#define UART_RX_INTERRUPT 8u

#define TIMER_BASE 0x40000000u
#define TIMER_CTRL 0x00u
#define TIMER_VALUE 0x04u
#define TIMER_RELOAD 0x08u

#define SYSTICK_BASE 0xE000E010u
#define SYSTICK_CTRL 0x0u
#define SYSTICK_LOAD 0x4u
#define SYSTICK_VALUE 0x8u
#define NVIC_ENABLE 0xE000E100u
#define NVIC_UNPEND 0xE000E280u
#define SCB_ICSR 0xE000ED04u
#define ICSR_SYSTICK_UNPEND (1u << 25)

#define CLOCK_HZ 25000000u
#define BAUD 115200u
#define PERIOD_NS 40u /* of the timer, and in instructions under -icount shift=0 */
#define STEP 41u      /* instructions between two looks at it in tlc_hw_ticks */

static uint32_t last;    /* the counter when last read; it counts down */
static uint64_t periods; /* since tlc_hw_init */
static uint64_t spent;   /* instructions that tlc_hw_ticks itself took */
static uint32_t fixed;   /* its constant part, measured at start */

static uint32_t advance(uint32_t value) {
    uint32_t elapsed = last - value;
    last = value;
    periods += elapsed;
    return elapsed;
}

uint64_t tlc_hw_nanos(void) {
    (void)advance(*tlc_reg(TIMER_BASE, TIMER_VALUE));
    return periods * PERIOD_NS;
}

/* The timer counts once in 40 instructions. Looking at it every 41, one finds it two periods further exactly when the
 * later look falls on the first instruction of a period: a vernier, exact to one instruction. */
__attribute__((noinline)) uint64_t tlc_hw_ticks(void) {
    uint32_t looks = 0, value, before, difference;
    __asm__ volatile(".syntax unified\n\t"
                     "ldr %[before], [%[timer]]\n"
                     "1:\n\t"
                     "ldr %[value], [%[timer]]\n\t"
                     "subs %[difference], %[before], %[value]\n\t"
                     "mov %[before], %[value]\n\t"
                     "adds %[looks], #1\n\t"
                     ".rept 35\n\t"
                     "nop\n\t"
                     ".endr\n\t"
                     "cmp %[difference], #1\n\t"
                     "bls 1b\n\t"
                     : [looks] "+l"(looks), [value] "=&l"(value), [before] "=&l"(before), [difference] "=&l"(difference)
                     : [timer] "l"(tlc_reg(TIMER_BASE, TIMER_VALUE))
                     : "cc", "memory");
    (void)advance(value);
    uint32_t own = looks * STEP;
    uint64_t now = periods * PERIOD_NS - own - spent;
    spent += own + fixed;
    return now;
}

void tlc_hw_init(void) {
    *tlc_reg(UART_BASE, UART_BAUDDIV) = CLOCK_HZ / BAUD;
    *tlc_reg(UART_BASE, UART_CTRL) = UART_TX_RX_ON | UART_RX_INTERRUPT;
    *tlc_reg(TIMER_BASE, TIMER_RELOAD) = UINT32_MAX;
    *tlc_reg(TIMER_BASE, TIMER_VALUE) = UINT32_MAX;
    *tlc_reg(TIMER_BASE, TIMER_CTRL) = 1;
    *tlc_reg(NVIC_ENABLE, 0) = 1; /* UART0's receive interrupt is number 0; it wakes, and is never taken */
    last = *tlc_reg(TIMER_BASE, TIMER_VALUE);
    periods = 0;
    spent = 0;
    fixed = 0;
    uint64_t first = tlc_hw_ticks();
    fixed = (uint32_t)(tlc_hw_ticks() - first);
    spent += fixed;
}

bool tlc_uart_get(uint8_t *byte) {
    if ((*tlc_reg(UART_BASE, UART_STATE) & UART_RX_FULL) == 0) {
        return false;
    }
    *byte = (uint8_t)*tlc_reg(UART_BASE, UART_DATA);
    return true;
}

bool tlc_uart_put(uint8_t byte) {
    if ((*tlc_reg(UART_BASE, UART_STATE) & UART_TX_FULL) != 0) {
        return false;
    }
    *tlc_reg(UART_BASE, UART_DATA) = byte;
    return true;
}

void tlc_hw_sleep(void) {
    *tlc_reg(UART_BASE, UART_INT) = 3;
    *tlc_reg(NVIC_UNPEND, 0) = 1;
    if ((*tlc_reg(UART_BASE, UART_STATE) & UART_RX_FULL) != 0) {
        return;
    }
    *tlc_reg(SYSTICK_BASE, SYSTICK_LOAD) = TLC_SLEEP_NS / PERIOD_NS - 1u;
    *tlc_reg(SYSTICK_BASE, SYSTICK_VALUE) = 0;
    *tlc_reg(SYSTICK_BASE, SYSTICK_CTRL) = 7; /* on, interrupt, core clock */
    tlc_core_wait();
    *tlc_reg(SYSTICK_BASE, SYSTICK_CTRL) = 0;
    *tlc_reg(SCB_ICSR, 0) = ICSR_SYSTICK_UNPEND;
}
