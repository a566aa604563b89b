// SPDX-License-Identifier: Apache-2.0
#if defined(ARDUINO)

#include "tlc_arduino_flash.hpp"

#include <Arduino.h>
#include <string.h>

#if defined(ARDUINO_ARCH_ESP32)
#include <esp_partition.h>
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

#elif defined(ARDUINO_ARCH_STM32) && defined(STM32F4xx) && FLASH_END <= 0x080FFFFFUL

namespace {

constexpr uint32_t kLarge = 0x20000; // bytes of a sector, from the fifth on: RM0390, table 4
constexpr uint32_t kFirstLarge = 5;
constexpr uint32_t kFirstLargeAt = 0x08020000UL;
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
        memcpy(bytes, reinterpret_cast<const void *>(static_cast<uintptr_t>(at(slot, offset))), count);
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
