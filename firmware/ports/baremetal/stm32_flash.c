/* SPDX-License-Identifier: Apache-2.0
 *
 * stm32_flash.c: flash of an STM32F40x or STM32F74x with 1 MiB, by words, at 2.7 V or more. While a sector is erased,
 * for a second or two, the core waits for its next instruction, and what comes over the line is lost and sent again.
 * Registers: ST RM0090, chapter 3.9; RM0385, chapter 3.7.
 */
#include "stm32.h"

#define FLASH_BASE 0x40023C00u
#define ACCESS (FLASH_BASE + 0x00u)
#define KEY (FLASH_BASE + 0x04u)
#define STATUS (FLASH_BASE + 0x0Cu)
#define CONTROL (FLASH_BASE + 0x10u)
#define FIRST_KEY 0x45670123u
#define SECOND_KEY 0xCDEF89ABu
#define ERRORS 0xF2u
#define BUSY (1u << 16)
#define PROGRAM 1u
#define ERASE 2u
#define SECTOR(number) ((number) << 3)
#define WORDS (2u << 8)
#define START (1u << 16)
#define LOCK (1u << 31)
#define DATA_CACHE (1u << 10)
#define FORGET_DATA (1u << 12)
#define BUSY_SPINS 100000000u /* more than four seconds */

#define MEMORY 0x08000000u
#if defined(TLC_STM32F7) /* sectors 5, 6 and 7 */
#define SECTOR_BYTES 0x40000u
#else /* 5 to 11 */
#define SECTOR_BYTES 0x20000u
#endif
#define SMALL_SECTORS 4u /* as many more than one large one's place holds */

static bool done(void) {
    for (uint32_t spin = 0; spin < BUSY_SPINS; spin++) {
        const uint32_t status = tlc_read(STATUS);
        if ((status & BUSY) == 0) {
            return (status & ERRORS) == 0;
        }
    }
    return false;
}

static void unlock(void) {
    if ((tlc_read(CONTROL) & LOCK) != 0) {
        tlc_write(KEY, FIRST_KEY);
        tlc_write(KEY, SECOND_KEY);
    }
    tlc_write(STATUS, ERRORS); /* ones clear */
}

/* The data cache may hold what was there before. */
static void lock(void) {
    tlc_write(CONTROL, LOCK);
    const uint32_t access = tlc_read(ACCESS);
    if ((access & DATA_CACHE) != 0) {
        tlc_write(ACCESS, access & ~DATA_CACHE);
        tlc_write(ACCESS, (access & ~DATA_CACHE) | FORGET_DATA);
        tlc_write(ACCESS, access);
    }
}

bool tlc_hw_flash_erase(uint8_t *at, uint32_t bytes) {
    unlock();
    bool good = done();
    for (uint32_t offset = 0; offset < bytes && good; offset += SECTOR_BYTES) {
        const uint32_t place = (uint32_t)(uintptr_t)at + offset - MEMORY;
        tlc_write(CONTROL, ERASE | WORDS | SECTOR(place / SECTOR_BYTES + SMALL_SECTORS));
        tlc_write(CONTROL, ERASE | WORDS | SECTOR(place / SECTOR_BYTES + SMALL_SECTORS) | START);
        good = done();
    }
    lock();
    return good;
}

bool tlc_hw_flash_write(uint8_t *at, const uint8_t *bytes, uint32_t count) {
    unlock();
    bool good = done();
    tlc_write(CONTROL, PROGRAM | WORDS);
    for (uint32_t i = 0; i < count && good; i += 4) {
        tlc_write((uintptr_t)at + i, *(const uint32_t *)(const void *)(bytes + i));
        good = done();
    }
    lock();
    return good;
}
