/* SPDX-License-Identifier: Apache-2.0
 *
 * cmsdk.c: UART0 of Arm's Cortex-M System Design Kit and a free-running timer, as on the MPS2 and MPS3 boards.
 * Registers: Arm DDI 0479, chapters 4.2 (timer) and 4.3 (UART); for the SSE-300's counter Arm 101773, chapter 6.
 * The board file names the image: TLC_AN505, TLC_AN547, or none for AN385, AN386 and AN500.
 */
#include "tlc_baremetal.h"

#if defined(TLC_AN505) /* Cortex-M33; all in the secure world, which it starts in */
#define UART_BASE 0x50200000u
#define UART_INTERRUPT_WORD 1u /* transmit and receive are numbers 32 and 33 */
#define UART_INTERRUPTS 3u
#define TIMER_BASE 0x50000000u
#define CLOCK_HZ 20000000u
#elif defined(TLC_AN547) /* Cortex-M55 */
#define UART_BASE 0x59303000u
#define UART_INTERRUPT_WORD 1u /* 33 and 34 */
#define UART_INTERRUPTS 6u
#define COUNTER_CONTROL 0x58100000u
#define COUNTER_BASE 0x58000000u
#define CLOCK_HZ 32000000u
#else
#define UART_BASE 0x40004000u
#define UART_INTERRUPT_WORD 0u /* receive is number 0 */
#define UART_INTERRUPTS 1u
#define TIMER_BASE 0x40000000u
#define CLOCK_HZ 25000000u
#endif

#define UART_DATA 0x00u
#define UART_STATE 0x04u
#define UART_CTRL 0x08u
#define UART_INT 0x0Cu
#define UART_BAUDDIV 0x10u
#define UART_TX_FULL 1u
#define UART_RX_FULL 2u
#define UART_TX_RX_ON 3u
#define UART_RX_INTERRUPT 8u

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

#define BAUD 115200u

/* STEP: instructions between two looks at the timer in tlc_hw_ticks, one more than STEP_PERIODS take.
 * NANOS: since the counter was 0, at the first whole nanosecond of a period; no division, for it takes no fixed time.
 */
#if CLOCK_HZ == 25000000u
#define STEP 41
#define STEP_PERIODS 1
#define NANOS(periods) ((periods)*40u)
#elif CLOCK_HZ == 20000000u
#define STEP 51
#define STEP_PERIODS 1
#define NANOS(periods) ((periods)*50u)
#elif CLOCK_HZ == 32000000u
#define STEP 126
#define STEP_PERIODS 4
#define NANOS(periods) (((periods)*125u + 3u) >> 2)
#endif

#if defined(COUNTER_BASE) /* counts up from 0 */
#define COUNTER tlc_reg(COUNTER_BASE, 0)
#define PASSED "%[value], %[before]"
static uint32_t elapsed_since(uint32_t before, uint32_t now) { return now - before; }
#else /* counts down */
#define COUNTER tlc_reg(TIMER_BASE, TIMER_VALUE)
#define PASSED "%[before], %[value]"
static uint32_t elapsed_since(uint32_t before, uint32_t now) { return before - now; }
#endif

static uint32_t last;    /* the counter when last read */
static uint64_t periods; /* since tlc_hw_init */
static uint64_t spent;   /* instructions that tlc_hw_ticks itself took */
static uint32_t fixed;   /* its constant part, measured at start */

static void advance(uint32_t value) {
    periods += elapsed_since(last, value);
    last = value;
}

uint64_t tlc_hw_nanos(void) {
    advance(*COUNTER);
    return NANOS(periods);
}

/* The timer counts once in 31 to 50 instructions. Looking at it every STEP of them, one finds it a period further than
 * usual exactly when the later look falls on the first instruction of a period: a vernier, exact to one instruction. */
__attribute__((noinline)) uint64_t tlc_hw_ticks(void) {
    uint32_t looks = 0, value, before, difference;
    __asm__ volatile(".syntax unified\n\t"
                     "ldr %[before], [%[counter]]\n"
                     "1:\n\t"
                     "ldr %[value], [%[counter]]\n\t"
                     "subs %[difference], " PASSED "\n\t"
                     "mov %[before], %[value]\n\t"
                     "adds %[looks], #1\n\t"
                     ".rept %c[nops]\n\t"
                     "nop\n\t"
                     ".endr\n\t"
                     "cmp %[difference], %[usual]\n\t"
                     "bls 1b\n\t"
                     : [looks] "+l"(looks), [value] "=&l"(value), [before] "=&l"(before), [difference] "=&l"(difference)
                     : [counter] "l"(COUNTER), [usual] "i"(STEP_PERIODS), [nops] "i"(STEP - 6)
                     : "cc", "memory");
    advance(value);
    uint32_t own = looks * STEP;
    uint64_t now = NANOS(periods) - own - spent;
    spent += own + fixed;
    return now;
}

void tlc_hw_init(void) {
    *tlc_reg(UART_BASE, UART_BAUDDIV) = CLOCK_HZ / BAUD;
    *tlc_reg(UART_BASE, UART_CTRL) = UART_TX_RX_ON | UART_RX_INTERRUPT;
#if defined(COUNTER_BASE)
    *tlc_reg(COUNTER_CONTROL, 0) = 1;
#else
    *tlc_reg(TIMER_BASE, TIMER_RELOAD) = UINT32_MAX;
    *tlc_reg(TIMER_BASE, TIMER_VALUE) = UINT32_MAX;
    *tlc_reg(TIMER_BASE, TIMER_CTRL) = 1;
#endif
    *tlc_reg(NVIC_ENABLE, 4u * UART_INTERRUPT_WORD) = UART_INTERRUPTS; /* they wake, and are never taken */
    last = *COUNTER;
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
    *tlc_reg(NVIC_UNPEND, 4u * UART_INTERRUPT_WORD) = UART_INTERRUPTS;
    if ((*tlc_reg(UART_BASE, UART_STATE) & UART_RX_FULL) != 0) {
        return;
    }
    *tlc_reg(SYSTICK_BASE, SYSTICK_LOAD) = TLC_SLEEP_NS / 1000u * (CLOCK_HZ / 1000000u) - 1u;
    *tlc_reg(SYSTICK_BASE, SYSTICK_VALUE) = 0;
    *tlc_reg(SYSTICK_BASE, SYSTICK_CTRL) = 7; /* on, interrupt, core clock */
    tlc_core_wait();
    *tlc_reg(SYSTICK_BASE, SYSTICK_CTRL) = 0;
    *tlc_reg(SCB_ICSR, 0) = ICSR_SYSTICK_UNPEND;
}
