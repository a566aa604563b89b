/* SPDX-License-Identifier: Apache-2.0
 *
 * stm32.c: clock tree, pins, TIM2 and interrupts of an STM32F407 or STM32F746 (stm32.h), over either kind of USART.
 * A byte that arrives interrupts the kernels and goes to a ring; an idle core sleeps. A full ring leaves the byte in
 * the USART, so an emulated line is held back, and a real one loses what follows. Registers: ST RM0090 and RM0385,
 * chapters flash, RCC, GPIO, TIM2; Arm DDI 0403E, B3.3 (SysTick) and B3.4 (NVIC).
 *
 * QEMU has this USART and TIM2 but neither clock tree nor pins, whose registers read 0: the oscillator never gets
 * ready, as on a board that lacks its crystal, and TLC_TIMER_MHZ says how fast the timer counts all the same.
 */
#include "stm32.h"

#define RCC_BASE 0x40023800u
#define RCC_CONTROL (RCC_BASE + 0x00u)
#define RCC_PLL (RCC_BASE + 0x04u)
#define RCC_CONFIG (RCC_BASE + 0x08u)
#define RCC_AHB1 (RCC_BASE + 0x30u)
#define RCC_APB1 (RCC_BASE + 0x40u)
#define RCC_APB2 (RCC_BASE + 0x44u)
#define HSE_ON (1u << 16)
#define HSE_READY (1u << 17)
#define PLL_ON (1u << 24)
#define PLL_READY (1u << 25)
#define PLL(m, n, q) (0x20000000u | (q) << 24 | 1u << 22 | (n) << 6 | (m)) /* from HSE, by 2 at its end */
#define APB1_BY_4_APB2_BY_2 (5u << 10 | 4u << 13)
#define FROM_PLL 2u
#define FLASH_ACCESS 0x40023C00u
#define GPIO_A 0x40020000u
#define GPIO_B 0x40020400u
#define GPIO_MODE 0x00u
#define GPIO_PULL 0x0Cu
#define GPIO_FUNCTION 0x20u
#define CLOCK_GPIO_A_B 3u
#define CLOCK_TIMER2 1u
#define HSI_MHZ 16u

#if defined(TLC_STM32F7)
#define PLL_SETTING PLL(25u, 360u, 8u) /* a crystal of 25 MHz; 180 MHz is most without overdrive */
#define FAST_MHZ 180u
#define USART_FAST_MHZ 90u    /* APB2 */
#define FLASH_SETTING 0x0305u /* five wait states, accelerator, prefetch */
#define CLOCK_USART_APB1 0u
#define CLOCK_USART_APB2 (1u << 4)
#else
#define PLL_SETTING PLL(8u, 336u, 7u) /* a crystal of 8 MHz */
#define FAST_MHZ 168u
#define USART_FAST_MHZ 42u    /* APB1 */
#define FLASH_SETTING 0x0705u /* five wait states, both caches, prefetch */
#define CLOCK_USART_APB1 (1u << 17)
#define CLOCK_USART_APB2 0u
#endif

#define TIMER_BASE 0x40000000u
#define TIMER_CONTROL (TIMER_BASE + 0x00u)
#define TIMER_EVENT (TIMER_BASE + 0x14u)
#define TIMER_COUNT (TIMER_BASE + 0x24u)
#define TIMER_PRESCALER (TIMER_BASE + 0x28u)
#define TIMER_RELOAD (TIMER_BASE + 0x2Cu)

#define SYSTICK_CTRL 0xE000E010u
#define SYSTICK_LOAD 0xE000E014u
#define SYSTICK_VALUE 0xE000E018u
#define NVIC_WORD (4u * (TLC_USART_INTERRUPT / 32u))
#define NVIC_BIT (1u << (TLC_USART_INTERRUPT % 32u))
#define NVIC_ENABLE (0xE000E100u + NVIC_WORD)
#define NVIC_DISABLE (0xE000E180u + NVIC_WORD)
#define NVIC_PEND (0xE000E200u + NVIC_WORD)
#define SCB_ICSR 0xE000ED04u
#define ICSR_SYSTICK_UNPEND (1u << 25)

#define BAUD 115200u
#define READY_SPINS 100000u /* an oscillator that takes longer is not there */

static tlc_ring_t received;
static uint32_t core_mhz, timer_mhz;
static uint32_t
    last; /* the timer when last read: it wraps in 4 s at the least, and the main loop reads it more often */
static uint64_t counts;      /* of the timer, since tlc_hw_init */
static uint64_t micros;      /* the same in time */
static uint32_t rest;        /* counts of the microsecond that has begun */
static uint64_t spent;       /* counts that tlc_hw_ticks and the handler took */
static uint32_t fixed;       /* what one call of tlc_hw_ticks takes, measured at start */
static uint32_t entry_fixed; /* and an interrupt, beside what it measures of itself */

static uint32_t timer(void) { return tlc_read(TIMER_COUNT); }

/* Without a branch: it takes the same time always. */
static inline void advance(void) {
    const uint32_t now = timer(), elapsed = now - last;
    last = now;
    counts += elapsed;
    rest += elapsed % timer_mhz;
    micros += elapsed / timer_mhz + rest / timer_mhz;
    rest %= timer_mhz;
}

uint64_t tlc_hw_nanos(void) {
    advance();
    return micros * 1000u + rest * 1000u / timer_mhz;
}

/* CPU cycles, of which the timer counts every second one; in QEMU, where it counts nanoseconds, instructions. */
__attribute__((noinline)) uint64_t tlc_hw_ticks(void) {
    tlc_core_mask();
    advance();
    const uint64_t own = counts - spent;
    spent += fixed;
    tlc_core_unmask();
#if defined(TLC_TIMER_MHZ)
    return own;
#else
    return own * (core_mhz / timer_mhz);
#endif
}

