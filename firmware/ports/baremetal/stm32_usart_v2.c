/* SPDX-License-Identifier: Apache-2.0
 *
 * stm32_usart_v2.c: the USART of the STM32F0, F3, F7, L4, G0 and later. Registers: ST RM0385, chapter 31.8.
 */
#include "stm32.h"

#define CONTROL 0x00u
#define BAUD 0x0Cu
#define STATUS 0x1Cu
#define CLEAR 0x20u
#define RECEIVED 0x24u
#define TO_SEND 0x28u
#define ERRORS 0x0Fu /* overrun, noise, frame, parity: the same bits in STATUS and CLEAR */
#define RX_READY 0x20u
#define TX_EMPTY 0x80u
#define ON 0x2Du /* UE, RXNEIE, TE, RE */

void tlc_usart_start(uint32_t divider) {
    tlc_write(TLC_USART_BASE + CONTROL, 0);
    tlc_write(TLC_USART_BASE + BAUD, divider);
    tlc_write(TLC_USART_BASE + CONTROL, ON);
}

bool tlc_usart_waits(void) {
    const uint32_t status = tlc_read(TLC_USART_BASE + STATUS);
    if ((status & ERRORS) != 0) {
        tlc_write(TLC_USART_BASE + CLEAR, status & ERRORS);
    }
    return (status & RX_READY) != 0;
}

uint8_t tlc_usart_take(void) { return (uint8_t)tlc_read(TLC_USART_BASE + RECEIVED); }

bool tlc_uart_put(uint8_t byte) {
    if ((tlc_read(TLC_USART_BASE + STATUS) & TX_EMPTY) == 0) {
        return false;
    }
    tlc_write(TLC_USART_BASE + TO_SEND, byte);
    return true;
}
