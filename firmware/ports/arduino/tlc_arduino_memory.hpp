// SPDX-License-Identifier: Apache-2.0
//
// tlc_arduino_memory.hpp: memory from the heap, once, at start: for arenas that the board cannot hold as a static
// array (ESP32: 124,580 bytes of .data and .bss, while the heap has more).
#ifndef TLC_ARDUINO_MEMORY_HPP
#define TLC_ARDUINO_MEMORY_HPP

#include <stddef.h>
#include <stdint.h>

namespace tlc {

// 16-byte aligned, zeroed, never given back; NULL: there is no such block. Inner RAM first, then PSRAM.
uint8_t *allocate(size_t bytes);

// Bytes of the largest block that the heap could give now; 0 where the core cannot tell.
size_t largest_block();

} // namespace tlc

#endif // TLC_ARDUINO_MEMORY_HPP
