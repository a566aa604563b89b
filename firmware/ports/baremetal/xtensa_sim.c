/* SPDX-License-Identifier: Apache-2.0
 *
 * xtensa_sim.c: the simulator's console as UART, its exit, and CCOUNT as clock, as on QEMU's machine "sim".
 * The console raises no interrupt, so an idle core looks at it every quarter of a millisecond.
 */
#include "tlc_baremetal.h"

#define CALL_EXIT 1
#define CALL_READ 3
#define CALL_WRITE 4

#define TIMER_INTERRUPT (1u << 6)
#define CCOUNT_PERIOD_NS 25u /* and in instructions under -icount shift=0 */
#define STEP 26u             /* instructions between two looks at it in tlc_hw_ticks */
#define SLEEP_NS 250000u

static uint8_t received[16]; /* as many as the console holds */
static uint32_t taken, have;
static uint32_t last;    /* CCOUNT when last read for the clock */
static uint64_t periods; /* since tlc_hw_init */
static uint64_t total;   /* instructions since then, without those that tlc_hw_ticks itself took */
static uint32_t left;    /* when it was last left, in instructions modulo 2^32 */
static uint32_t fixed;   /* from there to where it is entered again, measured at start */

static int simcall(int call, uint32_t first, uint32_t second, uint32_t third) {
    register int a2 __asm__("a2") = call;
    register uint32_t a3 __asm__("a3") = first;
    register uint32_t a4 __asm__("a4") = second;
    register uint32_t a5 __asm__("a5") = third;
    __asm__ volatile("simcall" : "+r"(a2), "+r"(a3) : "r"(a4), "r"(a5) : "memory");
    return a2;
}

static uint32_t ccount(void) {
    uint32_t value;
    __asm__ volatile("rsr %0, ccount" : "=r"(value)::"memory");
    return value;
}

__attribute__((noreturn)) void tlc_board_exit(int code) {
    for (;;) {
        (void)simcall(CALL_EXIT, (uint32_t)code, 0, 0);
    }
}

uint64_t tlc_hw_nanos(void) {
    uint32_t value = ccount();
    periods += value - last;
    last = value;
    return periods * CCOUNT_PERIOD_NS;
}

typedef struct {
    uint32_t entered, left; /* in instructions modulo 2^32 */
} look_t;

/* A vernier, as in cmsdk.c: CCOUNT is one further than usual when a look falls on the first instruction of a period. */
__attribute__((noinline)) static look_t look(void) {
    uint32_t looks = 0, value, before, difference;
    __asm__ volatile("rsr %[before], ccount\n"
                     "1:\n\t"
                     "rsr %[value], ccount\n\t"
                     "sub %[difference], %[value], %[before]\n\t"
                     "mov %[before], %[value]\n\t"
                     "addi %[looks], %[looks], 1\n\t"
                     ".rept 21\n\t"
                     "nop\n\t"
                     ".endr\n\t"
                     "bltui %[difference], 2, 1b\n\t"
                     : [looks] "+r"(looks), [value] "=&r"(value), [before] "=&r"(before), [difference] "=&r"(difference)
                     :
                     : "memory");
    uint32_t now = value * CCOUNT_PERIOD_NS;
    return (look_t){now - looks * STEP, now};
}

/* A sum of 64 bits takes an instruction more where there is a carry, so it lies between two looks. */
__attribute__((noinline)) uint64_t tlc_hw_ticks(void) {
    total += look().entered - left;
    uint64_t now = total;
    left = look().left + fixed;
    return now;
}

void tlc_hw_init(void) {
    taken = 0;
    have = 0;
    last = ccount();
    periods = 0;
    total = 0;
    fixed = 0;
    (void)tlc_hw_ticks();
    uint64_t first = tlc_hw_ticks();
    fixed = (uint32_t)(tlc_hw_ticks() - first);
    left += fixed;
}

bool tlc_uart_get(uint8_t *byte) {
    if (taken == have) {
        int count = simcall(CALL_READ, 0, (uint32_t)(uintptr_t)received, sizeof received);
        taken = 0;
        have = count > 0 ? (uint32_t)count : 0;
        if (have == 0) {
            return false;
        }
    }
    *byte = received[taken++];
    return true;
}

bool tlc_uart_put(uint8_t byte) { return simcall(CALL_WRITE, 1, (uint32_t)(uintptr_t)&byte, 1) == 1; }

void tlc_hw_sleep(void) {
    /* The level keeps the interrupt out until waiti lowers it. */
    uint32_t level;
    __asm__ volatile("rsil %0, 15" : "=r"(level)::"memory");
    __asm__ volatile("wsr %0, ccompare0" : : "r"(ccount() + SLEEP_NS / CCOUNT_PERIOD_NS) : "memory");
    __asm__ volatile("wsr %0, intenable\n\trsync" : : "r"(TIMER_INTERRUPT) : "memory");
    tlc_core_wait();
}
