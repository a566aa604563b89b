/* SPDX-License-Identifier: Apache-2.0
 *
 * stm32f4.c: USART1 and TIM2 of the STM32F405, as QEMU's netduinoplus2 has them. It knows neither clock tree nor pins,
 * and its timers count nanoseconds: on the chip itself the Arduino port serves.
 * Registers: ST RM0090, chapters 18 (TIM2) and 30 (USART).
 */
#include "tlc_baremetal.h"

#define UART_BASE 0x40011000u
#define UART_STATUS 0x00u
#define UART_DATA 0x04u
#define UART_BAUD 0x08u
#define UART_CONTROL 0x0Cu
#define UART_RX_READY 0x20u
#define UART_TX_EMPTY 0x80u
#define UART_ON 0x202Cu /* UE, RXNEIE, TE, RE */
#define UART_INTERRUPT 37u

#define TIMER_BASE 0x40000000u
#define TIMER_CONTROL 0x00u
#define TIMER_EVENT 0x14u
#define TIMER_COUNT 0x24u
#define TIMER_PRESCALER 0x28u
#define TIMER_RELOAD 0x2Cu

#define SYSTICK_BASE 0xE000E010u
#define SYSTICK_CTRL 0x0u
#define SYSTICK_LOAD 0x4u
#define SYSTICK_VALUE 0x8u
#define NVIC_ENABLE 0xE000E100u
#define NVIC_UNPEND 0xE000E280u
#define NVIC_WORD (4u * (UART_INTERRUPT / 32u))
#define NVIC_BIT (1u << (UART_INTERRUPT % 32u))
#define SCB_ICSR 0xE000ED04u
#define ICSR_SYSTICK_UNPEND (1u << 25)

#define CLOCK_HZ 168000000u
#define USART_CLOCK_HZ 84000000u
#define BAUD 115200u

static uint32_t last;  /* the timer when last read: it wraps in 4.3 s, and the main loop reads it more often */
static uint64_t nanos; /* since tlc_hw_init */
static uint64_t spent; /* instructions that tlc_hw_ticks itself took */
static uint32_t fixed; /* what one call takes, measured at start */

uint64_t tlc_hw_nanos(void) {
    uint32_t value = *tlc_reg(TIMER_BASE, TIMER_COUNT);
    nanos += value - last;
    last = value;
    return nanos;
}

/* Under -icount shift=0 one instruction takes one nanosecond. */
__attribute__((noinline)) uint64_t tlc_hw_ticks(void) {
    uint64_t now = tlc_hw_nanos() - spent;
    spent += fixed;
    return now;
}

void tlc_hw_init(void) {
    *tlc_reg(UART_BASE, UART_BAUD) = (USART_CLOCK_HZ + BAUD / 2u) / BAUD;
    *tlc_reg(UART_BASE, UART_CONTROL) = UART_ON;
    *tlc_reg(TIMER_BASE, TIMER_PRESCALER) = 0;
    *tlc_reg(TIMER_BASE, TIMER_RELOAD) = UINT32_MAX;
    *tlc_reg(TIMER_BASE, TIMER_EVENT) = 1; /* takes the prescaler over */
    *tlc_reg(TIMER_BASE, TIMER_CONTROL) = 1;
    *tlc_reg(NVIC_ENABLE, NVIC_WORD) = NVIC_BIT; /* it wakes, and is never taken */
    last = *tlc_reg(TIMER_BASE, TIMER_COUNT);
    nanos = 0;
    spent = 0;
    fixed = 0;
    uint64_t first = tlc_hw_ticks();
    fixed = (uint32_t)(tlc_hw_ticks() - first);
    spent += fixed;
}

bool tlc_uart_get(uint8_t *byte) {
    if ((*tlc_reg(UART_BASE, UART_STATUS) & UART_RX_READY) == 0) {
        return false;
    }
    *byte = (uint8_t)*tlc_reg(UART_BASE, UART_DATA);
    return true;
}

bool tlc_uart_put(uint8_t byte) {
    if ((*tlc_reg(UART_BASE, UART_STATUS) & UART_TX_EMPTY) == 0) {
        return false;
    }
    *tlc_reg(UART_BASE, UART_DATA) = byte;
    return true;
}

void tlc_hw_sleep(void) {
    *tlc_reg(NVIC_UNPEND, NVIC_WORD) = NVIC_BIT;
    if ((*tlc_reg(UART_BASE, UART_STATUS) & UART_RX_READY) != 0) {
        return;
    }
    *tlc_reg(SYSTICK_BASE, SYSTICK_LOAD) = TLC_SLEEP_NS / 1000u * (CLOCK_HZ / 1000000u) - 1u;
    *tlc_reg(SYSTICK_BASE, SYSTICK_VALUE) = 0;
    *tlc_reg(SYSTICK_BASE, SYSTICK_CTRL) = 7; /* on, interrupt, core clock */
    tlc_core_wait();
    *tlc_reg(SYSTICK_BASE, SYSTICK_CTRL) = 0;
    *tlc_reg(SCB_ICSR, 0) = ICSR_SYSTICK_UNPEND;
}
