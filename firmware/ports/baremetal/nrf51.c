/* SPDX-License-Identifier: Apache-2.0
 *
 * nrf51.c: UART0, TIMER0 (free-running) and TIMER1 (wakes) of the nRF51822, as on the BBC micro:bit.
 * Registers: nRF51 Series Reference Manual 3.0, chapters 18 (timer) and 29 (UART).
 */
#include "tlc_baremetal.h"

#define UART_BASE 0x40002000u
#define UART_START_RX 0x000u
#define UART_START_TX 0x008u
#define UART_RX_READY 0x108u
#define UART_TX_READY 0x11Cu
#define UART_INT_ENABLE 0x304u
#define UART_ENABLE 0x500u
#define UART_PIN_TX 0x50Cu
#define UART_PIN_RX 0x514u
#define UART_RX 0x518u
#define UART_TX 0x51Cu
#define UART_BAUD 0x524u
#define UART_INTERRUPT 2u
#define BAUD_115200 0x01D7E000u
#define PIN_TX 24u
#define PIN_RX 25u

#define TIMER0_BASE 0x40008000u
#define TIMER1_BASE 0x40009000u
#define TIMER1_INTERRUPT 9u
#define TIMER_START 0x000u
#define TIMER_STOP 0x004u
#define TIMER_CLEAR 0x00Cu
#define TIMER_CAPTURE 0x040u
#define TIMER_COMPARED 0x140u
#define TIMER_INT_ENABLE 0x304u
#define TIMER_BITMODE 0x508u
#define TIMER_PRESCALER 0x510u
#define TIMER_COMPARE 0x540u
#define TIMER_32_BIT 3u
#define TIMER_HZ 16000000u

#define NVIC_ENABLE 0xE000E100u
#define NVIC_UNPEND 0xE000E280u

#define STEP 126u /* instructions between two looks at the timer in tlc_hw_ticks */

static bool sending;   /* a byte is in the transmitter */
static uint32_t last;  /* the counter when last read */
static uint64_t nanos; /* the start of its current period, as the emulated timer keeps it */
static uint64_t spent; /* instructions that tlc_hw_ticks itself took */
static uint32_t fixed; /* its constant part, measured at start */

/* A period is 62.5 ns. The emulated timer moves its own reference by whole nanoseconds, rounded down, at each look,
 * and so do we: the sum stays its sum. On silicon the difference is below 1%. */
static uint32_t period_nanos(uint32_t periods) { return (periods >> 1) * 125u + (periods & 1u) * 62u; }

uint64_t tlc_hw_nanos(void) {
    *tlc_reg(TIMER0_BASE, TIMER_CAPTURE) = 1;
    uint32_t value = *tlc_reg(TIMER0_BASE, TIMER_COMPARE);
    uint32_t elapsed = value - last;
    last = value;
    nanos += (uint64_t)(elapsed >> 1) * 125u + (elapsed & 1u) * 62u;
    return nanos;
}

/* A vernier, as in cmsdk.c: two periods are 125 instructions, and we look every 126. Three periods have passed exactly
 * when the later look is one instruction past the timer's reference. */
__attribute__((noinline)) uint64_t tlc_hw_ticks(void) {
    uint32_t looks = 0, value, before, difference, one = 1;
    (void)tlc_hw_nanos();
    before = last;
    __asm__ volatile(".syntax unified\n"
                     "1:\n\t"
                     "str %[one], [%[timer], #0x40]\n\t"
                     "ldr %[value], [%[compare]]\n\t"
                     "subs %[difference], %[value], %[before]\n\t"
                     "mov %[before], %[value]\n\t"
                     "adds %[looks], #1\n\t"
                     ".rept 119\n\t"
                     "nop\n\t"
                     ".endr\n\t"
                     "cmp %[difference], #2\n\t"
                     "bls 1b\n\t"
                     : [looks] "+l"(looks), [value] "=&l"(value), [before] "+l"(before), [difference] "=&l"(difference)
                     : [timer] "l"(TIMER0_BASE), [compare] "l"(tlc_reg(TIMER0_BASE, TIMER_COMPARE)), [one] "l"(one)
                     : "cc", "memory");
    /* The first look was a few instructions after tlc_hw_nanos: `first` periods; then 2 each; the last one 3. */
    uint32_t first = value - last - 2u * looks + 1u;
    last = value;
    nanos += period_nanos(first) + (looks - 2u) * 125u + 187u;
    uint32_t own = looks * STEP;
    uint64_t now = nanos + 1u - own - spent;
    spent += own + fixed;
    return now;
}

