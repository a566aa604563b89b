// SPDX-License-Identifier: Apache-2.0
//
// flash.cpp: flash in a file, which outlives the process. Writing clears bits, only erasing sets them.
#include "Arduino.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shim.h"

namespace {

// Maps the file that TLC_SHIM_FLASH names, erased where it is new, at `address` (NULL: anywhere); without that setting
// memory that is forgotten.
uint8_t *map_file(void *address, size_t bytes) {
    const char *path = shim::setting("TLC_SHIM_FLASH", nullptr);
    const int file = path == nullptr ? -1 : open(path, O_RDWR | O_CREAT, 0666);
    if (path != nullptr && file < 0) {
        _exit(3);
    }
    const bool fresh = file < 0 || lseek(file, 0, SEEK_END) == 0;
    if (file >= 0 && ftruncate(file, static_cast<off_t>(bytes)) != 0) {
        _exit(3);
    }
    const int fixed = address == nullptr ? 0 : MAP_FIXED_NOREPLACE;
    void *at = mmap(address, bytes, PROT_READ | PROT_WRITE,
                    file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | fixed : MAP_SHARED | fixed, file, 0);
    if (at == MAP_FAILED || (address != nullptr && at != address)) {
        _exit(3);
    }
    if (fresh) {
        memset(at, 0xFF, bytes);
    }
    return static_cast<uint8_t *>(at);
}

void clear_bits(uint8_t *to, const uint8_t *bytes, size_t count) {
    for (size_t i = 0; i < count; i++) {
        to[i] = static_cast<uint8_t>(to[i] & bytes[i]);
    }
}

} // namespace

#if defined(ARDUINO_ARCH_ESP32)

#include "esp_partition.h"

namespace {

const esp_partition_t tlc_partition = {0x10000, "tlc"};

uint8_t *bytes_of_partition() {
    static uint8_t *const mapped = map_file(nullptr, tlc_partition.size);
    return mapped;
}

bool inside(const esp_partition_t *partition, size_t offset, size_t count) {
    return partition == &tlc_partition && offset <= partition->size && count <= partition->size - offset;
}

} // namespace

const esp_partition_t *esp_partition_find_first(esp_partition_type_t type, esp_partition_subtype_t, const char *label) {
    const bool known = type == ESP_PARTITION_TYPE_DATA && strcmp(label, tlc_partition.label) == 0;
    return known && shim::setting("TLC_SHIM_FLASH", nullptr) != nullptr ? &tlc_partition : nullptr;
}

esp_err_t esp_partition_read(const esp_partition_t *partition, size_t offset, void *bytes, size_t count) {
    if (!inside(partition, offset, count)) {
        return ESP_ERR_INVALID_SIZE;
    }
    memcpy(bytes, bytes_of_partition() + offset, count);
    return ESP_OK;
}

esp_err_t esp_partition_write(const esp_partition_t *partition, size_t offset, const void *bytes, size_t count) {
    if (!inside(partition, offset, count)) {
        return ESP_ERR_INVALID_SIZE;
    }
    clear_bits(bytes_of_partition() + offset, static_cast<const uint8_t *>(bytes), count);
    return ESP_OK;
}

esp_err_t esp_partition_erase_range(const esp_partition_t *partition, size_t offset, size_t count) {
    if (!inside(partition, offset, count)) {
        return ESP_ERR_INVALID_SIZE;
    }
    if (offset % 4096 != 0 || count % 4096 != 0) {
        return ESP_ERR_INVALID_ARG;
    }
    memset(bytes_of_partition() + offset, 0xFF, count);
    return ESP_OK;
}

#elif defined(ARDUINO_ARCH_ESP8266)

// What the linker script says of the board's 4 MB: the file system's area ends here, as the CPU sees it.
asm(".globl _FS_end\n.set _FS_end, 0x405FA000");

namespace {

constexpr uint32_t kEnd = 0x3FA000;
constexpr uint32_t kBytes = 0x10000; // of its end

uint8_t *place(uint32_t address, size_t count) {
    static uint8_t *const mapped = map_file(nullptr, kBytes);
    const bool inside = address >= kEnd - kBytes && address <= kEnd && count <= kEnd - address;
    return inside ? mapped + (address - (kEnd - kBytes)) : nullptr;
}

} // namespace

bool EspClass::flashEraseSector(uint32_t sector) {
    uint8_t *to = place(sector * 4096u, 4096);
    return to != nullptr && memset(to, 0xFF, 4096) != nullptr;
}

bool EspClass::flashWrite(uint32_t address, const uint8_t *bytes, size_t count) {
    uint8_t *to = place(address, count);
    if (to != nullptr) {
        clear_bits(to, bytes, count);
    }
    return to != nullptr;
}

