// SPDX-License-Identifier: Apache-2.0
#if defined(ARDUINO)

#include "tlc_arduino_entropy.hpp"

#include <Arduino.h>

#if defined(ARDUINO_ARCH_MBED)
#include <mbed.h>
#endif
#if defined(TARGET_RP2040)
#include <hardware/structs/rosc.h>
#endif
#if defined(ARDUINO_ARCH_ESP32)
#include <esp_system.h>
#if __has_include(<esp_random.h>)
#include <esp_random.h>
#endif
#endif

namespace tlc {

#if defined(ARDUINO_ARCH_ESP32)

uint32_t entropy() { return esp_random(); }

#elif defined(ARDUINO_ARCH_ESP8266)

uint32_t entropy() { return ESP.random(); }

#elif defined(ARDUINO_ARCH_RP2040) && !defined(ARDUINO_ARCH_MBED)

uint32_t entropy() { return rp2040.hwrand32(); }

#elif defined(NRF_RNG)

uint32_t entropy() {
    uint32_t bits = 0;
    NRF_RNG->CONFIG = 1; // bias correction
    NRF_RNG->TASKS_START = 1;
    for (int byte = 0; byte < 4; byte++) {
        NRF_RNG->EVENTS_VALRDY = 0;
        while (NRF_RNG->EVENTS_VALRDY == 0) {
        }
        bits = (bits << 8) | (NRF_RNG->VALUE & 0xFFu);
    }
    NRF_RNG->TASKS_STOP = 1;
    return bits;
}

#else

namespace {

// Where the noise is read: inner channels that no pin of the user's is on, where the core names them.
#if defined(TARGET_RP2040)
// Arduino's mbed core: the ring oscillator's bit is biased, and neighbours resemble each other.
uint32_t noise() {
    uint32_t bits = 0;
    for (int i = 0; i < 32; i++) {
        bits = (bits << 1) | (rosc_hw->randombit & 1u);
    }
    return bits;
}
#else
#if defined(ATEMP)
constexpr auto kNoisePin = ATEMP;
#else
constexpr auto kNoisePin = A0;
#endif
uint32_t noise() { return static_cast<uint32_t>(analogRead(kNoisePin)); }
#endif
constexpr int kSamples = 64;

// One round of MurmurHash3's mixing of a word into a hash.
uint32_t mix(uint32_t hash, uint32_t word) {
    word *= 0xCC9E2D51u;
    word = (word << 15) | (word >> 17);
    hash ^= word * 0x1B873593u;
    hash = (hash << 13) | (hash >> 19);
    return hash * 5u + 0xE6546B64u;
}

#if defined(RNG) && defined(RCC_AHB2ENR_RNGEN)
// A word of the hardware generator; 0 where its clock does not run.
uint32_t generator() {
    RCC->AHB2ENR |= RCC_AHB2ENR_RNGEN;
    RNG->CR |= RNG_CR_RNGEN;
    for (int i = 0; i < 100000; i++) { // a word takes 40 of its cycles
        if ((RNG->SR & RNG_SR_DRDY) != 0u) {
            return RNG->DR;
        }
    }
    return 0;
}
#endif

} // namespace

uint32_t entropy() {
    uint32_t hash = 0;
    for (int i = 0; i < kSamples; i++) {
        hash = mix(hash, noise());
        hash = mix(hash, static_cast<uint32_t>(micros()));
    }
#if defined(ARDUINO_ARCH_STM32)
    hash = mix(hash, HAL_GetUIDw0());
    hash = mix(hash, HAL_GetUIDw1());
    hash = mix(hash, HAL_GetUIDw2());
#endif
#if defined(RNG) && defined(RCC_AHB2ENR_RNGEN)
    hash = mix(hash, generator()); // STM32F7 and others that have one
#endif
    hash = (hash ^ (hash >> 16)) * 0x85EBCA6Bu;
    hash = (hash ^ (hash >> 13)) * 0xC2B2AE35u;
    return hash ^ (hash >> 16);
}

#endif

} // namespace tlc

#endif // ARDUINO
