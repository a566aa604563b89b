/* SPDX-License-Identifier: Apache-2.0
 *
 * nrf52840.c: UARTE0 with EasyDMA, TIMER0 (free-running) and TIMER1 (wakes) of the nRF52840, on the pins of the Arduino
 * Nano 33 BLE. DMA writes one byte at a time: the chip tells how many bytes came only when a transfer ends, and its
 * FIFO bridges the time until the next is started. The interrupt at a transfer's end puts the byte into a ring; where
 * that is full, no transfer is started until somebody has taken one. Registers: nRF52840 Product Specification 1.7,
 * chapters 5.4 (CLOCK), 6.9 (GPIO), 6.30 (TIMER) and 6.34 (UARTE).
 */
#include "tlc_baremetal.h"

#define CLOCK_BASE 0x40000000u
#define CLOCK_START_CRYSTAL (CLOCK_BASE + 0x000u)
#define CLOCK_CRYSTAL_RUNS (CLOCK_BASE + 0x100u)

#define PORT1_BASE 0x50000300u
#define PORT1_SET (PORT1_BASE + 0x508u)
#define PORT1_PIN(number) (PORT1_BASE + 0x700u + 4u * (number))
#define PIN_OUTPUT 3u     /* output, input buffer off */
#define PIN_INPUT_UP 0xCu /* input, pulled up: a line that nobody drives is idle */
#define PIN_TX 3u         /* D1 of the board */
#define PIN_RX 10u        /* D0 */
#define ON_PORT1 32u

#define UARTE_BASE 0x40002000u
#define UARTE_START_RX (UARTE_BASE + 0x000u)
#define UARTE_START_TX (UARTE_BASE + 0x008u)
#define UARTE_RX_ENDED (UARTE_BASE + 0x110u)
#define UARTE_TX_ENDED (UARTE_BASE + 0x120u)
#define UARTE_INT_ENABLE (UARTE_BASE + 0x304u)
#define UARTE_ENABLE (UARTE_BASE + 0x500u)
#define UARTE_PIN_TX (UARTE_BASE + 0x50Cu)
#define UARTE_PIN_RX (UARTE_BASE + 0x514u)
#define UARTE_BAUD (UARTE_BASE + 0x524u)
#define UARTE_RX_TO (UARTE_BASE + 0x534u)
#define UARTE_RX_MOST (UARTE_BASE + 0x538u)
#define UARTE_TX_FROM (UARTE_BASE + 0x544u)
#define UARTE_TX_COUNT (UARTE_BASE + 0x548u)
#define UARTE_CONFIG (UARTE_BASE + 0x56Cu)
#define UARTE_INTERRUPT 2u
#define INT_RX_ENDED (1u << 4)
#define WITH_DMA 8u
#define BAUD_115200 0x01D60000u

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
#define TIMER_MHZ 16u
#define CYCLES_A_COUNT 4u /* the core runs at 64 MHz */

#define NVIC_ENABLE 0xE000E100u
#define NVIC_DISABLE 0xE000E180u
#define NVIC_UNPEND 0xE000E280u
#define NVIC_UARTE (1u << UARTE_INTERRUPT)
#define NVIC_TIMER1 (1u << TIMER1_INTERRUPT)

#define READY_SPINS 100000u /* the crystal takes 0.4 ms */

static tlc_ring_t received;
static volatile uint8_t incoming, outgoing; /* of DMA, which reaches RAM alone */
static bool sending;
static uint32_t last;   /* the counter when last read: it wraps in 268 s */
static uint64_t counts; /* of the timer, since tlc_hw_init */
static uint64_t spent;  /* of it in the handler */

static uint32_t timer(void) {
    tlc_write(TIMER0_BASE + TIMER_CAPTURE, 1);
    return tlc_read(TIMER0_BASE + TIMER_COMPARE);
}

static void advance(void) {
    const uint32_t now = timer();
    counts += now - last;
    last = now;
}

uint64_t tlc_hw_nanos(void) {
    tlc_core_mask(); /* the handler captures too */
    advance();
    tlc_core_unmask();
    return counts / 2u * 125u + counts % 2u * 62u;
}

/* CPU cycles, to the fourth. */
uint64_t tlc_hw_ticks(void) {
    tlc_core_mask();
    advance();
    const uint64_t own = counts - spent;
    tlc_core_unmask();
    return own * CYCLES_A_COUNT;
}

