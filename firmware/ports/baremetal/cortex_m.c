/* SPDX-License-Identifier: Apache-2.0
 *
 * cortex_m.c: start-up, faults and exit of ARMv6-M, ARMv7-M and ARMv8-M cores.
 */
#include "tlc_baremetal.h"

#define SCS_BASE 0xE000E000u
#define SCS_VTOR 0xD08u
#define SCS_AIRCR 0xD0Cu
#define SCS_CFSR 0xD28u
#define SCS_CPACR 0xD88u
#define AIRCR_RESET 0x05FA0004u
#define MPU_CTRL 0xD94u
#define MPU_REGION 0xD98u
#define MPU_BASE 0xD9Cu
#define MPU_ATTRIBUTES 0xDA0u
#define MPU_ON 5u             /* with the default map wherever no region says otherwise */
#define GUARD 0x10000u        /* bytes below the stack that nobody may touch */
#define GUARD_64K 0x1000001Fu /* 64 KiB, no access, no execution */
#define SEMIHOSTING_EXIT_EXTENDED 0x20
#define SEMIHOSTING_APPLICATION_EXIT 0x20026u
#define CFSR_MEMORY 0x000000FFu
#define CFSR_BUS 0x0000FF00u
#define CFSR_UNDEFINED (1u << 16)
#define CFSR_STATE (7u << 16)
#define CFSR_STACK (1u << 20)
#define CFSR_UNALIGNED (1u << 24)
#define CFSR_DIVISION (1u << 25)
#define FIRST_INTERRUPT 16u
#define NON_MASKABLE 2u
#define FRAME_LR 5
#define FRAME_PC 6

int main(int argc, char **argv);

void tlc_reset(void);
void tlc_exception(const uint32_t *frame, uint32_t number);

__attribute__((noreturn)) void tlc_board_exit(int code) {
#if defined(TLC_NO_SEMIHOSTING) /* where nobody listens for such calls they are faults */
    (void)code;
#else
    const uint32_t block[2] = {SEMIHOSTING_APPLICATION_EXIT, (uint32_t)code};
    register int operation __asm__("r0") = SEMIHOSTING_EXIT_EXTENDED;
    register const uint32_t *argument __asm__("r1") = block;
    __asm__ volatile("bkpt 0xAB" : "+r"(operation) : "r"(argument) : "memory");
#endif
    /* Nobody to tell the code: start again. */
    *tlc_reg(SCS_BASE, SCS_AIRCR) = AIRCR_RESET;
    for (;;) {
    }
}

void tlc_core_wait(void) { __asm__ volatile("dsb\n\twfi\n\tisb" ::: "memory"); }

void tlc_core_mask(void) { __asm__ volatile("cpsid i" ::: "memory"); }

void tlc_core_unmask(void) { __asm__ volatile("cpsie i\n\tisb" ::: "memory"); }

static const char *cause_of(uint32_t number, uint32_t cfsr) {
    if (number >= FIRST_INTERRUPT || number == NON_MASKABLE) {
        return "unexpected interrupt";
    }
    if ((cfsr & CFSR_STACK) != 0) {
        return "stack overflow";
    }
    if ((cfsr & CFSR_BUS) != 0) {
        return "bus error";
    }
    if ((cfsr & CFSR_MEMORY) != 0) {
        return "forbidden address";
    }
    if ((cfsr & CFSR_UNDEFINED) != 0) {
        return "illegal instruction";
    }
    if ((cfsr & CFSR_STATE) != 0) {
        return "illegal state";
    }
    if ((cfsr & CFSR_UNALIGNED) != 0) {
        return "unaligned address";
    }
    return (cfsr & CFSR_DIVISION) != 0 ? "division by zero" : "hard fault";
}

/* The first word on the stack that is an address after a BL or BLX: of the deepest call that saved it. 0: there is
 * none. */
