/* SPDX-License-Identifier: Apache-2.0
 *
 * memory_flash.c: flash of boards whose "flash" the emulator keeps in plain memory. A reset leaves it as it is, the end
 * of the emulator does not. It is written as flash is: bits are cleared, and set by erasing alone.
 */
#include "tlc_baremetal.h"

bool tlc_hw_flash_erase(uint8_t *at, uint32_t bytes) {
    for (volatile uint8_t *byte = at; byte < at + bytes; byte++) {
        *byte = 0xFF;
    }
    return true;
}

bool tlc_hw_flash_write(uint8_t *at, const uint8_t *bytes, uint32_t count) {
    volatile uint8_t *to = at;
    for (uint32_t i = 0; i < count; i++) {
        to[i] &= bytes[i];
    }
    return true;
}
