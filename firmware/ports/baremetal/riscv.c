/* SPDX-License-Identifier: Apache-2.0
 *
 * riscv.c: start-up, traps and exit of a machine-mode RV32 core. Below the stack lies a page that the PMP locks, so an
 * overflow traps. Registers: the RISC-V privileged architecture, 20211203.
 */
#include "tlc_baremetal.h"

#define TEST_BASE 0x00100000u /* SiFive's test finisher, as on QEMU's virt machine */
#define TEST_PASS 0x5555u
#define TEST_FAIL 0x3333u

int main(int argc, char **argv);

void tlc_start(void);
void tlc_trap(uint32_t sp, uint32_t lr);

/* The CSRs are an extension of their own to this assembler. */
#define CSR(instruction) ".option push\n\t.option arch, +zicsr\n\t" instruction "\n\t.option pop\n\t"

__attribute__((noreturn)) void tlc_board_exit(int code) {
    *tlc_reg(TEST_BASE, 0) = code == 0 ? TEST_PASS : ((uint32_t)code << 16) | TEST_FAIL;
    for (;;) {
        tlc_core_wait();
    }
}

void tlc_core_wait(void) { __asm__ volatile("wfi" ::: "memory"); }

static const char *cause_of(uint32_t mcause) {
    switch (mcause) {
    case 0:
    case 4:
    case 6:
        return "unaligned address";
    case 1:
    case 5:
    case 7:
        return "bus error";
    case 2:
        return "illegal instruction";
    case 3:
        return "breakpoint";
    default:
        return "unexpected trap";
    }
}

/* `used`: only the assembly below names it. */
__attribute__((used, noreturn)) void tlc_trap(uint32_t sp, uint32_t lr) {
    tlc_fault_t fault = {.lr = lr, .sp = sp};
    __asm__ volatile(CSR("csrr %0, mcause") : "=r"(fault.cause));
    __asm__ volatile(CSR("csrr %0, mepc") : "=r"(fault.pc));
    __asm__ volatile(CSR("csrr %0, mtval") : "=r"(fault.detail));
    fault.what = cause_of(fault.cause);
    tlc_fault(&fault);
}

/* The stack may be what broke, so the handler begins a new one. */
__attribute__((naked, used, aligned(4))) static void trap_entry(void) {
    __asm__ volatile("mv a0, sp\n\t"
                     "mv a1, ra\n\t"
                     "la sp, tlc_stack_top\n\t"
                     "j tlc_trap");
}

__attribute__((used, noreturn)) static void start_in_c(void) {
    /* One naturally aligned power of two (64 bytes) just below the stack: locked, no access. */
    uint32_t guard = ((uint32_t)(uintptr_t)tlc_stack_bottom - 64u) >> 2 | (64u / 8u - 1u);
    __asm__ volatile(CSR("csrw pmpaddr0, %0") : : "r"(guard));
    __asm__ volatile(CSR("csrw pmpcfg0, %0") : : "r"(0x98u));
    __asm__ volatile(CSR("csrw mtvec, %0") : : "r"(trap_entry));
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

__attribute__((naked, used, section(".start"))) void tlc_start(void) {
    __asm__ volatile(CSR("csrw mie, zero") CSR("csrci mstatus, 8") "la sp, tlc_stack_top\n\t"
                                                                   "j %0"
                     :
                     : "i"(start_in_c));
}