static uint32_t deepest_call(void) {
    const uintptr_t first = (uintptr_t)tlc_text_start + 4u, last = (uintptr_t)tlc_data_load;
    for (const volatile uint32_t *word = tlc_stack_bottom; word < tlc_stack_top; word++) {
        const uintptr_t at = *word & ~1u;
        if (at == *word || at < first || at >= last) {
            continue;
        }
        const uint16_t *code = (const uint16_t *)at;
        if (((code[-2] & 0xF800u) == 0xF000u && (code[-1] & 0xD000u) == 0xD000u) || (code[-1] & 0xFF87u) == 0x4780u) {
            return (uint32_t)at - 2u;
        }
    }
    return 0;
}

/* `used`: only the assembly below names it. */
__attribute__((used, noreturn)) void tlc_exception(const uint32_t *frame, uint32_t number) {
    /* An overflow of the stack leaves a frame that is not in RAM, or none at all at the stack pointer's limit. */
    bool readable = frame > tlc_stack_bottom && frame + FRAME_PC < tlc_stack_top;
#if __ARM_ARCH >= 7
    const uint32_t cfsr = *tlc_reg(SCS_BASE, SCS_CFSR);
#else
    const uint32_t cfsr = 0;
#endif
    tlc_fault_t fault = {
        .what = cause_of(number, cfsr),
        .cause = number,
        .pc = readable ? frame[FRAME_PC] : deepest_call(),
        .lr = readable ? frame[FRAME_LR] : 0,
        .sp = (uint32_t)(uintptr_t)frame,
        .detail = cfsr,
    };
    tlc_fault(&fault);
}

/* The stack may be what broke, so the handler begins a new one. */
__attribute__((naked, used)) static void fault_entry(void) {
    __asm__ volatile("mov r0, sp\n\t"
                     "mrs r1, ipsr\n\t"
                     "ldr r2, =tlc_stack_top\n\t"
                     "mov sp, r2\n\t"
                     "ldr r2, =tlc_exception\n\t"
                     "bx r2\n\t"
                     ".ltorg");
}

__attribute__((noreturn)) void tlc_reset(void) {
    __asm__ volatile("cpsid i" ::: "memory");
#if defined(__ARM_FP)
    *tlc_reg(SCS_BASE, SCS_CPACR) |= 0xFu << 20; /* full access to the FPU */
    __asm__ volatile("dsb\n\tisb" ::: "memory");
#endif
#if __ARM_ARCH >= 8
    __asm__ volatile("msr msplim, %0" : : "r"(tlc_stack_bottom));
#elif __ARM_ARCH == 7
    *tlc_reg(SCS_BASE, MPU_REGION) = 0;
    *tlc_reg(SCS_BASE, MPU_BASE) = (uint32_t)(uintptr_t)tlc_stack_bottom - GUARD;
    *tlc_reg(SCS_BASE, MPU_ATTRIBUTES) = GUARD_64K;
    *tlc_reg(SCS_BASE, MPU_CTRL) = MPU_ON;
    __asm__ volatile("dsb\n\tisb" ::: "memory");
#endif
#if defined(TLC_INTERRUPTS)
    *tlc_reg(SCS_BASE, SCS_VTOR) = (uint32_t)(uintptr_t)tlc_text_start; /* a boot loader may have had its own */
#endif
    const uint32_t *source = tlc_data_load;
    for (uint32_t *word = tlc_data_start; word < tlc_data_end; word++) {
        *word = *source++;
    }
    for (volatile uint32_t *word = tlc_bss_start; word < tlc_bss_end; word++) {
        *word = 0;
    }
    tlc_stack_paint();
    tlc_board_exit(main(0, NULL));
}

typedef void (*vector_t)(void);

#define EXCEPTIONS 15
#define INTERRUPTS 48
#if defined(TLC_INTERRUPTS)
#define ON_INTERRUPT tlc_hw_interrupt
#else
#define ON_INTERRUPT fault_entry /* they stay masked */
#endif

/* VTOR takes a table at a multiple of its size, rounded up to a power of two. */
__attribute__((section(".vectors"), used, aligned(256))) static const struct {
    uint32_t *stack;
    vector_t handlers[EXCEPTIONS + INTERRUPTS];
} vectors = {
    .stack = tlc_stack_top,
    .handlers =
        {
            tlc_reset,
            [1 ... EXCEPTIONS - 1] = fault_entry,
            [EXCEPTIONS... EXCEPTIONS + INTERRUPTS - 1] = ON_INTERRUPT,
        },
};
