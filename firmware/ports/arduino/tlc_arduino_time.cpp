// SPDX-License-Identifier: Apache-2.0
#if defined(ARDUINO)

#include "tlc_arduino_time.hpp"

#include <Arduino.h>
#if defined(ARDUINO_ARCH_MBED)
#include <mbed.h>
#endif

// Cortex-M3 and above; CMSIS defines both names as macros.
#if defined(DWT) && defined(CoreDebug)
#define TLC_HAS_DWT 1
#endif

namespace tlc {

namespace {

uint32_t counter() {
#if defined(ARDUINO_ARCH_ESP32) || defined(ARDUINO_ARCH_ESP8266)
    return ESP.getCycleCount();
#elif defined(TLC_HAS_DWT)
    return DWT->CYCCNT;
#else
    return static_cast<uint32_t>(::micros());
#endif
}

} // namespace

void Clock::begin() {
#if defined(TLC_HAS_DWT)
    CoreDebug->DEMCR |= CoreDebug_DEMCR_TRCENA_Msk;
#if __CORTEX_M == 7
    DWT->LAR = 0xC5ACCE55u; // locked until then: Armv7-M manual, C1.8
#endif
    DWT->CTRL |= DWT_CTRL_CYCCNTENA_Msk;
#endif
    last_ = counter();
    rested_ = millis();
}

uint32_t Clock::millis() const { return static_cast<uint32_t>(::millis()); }

uint64_t Clock::ticks() {
    const uint32_t now = counter();
    ticks_ += static_cast<uint32_t>(now - last_);
    last_ = now;
    return ticks_;
}

void Clock::yield() {
    (void)ticks();
#if defined(ARDUINO_ARCH_ESP32)
    if (millis() - rested_ >= kRestMs) {
        idle();
    }
#else
    ::yield();
#endif
}

void Clock::idle() {
    (void)ticks();
#if defined(ARDUINO_ARCH_ESP32) || defined(ARDUINO_ARCH_ESP8266) || defined(ARDUINO_ARCH_MBED)
    ::delay(1);
    rested_ = millis();
#else
    ::yield();
#endif
}

} // namespace tlc

#endif // ARDUINO
