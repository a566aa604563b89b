// SPDX-License-Identifier: Apache-2.0
#ifndef TLC_SHIM_FLASH_IAP_H
#define TLC_SHIM_FLASH_IAP_H

#include <stdint.h>

namespace mbed {

// The last 64 KiB, in pages that are programmed whole and erased sectors of 4096 bytes. 0: done.
class FlashIAP {
  public:
    int init();
    int read(void *bytes, uint32_t address, uint32_t count);
    int program(const void *bytes, uint32_t address, uint32_t count);
    int erase(uint32_t address, uint32_t count);
    uint32_t get_page_size() const;
    uint32_t get_sector_size(uint32_t address) const;
    uint32_t get_flash_start() const;
    uint32_t get_flash_size() const;
};

} // namespace mbed

#endif // TLC_SHIM_FLASH_IAP_H
