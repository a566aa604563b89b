// SPDX-License-Identifier: Apache-2.0
//
// shim.h: what the shim's files share.
#ifndef TLC_SHIM_H
#define TLC_SHIM_H

#include <stddef.h>
#include <stdint.h>

namespace shim {

// A variable of the environment, or `otherwise`.
const char *setting(const char *name, const char *otherwise);
long setting_number(const char *name, long otherwise);
// The board's clock.
uint64_t virtual_micros();
// Sleeps for so long by the board's clock.
void virtual_sleep_micros(uint64_t micros);
// Adds {"ms": now, "event": event, "detail": detail} to the log.
void log(const char *event, const char *detail);
// The board starts again: here the program ends, with exit code 0.
[[noreturn]] void restart();
uint32_t random_word();

} // namespace shim

#endif // TLC_SHIM_H