/* The time that it takes is nobody's: it is left out of the ticks. */
void tlc_hw_interrupt(void) {
    const uint32_t start = timer();
    while (tlc_usart_waits()) {
        if (tlc_ring_full(&received)) {
            tlc_write(NVIC_DISABLE, NVIC_BIT); /* until somebody has taken a byte */
            break;
        }
        tlc_ring_put(&received, tlc_usart_take());
    }
    spent += timer() - start + entry_fixed;
}

static bool becomes(uintptr_t address, uint32_t mask, uint32_t value) {
    for (uint32_t spin = 0; spin < READY_SPINS; spin++) {
        if ((tlc_read(address) & mask) == value) {
            return true;
        }
    }
    return false;
}

static void set(uintptr_t address, uint32_t bits) { tlc_write(address, tlc_read(address) | bits); }

/* From the crystal by the PLL; without one the chip's own oscillator goes on, which is good to 1%. */
static bool fast_clock(void) {
    set(RCC_CONTROL, HSE_ON);
    if (!becomes(RCC_CONTROL, HSE_READY, HSE_READY)) {
        return false;
    }
    tlc_write(RCC_PLL, PLL_SETTING);
    set(RCC_CONTROL, PLL_ON);
    if (!becomes(RCC_CONTROL, PLL_READY, PLL_READY)) {
        return false;
    }
    tlc_write(FLASH_ACCESS, FLASH_SETTING); /* before the clock that needs it */
    tlc_write(RCC_CONFIG, APB1_BY_4_APB2_BY_2);
    tlc_write(RCC_CONFIG, APB1_BY_4_APB2_BY_2 | FROM_PLL);
    return becomes(RCC_CONFIG, 12u, FROM_PLL << 2);
}

/* The USART's, which is function 7 of all of them, with a pull-up: a line that nobody drives is idle. */
static void pin(uintptr_t port, uint32_t number) {
    const uintptr_t function = port + GPIO_FUNCTION + 4u * (number / 8u);
    const uint32_t shift = 4u * (number % 8u), two = 2u * number;
    tlc_write(function, (tlc_read(function) & ~(15u << shift)) | 7u << shift);
    tlc_write(port + GPIO_PULL, (tlc_read(port + GPIO_PULL) & ~(3u << two)) | 1u << two);
    tlc_write(port + GPIO_MODE, (tlc_read(port + GPIO_MODE) & ~(3u << two)) | 2u << two);
}

/* Counts from one call of tlc_hw_ticks to the next, with a software-made interrupt between them, or none. */
static uint32_t counts_with(uint32_t interrupt) {
    const uint64_t first = tlc_hw_ticks();
    tlc_write(NVIC_PEND, interrupt);
    __asm__ volatile("" ::: "memory");
    (void)tlc_read(NVIC_PEND);
    return (uint32_t)(tlc_hw_ticks() - first);
}

void tlc_hw_init(void) {
    const bool fast = fast_clock();
    core_mhz = fast ? FAST_MHZ : HSI_MHZ;
#if defined(TLC_TIMER_MHZ)
    timer_mhz = TLC_TIMER_MHZ;
#else
    timer_mhz = fast ? FAST_MHZ / 2u : HSI_MHZ; /* an APB that is divided gives its timers twice its clock */
#endif
    const uint32_t usart_hz = (fast ? USART_FAST_MHZ : HSI_MHZ) * 1000000u;
    set(RCC_AHB1, CLOCK_GPIO_A_B);
    set(RCC_APB1, CLOCK_TIMER2 | CLOCK_USART_APB1);
    set(RCC_APB2, CLOCK_USART_APB2);
    (void)tlc_read(RCC_APB2); /* two periods of the bus until they run */
#if defined(TLC_STM32F7)
    pin(GPIO_A, 9);
    pin(GPIO_B, 7);
#else
    pin(GPIO_A, 2);
    pin(GPIO_A, 3);
#endif
    tlc_write(TIMER_PRESCALER, 0);
    tlc_write(TIMER_RELOAD, UINT32_MAX);
    tlc_write(TIMER_EVENT, 1); /* takes the prescaler over */
    tlc_write(TIMER_CONTROL, 1);
    last = timer();
    tlc_write(NVIC_ENABLE, NVIC_BIT);
    const uint64_t first = tlc_hw_ticks(); /* which unmasks interrupts */
    fixed = (uint32_t)(tlc_hw_ticks() - first);
    spent += fixed;
    const uint32_t without = counts_with(0);
    entry_fixed = counts_with(NVIC_BIT) - without;
    tlc_usart_start((usart_hz + BAUD / 2u) / BAUD);
}

bool tlc_uart_get(uint8_t *byte) {
    if (!tlc_ring_take(&received, byte)) {
        return false;
    }
    tlc_write(NVIC_ENABLE, NVIC_BIT); /* the handler may have stopped at a full ring */
    return true;
}

void tlc_hw_sleep(void) {
    tlc_core_mask(); /* a byte that comes after the look must wake the core, not be served before it sleeps */
    if (tlc_ring_empty(&received)) {
        tlc_write(SYSTICK_LOAD, TLC_SLEEP_NS / 1000u * core_mhz - 1u);
        tlc_write(SYSTICK_VALUE, 0);
        tlc_write(SYSTICK_CTRL, 7); /* on, interrupt, core clock */
        tlc_core_wait();
        tlc_write(SYSTICK_CTRL, 0);
        tlc_write(SCB_ICSR, ICSR_SYSTICK_UNPEND); /* it wakes, and is never taken */
    }
    tlc_core_unmask();
}
