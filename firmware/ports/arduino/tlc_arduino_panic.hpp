// SPDX-License-Identifier: Apache-2.0
//
// tlc_arduino_panic.hpp: the end of a program that cannot go on: the link says so in the line that a bare-metal port
// has for it (PROTOCOL.md, section 2), and the board starts again.
#ifndef TLC_ARDUINO_PANIC_HPP
#define TLC_ARDUINO_PANIC_HPP

#include "tlc_arduino_link.hpp"

namespace tlc {

// `returns_to`: an address just after the call that is to be named. The cores know no hash of their image: 0.
[[noreturn]] void panic(Link &link, const char *what, const void *returns_to);

} // namespace tlc

#endif // TLC_ARDUINO_PANIC_HPP
