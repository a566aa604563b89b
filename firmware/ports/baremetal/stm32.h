/* SPDX-License-Identifier: Apache-2.0
 *
 * stm32.h: what stm32.c and the file of the chip's kind of USART tell each other. The board file names the chip:
 * TLC_STM32F7 for an STM32F746 on ST's Discovery board, or none for an STM32F407 on ST's.
 */
#ifndef TLC_STM32_H
#define TLC_STM32_H

#include "tlc_baremetal.h"

#if defined(TLC_STM32F7) /* USART1, on the debugger's virtual port */
#define TLC_USART_BASE 0x40011000u
#define TLC_USART_INTERRUPT 37u
#else /* USART2, on pins of its own */
#define TLC_USART_BASE 0x40004400u
#define TLC_USART_INTERRUPT 38u
#endif

/* Eight bits, no parity, an interrupt for each byte received. `divider`: its clock's periods in a bit. */
void tlc_usart_start(uint32_t divider);

/* Whether a byte waits. Flags of errors are cleared, which else would raise the interrupt for ever: the link's checksum
 * finds what was lost. */
bool tlc_usart_waits(void);
uint8_t tlc_usart_take(void);

#endif /* TLC_STM32_H */