bool EspClass::flashRead(uint32_t address, uint8_t *bytes, size_t count) {
    const uint8_t *from = place(address, count);
    return from != nullptr && memcpy(bytes, from, count) != nullptr;
}

#elif defined(ARDUINO_ARCH_MBED)

#include "FlashIAP.h"

namespace {

#if defined(TARGET_RP2040)
constexpr uint32_t kStart = 0x10000000u;
constexpr uint32_t kSize = 0x200000;
constexpr uint32_t kPage = 256;
#else
constexpr uint32_t kStart = 0;
constexpr uint32_t kSize = 0x100000;
constexpr uint32_t kPage = 4;
#endif
constexpr uint32_t kBytes = 0x10000; // of its end

uint8_t *place(uint32_t address, uint32_t count) {
    static uint8_t *const mapped = map_file(nullptr, kBytes);
    const uint32_t end = kStart + kSize;
    const bool inside = address >= end - kBytes && address <= end && count <= end - address;
    return inside ? mapped + (address - (end - kBytes)) : nullptr;
}

} // namespace

namespace mbed {

int FlashIAP::init() { return place(kStart + kSize, 0) != nullptr ? 0 : -1; }

int FlashIAP::read(void *bytes, uint32_t address, uint32_t count) {
    const uint8_t *from = place(address, count);
    return from != nullptr && memcpy(bytes, from, count) != nullptr ? 0 : -1;
}

int FlashIAP::program(const void *bytes, uint32_t address, uint32_t count) {
    uint8_t *to = place(address, count);
    if (to == nullptr || address % kPage != 0 || count % kPage != 0) {
        return -1;
    }
    clear_bits(to, static_cast<const uint8_t *>(bytes), count);
    return 0;
}

int FlashIAP::erase(uint32_t address, uint32_t count) {
    uint8_t *to = place(address, count);
    const bool whole = address % 4096 == 0 && count % 4096 == 0;
    return to != nullptr && whole && memset(to, 0xFF, count) != nullptr ? 0 : -1;
}

uint32_t FlashIAP::get_page_size() const { return kPage; }
uint32_t FlashIAP::get_sector_size(uint32_t) const { return 4096; }
uint32_t FlashIAP::get_flash_start() const { return kStart; }
uint32_t FlashIAP::get_flash_size() const { return kSize; }

} // namespace mbed

#elif defined(ARDUINO_ARCH_STM32)

namespace {

#if defined(STM32F7xx)
constexpr size_t kSector = 0x40000;
#else
constexpr size_t kSector = 0x20000;
#endif
constexpr uintptr_t kBegin = FLASH_END + 1u - 2 * kSector; // sector 6
uint8_t *const sectors = map_file(reinterpret_cast<void *>(kBegin), 2 * kSector);
bool unlocked;

} // namespace

#if defined(STM32F7xx)
// Whole lines of the cache, or more would be lost than was meant.
void SCB_InvalidateDCache_by_Addr(uint32_t *from, int32_t bytes) {
    if (reinterpret_cast<uintptr_t>(from) % 32u != 0 || bytes <= 0) {
        _exit(3);
    }
}
#endif

HAL_StatusTypeDef HAL_FLASH_Unlock() {
    unlocked = true;
    return HAL_OK;
}

HAL_StatusTypeDef HAL_FLASH_Lock() {
    unlocked = false;
    return HAL_OK;
}

HAL_StatusTypeDef HAL_FLASHEx_Erase(FLASH_EraseInitTypeDef *erase, uint32_t *failed) {
    *failed = erase->Sector;
    if (!unlocked || erase->TypeErase != FLASH_TYPEERASE_SECTORS || erase->NbSectors != 1 || erase->Sector < 6 ||
        erase->Sector > 7 || erase->VoltageRange != FLASH_VOLTAGE_RANGE_3) {
        return HAL_ERROR;
    }
    *failed = 0xFFFFFFFFu;
    memset(sectors + (erase->Sector - 6) * kSector, 0xFF, kSector);
    return HAL_OK;
}

HAL_StatusTypeDef HAL_FLASH_Program(uint32_t type, uint32_t address, uint64_t data) {
    if (!unlocked || type != FLASH_TYPEPROGRAM_WORD || address < kBegin || address > kBegin + 2 * kSector - 4 ||
        address % 4 != 0) {
        return HAL_ERROR;
    }
    const uint32_t word = static_cast<uint32_t>(data);
    clear_bits(sectors + (address - kBegin), reinterpret_cast<const uint8_t *>(&word), sizeof word);
    return HAL_OK;
}

#endif
