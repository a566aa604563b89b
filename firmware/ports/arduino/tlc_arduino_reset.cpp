// SPDX-License-Identifier: Apache-2.0
#if defined(ARDUINO)

#include "tlc_arduino_reset.hpp"

#include <Arduino.h>

#if defined(ARDUINO_ARCH_MBED)
#include <mbed.h>
#endif
#if defined(TARGET_RP2040)
#include <hardware/structs/vreg_and_chip_reset.h>
#include <hardware/structs/watchdog.h>
#endif
#if defined(ARDUINO_ARCH_ESP32)
#include <esp_system.h>
#elif defined(ARDUINO_ARCH_ESP8266)
extern "C" {
#include <user_interface.h>
}
#endif

namespace tlc {

tlc_reset_t reset_reason() {
#if defined(ARDUINO_ARCH_ESP32)
    switch (esp_reset_reason()) {
    case ESP_RST_POWERON:
        return TLC_RESET_POWER;
    case ESP_RST_EXT:
        return TLC_RESET_PIN;
    case ESP_RST_SW:
        return TLC_RESET_SOFTWARE;
    case ESP_RST_PANIC:
        return TLC_RESET_FAULT;
    case ESP_RST_INT_WDT:
    case ESP_RST_TASK_WDT:
    case ESP_RST_WDT:
        return TLC_RESET_WATCHDOG;
    case ESP_RST_BROWNOUT:
        return TLC_RESET_BROWNOUT;
    default:
        return TLC_RESET_UNKNOWN;
    }
#elif defined(ARDUINO_ARCH_ESP8266)
    switch (ESP.getResetInfoPtr()->reason) {
    case REASON_DEFAULT_RST:
        return TLC_RESET_POWER;
    case REASON_EXT_SYS_RST:
        return TLC_RESET_PIN;
    case REASON_SOFT_RESTART:
        return TLC_RESET_SOFTWARE;
    case REASON_EXCEPTION_RST:
        return TLC_RESET_FAULT;
    case REASON_WDT_RST:
    case REASON_SOFT_WDT_RST:
        return TLC_RESET_WATCHDOG;
    default:
        return TLC_RESET_UNKNOWN;
    }
#elif defined(TARGET_RP2040)
    constexpr uint32_t kHadPor = 1u << 8; // RP2040 datasheet, CHIP_RESET: power-on or brown-out
    constexpr uint32_t kHadRun = 1u << 16;
    if (watchdog_hw->reason != 0u) {
        return TLC_RESET_WATCHDOG;
    }
    const uint32_t chip = vreg_and_chip_reset_hw->chip_reset;
    return (chip & kHadRun) != 0u ? TLC_RESET_PIN : (chip & kHadPor) != 0u ? TLC_RESET_POWER : TLC_RESET_UNKNOWN;
#elif defined(NRF_POWER)
    const uint32_t flags = NRF_POWER->RESETREAS; // nRF52840 product specification, RESETREAS: they add up
    NRF_POWER->RESETREAS = flags;                // ones clear
    if ((flags & 0x2u) != 0u) {
        return TLC_RESET_WATCHDOG;
    }
    if ((flags & 0x8u) != 0u) {
        return TLC_RESET_FAULT; // lock-up
    }
    if ((flags & 0x4u) != 0u) {
        return TLC_RESET_SOFTWARE;
    }
    return (flags & 0x1u) != 0u ? TLC_RESET_PIN : flags == 0u ? TLC_RESET_POWER : TLC_RESET_UNKNOWN;
#elif defined(ARDUINO_ARCH_STM32) && defined(RCC_FLAG_PORRST) && defined(RCC_FLAG_BORRST)
    tlc_reset_t reason = TLC_RESET_UNKNOWN;
    // In this order: a cold start sets the brown-out and pin flags too, and every reset pulls the pin.
    if (__HAL_RCC_GET_FLAG(RCC_FLAG_PORRST)) {
        reason = TLC_RESET_POWER;
    } else if (__HAL_RCC_GET_FLAG(RCC_FLAG_BORRST)) {
        reason = TLC_RESET_BROWNOUT;
    } else if (__HAL_RCC_GET_FLAG(RCC_FLAG_IWDGRST) || __HAL_RCC_GET_FLAG(RCC_FLAG_WWDGRST)) {
        reason = TLC_RESET_WATCHDOG;
    } else if (__HAL_RCC_GET_FLAG(RCC_FLAG_SFTRST)) {
        reason = TLC_RESET_SOFTWARE;
    } else if (__HAL_RCC_GET_FLAG(RCC_FLAG_PINRST)) {
        reason = TLC_RESET_PIN;
    }
    __HAL_RCC_CLEAR_RESET_FLAGS();
    return reason;
#else
    return TLC_RESET_UNKNOWN;
#endif
}

} // namespace tlc

#endif // ARDUINO
