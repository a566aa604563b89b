// SPDX-License-Identifier: Apache-2.0
#if defined(ARDUINO)

#include "tlc_arduino_memory.hpp"

#include <Arduino.h>
#include <stdlib.h>
#include <string.h>

#if defined(ARDUINO_ARCH_ESP32)
#include <esp_heap_caps.h>
#endif

namespace tlc {

namespace {

constexpr size_t kAlignment = 16;

void *take(size_t bytes) {
#if defined(ARDUINO_ARCH_ESP32)
    void *block = heap_caps_malloc(bytes, MALLOC_CAP_INTERNAL | MALLOC_CAP_8BIT);
    return block != nullptr ? block : heap_caps_malloc(bytes, MALLOC_CAP_SPIRAM | MALLOC_CAP_8BIT);
#else
    return malloc(bytes);
#endif
}

} // namespace

uint8_t *allocate(size_t bytes) {
    void *block = take(bytes + kAlignment - 1u);
    if (block == nullptr) {
        return nullptr;
    }
    const uintptr_t aligned = (reinterpret_cast<uintptr_t>(block) + kAlignment - 1u) & ~(kAlignment - 1u);
    return static_cast<uint8_t *>(memset(reinterpret_cast<void *>(aligned), 0, bytes));
}

size_t largest_block() {
#if defined(ARDUINO_ARCH_ESP32)
    return heap_caps_get_largest_free_block(MALLOC_CAP_8BIT);
#elif defined(ARDUINO_ARCH_ESP8266)
    return ESP.getMaxFreeBlockSize();
#else
    return 0;
#endif
}

} // namespace tlc

#endif // ARDUINO
