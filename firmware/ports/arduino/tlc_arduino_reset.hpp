// SPDX-License-Identifier: Apache-2.0
//
// tlc_arduino_reset.hpp: why the board started; the host is told.
#ifndef TLC_ARDUINO_RESET_HPP
#define TLC_ARDUINO_RESET_HPP

#include <stdint.h>

extern "C" {
#include "tlc/messages.h"
}

namespace tlc {

// Ask once: some chips remember the reason until it is cleared, and this clears it.
tlc_reset_t reset_reason();

} // namespace tlc

#endif // TLC_ARDUINO_RESET_HPP