static void start_reception(void) {
    tlc_write(UARTE_RX_ENDED, 0);
    (void)tlc_read(UARTE_RX_ENDED); /* it takes the bus some time, in which the interrupt would come again */
    tlc_write(UARTE_START_RX, 1);
}

void tlc_hw_interrupt(void) {
    const uint32_t start = timer();
    if (tlc_read(UARTE_RX_ENDED) != 0) {
        if (tlc_ring_full(&received)) {
            tlc_write(NVIC_DISABLE, NVIC_UARTE);
        } else {
            tlc_ring_put(&received, incoming);
            start_reception();
        }
    }
    spent += timer() - start;
}

static void start_clocks(void) {
    tlc_write(CLOCK_CRYSTAL_RUNS, 0);
    tlc_write(CLOCK_START_CRYSTAL, 1);
    for (uint32_t spin = 0; spin < READY_SPINS && tlc_read(CLOCK_CRYSTAL_RUNS) == 0; spin++) {
    }
    tlc_write(TIMER0_BASE + TIMER_BITMODE, TIMER_32_BIT);
    tlc_write(TIMER0_BASE + TIMER_PRESCALER, 0);
    tlc_write(TIMER0_BASE + TIMER_CLEAR, 1);
    tlc_write(TIMER0_BASE + TIMER_START, 1);
    tlc_write(TIMER1_BASE + TIMER_BITMODE, TIMER_32_BIT);
    tlc_write(TIMER1_BASE + TIMER_PRESCALER, 0);
    tlc_write(TIMER1_BASE + TIMER_COMPARE, TLC_SLEEP_NS / 1000u * TIMER_MHZ);
    tlc_write(TIMER1_BASE + TIMER_INT_ENABLE, 1u << 16);
}

void tlc_hw_init(void) {
    start_clocks();
    last = timer();
    tlc_write(PORT1_SET, 1u << PIN_TX); /* idle is high, also before the UARTE takes the pin */
    tlc_write(PORT1_PIN(PIN_TX), PIN_OUTPUT);
    tlc_write(PORT1_PIN(PIN_RX), PIN_INPUT_UP);
    tlc_write(UARTE_PIN_TX, ON_PORT1 + PIN_TX);
    tlc_write(UARTE_PIN_RX, ON_PORT1 + PIN_RX);
    tlc_write(UARTE_BAUD, BAUD_115200);
    tlc_write(UARTE_CONFIG, 0); /* 8 bits, no parity, no flow control */
    tlc_write(UARTE_ENABLE, WITH_DMA);
    tlc_write(UARTE_RX_TO, (uintptr_t)&incoming);
    tlc_write(UARTE_RX_MOST, 1);
    tlc_write(UARTE_INT_ENABLE, INT_RX_ENDED);
    tlc_write(NVIC_ENABLE, NVIC_UARTE | NVIC_TIMER1);
    start_reception();
    tlc_core_unmask();
}

bool tlc_uart_get(uint8_t *byte) {
    if (!tlc_ring_take(&received, byte)) {
        return false;
    }
    tlc_write(NVIC_ENABLE, NVIC_UARTE); /* the handler may have stopped at a full ring */
    return true;
}

bool tlc_uart_put(uint8_t byte) {
    if (sending && tlc_read(UARTE_TX_ENDED) == 0) {
        return false;
    }
    sending = true;
    outgoing = byte;
    tlc_write(UARTE_TX_ENDED, 0);
    tlc_write(UARTE_TX_FROM, (uintptr_t)&outgoing);
    tlc_write(UARTE_TX_COUNT, 1);
    tlc_write(UARTE_START_TX, 1);
    return true;
}

/* TIMER1's interrupt wakes and is never taken: it is over before interrupts are let through. */
void tlc_hw_sleep(void) {
    tlc_core_mask();
    if (tlc_ring_empty(&received)) {
        tlc_write(TIMER1_BASE + TIMER_CLEAR, 1);
        tlc_write(TIMER1_BASE + TIMER_START, 1);
        tlc_core_wait();
        tlc_write(TIMER1_BASE + TIMER_STOP, 1);
        tlc_write(TIMER1_BASE + TIMER_COMPARED, 0);
        (void)tlc_read(TIMER1_BASE + TIMER_COMPARED); /* it takes the bus some time */
        tlc_write(NVIC_UNPEND, NVIC_TIMER1);
    }
    tlc_core_unmask();
}
