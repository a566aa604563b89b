// SPDX-License-Identifier: Apache-2.0
//
// tlc_arduino_flash.hpp: flash for the journal of what the device learns, where the chip has some that it can erase by
// itself while the program runs:
//
//     ESP32      a data partition named "tlc" (the generated tlc_partitions.csv has one)
//     ESP8266    the end of the file system's area: a file system that the application mounts must be smaller
//     STM32F4    the last two sectors of flash, 128 KiB each (STM32F7: 256 KiB): the program must end before them, for
//     STM32F7    which the generated platformio.ini sets board_upload.maximum_size. Erasing one stalls the CPU for a
//                second or two.
//     nRF52840   the last sectors of flash, by mbed's FlashIAP; the program must end before them as well
//     RP2040
#ifndef TLC_ARDUINO_FLASH_HPP
#define TLC_ARDUINO_FLASH_HPP

#include <stdint.h>

extern "C" {
#include "tlc/journal.h"
}

namespace tlc {

// Two slots of so many bytes; NULL: this board has no place for them.
const tlc_storage_t *storage(uint32_t slot_bytes);

} // namespace tlc

#endif // TLC_ARDUINO_FLASH_HPP
