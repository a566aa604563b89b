/* SPDX-License-Identifier: Apache-2.0
 *
 * nrf_flash.c: flash of the nRF51 and nRF52. Registers: nRF51 Series Reference Manual 3.0, chapter 6 (NVMC); nRF52840
 * Product Specification 1.7, chapter 4.3.
 */
#include "tlc_baremetal.h"

#if __ARM_ARCH >= 7 /* nRF52 */
#define FLASH_PAGE 4096u
#else
#define FLASH_PAGE 1024u
#endif
#define NVMC_BASE 0x4001E000u
#define NVMC_READY 0x400u
#define NVMC_CONFIG 0x504u
#define NVMC_ERASE_PAGE 0x508u
#define NVMC_READ_ONLY 0u
#define NVMC_WRITE 1u
#define NVMC_ERASE 2u
#define FLASH_SPINS 1000000u /* a page takes 22 ms, or 85 of an nRF52 */

static bool flash_ready(void) {
    for (uint32_t spin = 0; spin < FLASH_SPINS; spin++) {
        if (*tlc_reg(NVMC_BASE, NVMC_READY) != 0) {
            return true;
        }
    }
    return false;
}

bool tlc_hw_flash_erase(uint8_t *at, uint32_t bytes) {
    bool done = true;
    *tlc_reg(NVMC_BASE, NVMC_CONFIG) = NVMC_ERASE;
    for (uint32_t offset = 0; offset < bytes && done; offset += FLASH_PAGE) {
        *tlc_reg(NVMC_BASE, NVMC_ERASE_PAGE) = (uint32_t)(uintptr_t)at + offset;
        done = flash_ready();
    }
    *tlc_reg(NVMC_BASE, NVMC_CONFIG) = NVMC_READ_ONLY;
    return done;
}

bool tlc_hw_flash_write(uint8_t *at, const uint8_t *bytes, uint32_t count) {
    bool done = true;
    *tlc_reg(NVMC_BASE, NVMC_CONFIG) = NVMC_WRITE;
    for (uint32_t i = 0; i < count && done; i += 4) {
        *tlc_reg((uintptr_t)at, i) = *(const uint32_t *)(const void *)(bytes + i);
        done = flash_ready();
    }
    *tlc_reg(NVMC_BASE, NVMC_CONFIG) = NVMC_READ_ONLY;
    return done;
}
