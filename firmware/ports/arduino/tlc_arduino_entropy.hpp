// SPDX-License-Identifier: Apache-2.0
//
// tlc_arduino_entropy.hpp: 32 bits that differ from boot to boot and from board to board. They number sessions and
// spread retries in time; no secret depends on them.
#ifndef TLC_ARDUINO_ENTROPY_HPP
#define TLC_ARDUINO_ENTROPY_HPP

#include <stdint.h>

namespace tlc {

// The hardware generator where the chip has one (ESP32, ESP8266, RP2040, nRF52840, STM32F7, where it is mixed with the
// rest); else the noise in the last bits of the analog converter, the moments it took, and the chip's serial number.
uint32_t entropy();

} // namespace tlc

#endif // TLC_ARDUINO_ENTROPY_HPP
