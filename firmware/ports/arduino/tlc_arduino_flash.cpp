// SPDX-License-Identifier: Apache-2.0
#if defined(ARDUINO)

#include "tlc_arduino_flash.hpp"

#include <Arduino.h>
#include <string.h>

#if defined(ARDUINO_ARCH_ESP32)
#include <esp_partition.h>
#elif defined(ARDUINO_ARCH_MBED)
#include <FlashIAP.h>
#elif defined(ARDUINO_ARCH_ESP8266)
extern "C" uint32_t _FS_end; // the linker script's: where the file system's area ends
#endif

namespace tlc {

#if defined(ARDUINO_ARCH_ESP32)

namespace {

constexpr char kLabel[] = "tlc";
constexpr uint32_t kSector = 4096;

const esp_partition_t *partition;
tlc_storage_t slots;

size_t at(uint8_t slot, uint32_t offset) { return static_cast<size_t>(slot) * slots.slot_bytes + offset; }

} // namespace

const tlc_storage_t *storage(uint32_t slot_bytes) {
    partition = esp_partition_find_first(ESP_PARTITION_TYPE_DATA, ESP_PARTITION_SUBTYPE_ANY, kLabel);
    if (partition == nullptr || slot_bytes % kSector != 0 || 2u * slot_bytes > partition->size) {
        return nullptr;
    }
    slots.slot_bytes = slot_bytes;
    slots.flash_read = [](void *, uint8_t slot, uint32_t offset, uint8_t *bytes, uint32_t count) {
        return esp_partition_read(partition, at(slot, offset), bytes, count) == ESP_OK;
    };
    slots.flash_erase = [](void *, uint8_t slot) {
        return esp_partition_erase_range(partition, at(slot, 0), slots.slot_bytes) == ESP_OK;
    };
    slots.flash_write = [](void *, uint8_t slot, uint32_t offset, const uint8_t *bytes, uint32_t count) {
        return esp_partition_write(partition, at(slot, offset), bytes, count) == ESP_OK;
    };
    return &slots;
}

#elif defined(ARDUINO_ARCH_ESP8266)

namespace {

constexpr uint32_t kSector = 4096;
constexpr uint32_t kMapped = 0x40200000UL; // where the CPU sees the beginning of flash

tlc_storage_t slots;
uint32_t begin;

uint32_t at(uint8_t slot, uint32_t offset) { return begin + slot * slots.slot_bytes + offset; }

} // namespace

const tlc_storage_t *storage(uint32_t slot_bytes) {
    const uint32_t end = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(&_FS_end)) - kMapped;
    if (slot_bytes % kSector != 0 || end % kSector != 0 || 2u * slot_bytes > end) {
        return nullptr;
    }
    begin = end - 2u * slot_bytes;
    slots.slot_bytes = slot_bytes;
    slots.flash_read = [](void *, uint8_t slot, uint32_t offset, uint8_t *bytes, uint32_t count) {
        return ESP.flashRead(at(slot, offset), bytes, count);
    };
    slots.flash_erase = [](void *, uint8_t slot) {
        bool done = true;
        for (uint32_t offset = 0; offset < slots.slot_bytes && done; offset += kSector) {
            done = ESP.flashEraseSector(at(slot, offset) / kSector);
            ::yield(); // a sector takes up to 0.4 s, the watchdog waits 3 s
        }
        return done;
    };
    slots.flash_write = [](void *, uint8_t slot, uint32_t offset, const uint8_t *bytes, uint32_t count) {
        return ESP.flashWrite(at(slot, offset), bytes, count);
    };
    return &slots;
}

#elif defined(ARDUINO_ARCH_MBED)

namespace {

constexpr uint32_t kLargestPage = 256; // RP2040; nRF52840: 4

mbed::FlashIAP flash;
tlc_storage_t slots;
uint32_t begin;
uint32_t page_bytes;

uint32_t at(uint8_t slot, uint32_t offset) { return begin + slot * slots.slot_bytes + offset; }

// So many bytes that lie in one page. The rest of the page is written as 0xFF, which leaves it as it is.
bool write_in_page(uint32_t address, const uint8_t *bytes, uint32_t count) {
    uint8_t page[kLargestPage];
    const uint32_t first = address % page_bytes;
    memset(page, 0xFF, page_bytes);
    memcpy(page + first, bytes, count);
    return flash.program(page, address - first, page_bytes) == 0;
}

} // namespace

