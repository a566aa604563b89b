/* SPDX-License-Identifier: Apache-2.0
 *
 * xtensa.c: start-up and exceptions of an Xtensa core with the CALL0 calling convention (LX106, as in the ESP8266).
 * The level-1 timer interrupt serves only to wake the core. Registers: Xtensa ISA reference manual, chapters 4.4, 4.6.
 */
#include "tlc_baremetal.h"

int main(int argc, char **argv);

void tlc_start_in_c(void);
void tlc_trap(uint32_t sp, uint32_t lr);

/* Literals lie before code, so the first word of the image can only be a jump. */
__asm__(".section .text.reset, \"ax\"\n"
        ".global tlc_reset\n"
        ".type tlc_reset, @function\n"
        "tlc_reset:\n\t"
        "j tlc_start\n\t"
        ".size tlc_reset, . - tlc_reset\n"

        ".section .text.start, \"ax\"\n"
        ".literal_position\n\t"
        ".align 4\n"
        ".type tlc_start, @function\n"
        "tlc_start:\n\t"
        "movi a2, 0\n\t"
        "wsr a2, intenable\n\t"
        "movi a2, tlc_vectors\n\t"
        "wsr a2, vecbase\n\t"
        "movi a2, 15\n\t"
        "wsr a2, ps\n\t" /* exceptions are taken from here on, interrupts not */
        "rsync\n\t"
        "movi a1, tlc_stack_top\n\t"
        "movi a0, 0\n\t"
        "j tlc_start_in_c\n\t"
        ".size tlc_start, . - tlc_start\n"

        /* The stack may be what broke, so the handler begins a new one. */
        ".section .text.fault_entry, \"ax\"\n"
        ".literal_position\n\t"
        ".align 4\n"
        ".type fault_entry, @function\n"
        "fault_entry:\n\t"
        "mov a2, a1\n\t"
        "mov a3, a0\n\t"
        "movi a1, tlc_stack_top\n\t"
        "movi a0, 15\n\t" /* an exception in the handler is an exception again, not a double one */
        "wsr a0, ps\n\t"
        "rsync\n\t"
        "j tlc_trap\n\t"
        ".size fault_entry, . - fault_entry\n"

        /* An interrupt turns itself off and returns; anything else is a fault. */
        ".section .text.exception_entry, \"ax\"\n"
        ".align 4\n"
        ".type exception_entry, @function\n"
        "exception_entry:\n\t"
        "wsr a0, excsave1\n\t"
        "rsr a0, exccause\n\t"
        "beqi a0, 4, 1f\n\t"
        "rsr a0, excsave1\n\t"
        "j fault_entry\n"
        "1:\n\t"
        "movi a0, 0\n\t"
        "wsr a0, intenable\n\t"
        "rsr a0, excsave1\n\t"
        "rfe\n\t"
        ".size exception_entry, . - exception_entry\n"

        /* Offsets of the LX106. */
        ".section .text.vectors, \"ax\"\n"
        ".balign 256\n"
        "tlc_vectors:\n\t"
        ".org 0x10\n\t"
        "j fault_entry\n\t" /* debug */
        ".org 0x20\n\t"
        "j fault_entry\n\t" /* not maskable */
        ".org 0x30\n\t"
        "j exception_entry\n\t" /* kernel mode */
        ".org 0x50\n\t"
        "j exception_entry\n\t" /* user mode */
        ".org 0x70\n\t"
        "j fault_entry\n\t" /* double exception */
        ".text\n");

void tlc_core_wait(void) { __asm__ volatile("waiti 0" ::: "memory"); }

static const char *cause_of(uint32_t exccause) {
    switch (exccause) {
    case 0:
        return "illegal instruction";
    case 6:
        return "division by zero";
    case 9:
        return "unaligned address";
    case 2:
    case 3:
    case 12:
    case 13:
    case 14:
    case 15:
    case 20:
    case 28:
    case 29:
        return "bus error";
    default:
        return "unexpected exception";
    }
}

/* `used`: only the assembly above names it. */
__attribute__((used, noreturn)) void tlc_trap(uint32_t sp, uint32_t lr) {
    tlc_fault_t fault = {.lr = lr, .sp = sp};
    __asm__ volatile("rsr %0, exccause" : "=r"(fault.cause));
    __asm__ volatile("rsr %0, epc1" : "=r"(fault.pc));
    __asm__ volatile("rsr %0, excvaddr" : "=r"(fault.detail));
    fault.what = cause_of(fault.cause);
    tlc_fault(&fault);
}

__attribute__((used, noreturn)) void tlc_start_in_c(void) {
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