void tlc_hw_init(void) {
    *tlc_reg(UART_BASE, UART_PIN_TX) = PIN_TX;
    *tlc_reg(UART_BASE, UART_PIN_RX) = PIN_RX;
    *tlc_reg(UART_BASE, UART_BAUD) = BAUD_115200;
    *tlc_reg(UART_BASE, UART_ENABLE) = 4;
    *tlc_reg(UART_BASE, UART_INT_ENABLE) = 1u << 2; /* a byte has been received */
    *tlc_reg(UART_BASE, UART_START_RX) = 1;
    *tlc_reg(UART_BASE, UART_START_TX) = 1;
    sending = false;

    *tlc_reg(TIMER0_BASE, TIMER_BITMODE) = TIMER_32_BIT;
    *tlc_reg(TIMER0_BASE, TIMER_PRESCALER) = 0;
    *tlc_reg(TIMER0_BASE, TIMER_CLEAR) = 1;
    *tlc_reg(TIMER0_BASE, TIMER_START) = 1;
    *tlc_reg(TIMER1_BASE, TIMER_BITMODE) = TIMER_32_BIT;
    *tlc_reg(TIMER1_BASE, TIMER_PRESCALER) = 0;
    *tlc_reg(TIMER1_BASE, TIMER_COMPARE) = TLC_SLEEP_NS / 1000u * (TIMER_HZ / 1000000u);
    *tlc_reg(TIMER1_BASE, TIMER_INT_ENABLE) = 1u << 16;
    *tlc_reg(NVIC_ENABLE, 0) = (1u << UART_INTERRUPT) | (1u << TIMER1_INTERRUPT); /* they wake, and are never taken */
    last = 0;
    nanos = 0;
    spent = 0;
    fixed = 0;
    uint64_t start = tlc_hw_ticks();
    fixed = (uint32_t)(tlc_hw_ticks() - start);
    spent += fixed;
}

bool tlc_uart_get(uint8_t *byte) {
    if (*tlc_reg(UART_BASE, UART_RX_READY) == 0) {
        return false;
    }
    *tlc_reg(UART_BASE, UART_RX_READY) = 0; /* before the read, which raises it again if more waits */
    *byte = (uint8_t)*tlc_reg(UART_BASE, UART_RX);
    return true;
}

bool tlc_uart_put(uint8_t byte) {
    if (sending && *tlc_reg(UART_BASE, UART_TX_READY) == 0) {
        return false;
    }
    *tlc_reg(UART_BASE, UART_TX_READY) = 0;
    *tlc_reg(UART_BASE, UART_TX) = byte;
    sending = true;
    return true;
}

void tlc_hw_sleep(void) {
    *tlc_reg(TIMER1_BASE, TIMER_COMPARED) = 0;
    *tlc_reg(NVIC_UNPEND, 0) = (1u << UART_INTERRUPT) | (1u << TIMER1_INTERRUPT);
    if (*tlc_reg(UART_BASE, UART_RX_READY) != 0) {
        return;
    }
    *tlc_reg(TIMER1_BASE, TIMER_CLEAR) = 1;
    *tlc_reg(TIMER1_BASE, TIMER_START) = 1;
    tlc_core_wait();
    *tlc_reg(TIMER1_BASE, TIMER_STOP) = 1;
}