const tlc_storage_t *storage(uint32_t slot_bytes) {
    if (flash.init() != 0) {
        return nullptr;
    }
    const uint32_t end = flash.get_flash_start() + flash.get_flash_size();
    page_bytes = flash.get_page_size();
    if (page_bytes == 0 || page_bytes > kLargestPage || slot_bytes % flash.get_sector_size(end - 1u) != 0) {
        return nullptr;
    }
    begin = end - 2u * slot_bytes;
    slots.slot_bytes = slot_bytes;
    slots.flash_read = [](void *, uint8_t slot, uint32_t offset, uint8_t *bytes, uint32_t count) {
        return flash.read(bytes, at(slot, offset), count) == 0;
    };
    slots.flash_erase = [](void *, uint8_t slot) { return flash.erase(at(slot, 0), slots.slot_bytes) == 0; };
    slots.flash_write = [](void *, uint8_t slot, uint32_t offset, const uint8_t *bytes, uint32_t count) {
        bool done = true;
        for (uint32_t i = 0; i < count && done;) {
            const uint32_t left = page_bytes - at(slot, offset + i) % page_bytes;
            const uint32_t part = count - i < left ? count - i : left;
            done = write_in_page(at(slot, offset + i), bytes + i, part);
            i += part;
        }
        return done;
    };
    return &slots;
}

#elif defined(ARDUINO_ARCH_STM32) && (defined(STM32F4xx) || defined(STM32F7xx)) && FLASH_END <= 0x080FFFFFUL

namespace {

constexpr uint32_t kFirstLarge = 5;  // of the sectors of one size, up to the last
#if defined(STM32F7xx)
constexpr uint32_t kLarge = 0x40000; // bytes of such a sector: RM0385, table 3
constexpr uint32_t kFirstLargeAt = 0x08040000UL;
#else
constexpr uint32_t kLarge = 0x20000; // RM0390, table 4
constexpr uint32_t kFirstLargeAt = 0x08020000UL;
#endif
constexpr uint32_t kBegin = FLASH_END + 1UL - 2u * kLarge;

tlc_storage_t slots;

uint32_t at(uint8_t slot, uint32_t offset) { return kBegin + slot * kLarge + offset; }

} // namespace

const tlc_storage_t *storage(uint32_t slot_bytes) {
    if (slot_bytes > kLarge) {
        return nullptr;
    }
    slots.slot_bytes = slot_bytes;
    slots.flash_read = [](void *, uint8_t slot, uint32_t offset, uint8_t *bytes, uint32_t count) {
        const uintptr_t from = at(slot, offset);
#if defined(STM32F7xx)
        // The cache may hold what was there before it was erased or written.
        SCB_InvalidateDCache_by_Addr(reinterpret_cast<uint32_t *>(from & ~static_cast<uintptr_t>(31)),
                                     static_cast<int32_t>(count + (from & 31u)));
#endif
        memcpy(bytes, reinterpret_cast<const void *>(from), count);
        return true;
    };
    slots.flash_erase = [](void *, uint8_t slot) {
        FLASH_EraseInitTypeDef erase = {};
        erase.TypeErase = FLASH_TYPEERASE_SECTORS;
        erase.Sector = kFirstLarge + (at(slot, 0) - kFirstLargeAt) / kLarge;
        erase.NbSectors = 1;
        erase.VoltageRange = FLASH_VOLTAGE_RANGE_3; // 2.7 to 3.6 V
        uint32_t failed = 0;
        HAL_FLASH_Unlock();
        const bool done = HAL_FLASHEx_Erase(&erase, &failed) == HAL_OK;
        HAL_FLASH_Lock();
        return done;
    };
    slots.flash_write = [](void *, uint8_t slot, uint32_t offset, const uint8_t *bytes, uint32_t count) {
        bool done = true;
        HAL_FLASH_Unlock();
        for (uint32_t i = 0; i < count && done; i += 4u) {
            uint32_t word = 0;
            memcpy(&word, bytes + i, sizeof word);
            done = HAL_FLASH_Program(FLASH_TYPEPROGRAM_WORD, at(slot, offset + i), word) == HAL_OK;
        }
        HAL_FLASH_Lock();
        return done;
    };
    return &slots;
}

#else

const tlc_storage_t *storage(uint32_t) { return nullptr; }

#endif

} // namespace tlc

#endif // ARDUINO
