/* SPDX-License-Identifier: Apache-2.0
 *
 * board.h: what a port that owns main's loop (baremetal, posix) gives to a program. A program is a few lines:
 *
 *     int main(int argc, char **argv) {
 *         return tlc_board_run(argc, argv, &(tlc_board_app_t){.start = start, .poll = poll, .app = &app});
 *     }
 */
#ifndef TLC_BOARD_H
#define TLC_BOARD_H

#include <stdbool.h>
#include <stdint.h>

#include "tlc/journal.h"
#include "tlc/port.h"

typedef struct {
    /* Once, before the first poll; false: it cannot start, and the program ends with exit code 1. */
    bool (*start)(void *app, const tlc_port_t *port);
    /* For ever: takes what has been received, sends what there is to send, and returns. */
    void (*poll)(void *app);
    void *app;
} tlc_board_app_t;

/* Runs `app` and sleeps while there is nothing to do. Returns the program's exit code; never, on a microcontroller. */
int tlc_board_run(int argc, char **argv, const tlc_board_app_t *app);

/* The board's link and clocks; the same for the whole life of the program. */
const tlc_port_t *tlc_board_port(void);

/* Flash for the journal of learned tensors, in slots of so many bytes; NULL where the board has none. */
const tlc_storage_t *tlc_board_storage(uint32_t slot_bytes);

/* Most bytes of stack that were ever in use; 0 where the board cannot tell. */
uint32_t tlc_board_stack_high_water(void);

/* Ends the program: the emulator exits with `code`; silicon restarts. */
#if defined(__GNUC__)
__attribute__((noreturn))
#endif
void tlc_board_exit(int code);

/* Ends the program because it cannot go on: tells the host `what` (one line, a few words) and where it was called, as a
 * fault of the processor does, and exits with code 70. assert() and abort() of a bare-metal board do the same. */
#if defined(__GNUC__)
__attribute__((noreturn))
#endif
void tlc_board_panic(const char *what);

#endif /* TLC_BOARD_H */
