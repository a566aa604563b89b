// SPDX-License-Identifier: Apache-2.0
#if defined(ARDUINO)

#include "tlc_arduino_reset.hpp"

#include <Arduino.h>

#if defined(ARDUINO_ARCH_ESP32)
#include <esp_system.h>
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
