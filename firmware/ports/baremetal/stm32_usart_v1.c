/* SPDX-License-Identifier: Apache-2.0
 *
 * stm32_usart_v1.c: the USART of the STM32F1, F2, F4 and L1. Registers: ST RM0090, chapter 30.6.
 */
#include "stm32.h"

#define STATUS 0x00u
#define DATA 0x04u
#define BAUD 0x08u
#define CONTROL 0x0Cu
#define ERRORS 0x0Fu /* overrun, noise, frame, parity */
#define RX_READY 0x20u
#define TX_EMPTY 0x80u
#define ON 0x202Cu /* UE, RXNEIE, TE, RE */

void tlc_usart_start(uint32_t divider) {
    tlc_write(TLC_USART_BASE + CONTROL, 0);
    tlc_write(TLC_USART_BASE + BAUD, divider);
    tlc_write(TLC_USART_BASE + CONTROL, ON);
}

bool tlc_usart_waits(void) {
    const uint32_t status = tlc_read(TLC_USART_BASE + STATUS);
    if ((status & (RX_READY | ERRORS)) != 0 && (status & RX_READY) == 0) {
        (void)tlc_read(TLC_USART_BASE + DATA); /* after the status: that clears them, as taking a byte does */
    }
    return (status & RX_READY) != 0;
}

uint8_t tlc_usart_take(void) { return (uint8_t)tlc_read(TLC_USART_BASE + DATA); }

bool tlc_uart_put(uint8_t byte) {
    if ((tlc_read(TLC_USART_BASE + STATUS) & TX_EMPTY) == 0) {
        return false;
    }
    tlc_write(TLC_USART_BASE + DATA, byte);
    return true;
}
