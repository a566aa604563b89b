// SPDX-License-Identifier: Apache-2.0
//
// core.cpp: clock, pins, entropy, heap, main.
#include "Arduino.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#if defined(ARDUINO_ARCH_ESP32)
#include "esp_heap_caps.h"
#include "esp_system.h"
#elif defined(ARDUINO_ARCH_MBED)
#include "mbed.h"
#endif
#if defined(TARGET_RP2040)
#include "hardware/structs/rosc.h"
#include "hardware/structs/vreg_and_chip_reset.h"
#include "hardware/structs/watchdog.h"
#endif
#include "shim.h"

namespace shim {

namespace {

uint64_t real_micros() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1000000u + static_cast<uint64_t>(now.tv_nsec) / 1000u;
}

uint64_t speed() {
    static const long value = setting_number("TLC_SHIM_SPEED", 1);
    return static_cast<uint64_t>(value);
}

const uint64_t power_on = real_micros();

} // namespace

const char *setting(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value == nullptr || value[0] == '\0' ? otherwise : value;
}

long setting_number(const char *name, long otherwise) {
    const char *value = setting(name, nullptr);
    return value == nullptr ? otherwise : strtol(value, nullptr, 10);
}

uint64_t virtual_micros() { return (real_micros() - power_on) * speed(); }

void virtual_sleep_micros(uint64_t micros) {
    const uint64_t real = micros / speed();
    timespec left;
    left.tv_sec = static_cast<time_t>(real / 1000000u);
    left.tv_nsec = static_cast<long>(real % 1000000u) * 1000;
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

void log(const char *event, const char *detail) {
    const char *path = setting("TLC_SHIM_LOG", nullptr);
    if (path == nullptr) {
        return;
    }
    FILE *file = fopen(path, "a");
    if (file != nullptr) {
        fprintf(file, "{\"ms\": %lu, \"event\": \"%s\", \"detail\": \"%s\"}\n", millis(), event, detail);
        fclose(file);
    }
}

void restart() {
    log("restart", "");
    _exit(0);
}

uint32_t random_word() {
    uint32_t word = 0;
    if (getrandom(&word, sizeof word, 0) != static_cast<ssize_t>(sizeof word)) {
        abort();
    }
    return word;
}

} // namespace shim

unsigned long millis() { return static_cast<uint32_t>(shim::virtual_micros() / 1000u); }
unsigned long micros() { return static_cast<uint32_t>(shim::virtual_micros()); }
void delay(uint32_t milliseconds) { shim::virtual_sleep_micros(static_cast<uint64_t>(milliseconds) * 1000u); }
void yield() {}

void pinMode(uint8_t, uint8_t) {}
void digitalWrite(uint8_t pin, uint8_t level) {
    if (pin == LED_BUILTIN) {
        shim::log("led", level == HIGH ? "on" : "off");
    }
}

size_t Print::print(unsigned long value) {
    char text[24];
    snprintf(text, sizeof text, "%lu", value);
    return print(text);
}

size_t Print::print(long value) {
    char text[24];
    snprintf(text, sizeof text, "%ld", value);
    return print(text);
}

#if defined(ARDUINO_ARCH_ESP32)

EspClass ESP;
uint32_t EspClass::getCycleCount() { return static_cast<uint32_t>(shim::virtual_micros() * 240u); }
void EspClass::restart() { shim::restart(); }
esp_reset_reason_t esp_reset_reason(void) {
    return static_cast<esp_reset_reason_t>(shim::setting_number("TLC_SHIM_RESET", ESP_RST_POWERON));
}
uint32_t esp_random(void) { return shim::random_word(); }
uint32_t uxTaskGetStackHighWaterMark(TaskHandle_t) { return static_cast<uint32_t>(getArduinoLoopTaskStackSize() / 2u); }
__attribute__((weak)) size_t getArduinoLoopTaskStackSize() { return 8192; }

static size_t heap_left() {
    static const long size = shim::setting_number("TLC_SHIM_HEAP", 110580);
    return static_cast<size_t>(size);
}
static size_t heap_used = 0;

size_t heap_caps_get_largest_free_block(uint32_t) { return heap_left() - heap_used; }

void *heap_caps_malloc(size_t size, uint32_t caps) {
    if ((caps & MALLOC_CAP_SPIRAM) != 0 || size > heap_caps_get_largest_free_block(caps)) {
        return nullptr;
    }
    heap_used += size;
    // Off the 16-byte grid on purpose: the real allocator promises 4.
    return static_cast<char *>(malloc(size + 4u)) + 4;
}

#elif defined(ARDUINO_ARCH_ESP8266)

EspClass ESP;
uint32_t EspClass::getCycleCount() { return static_cast<uint32_t>(shim::virtual_micros() * 80u); }
void EspClass::restart() { shim::restart(); }
uint32_t EspClass::random() { return shim::random_word(); }
uint32_t EspClass::getMaxFreeBlockSize() { return static_cast<uint32_t>(shim::setting_number("TLC_SHIM_HEAP", 40000)); }
uint32_t EspClass::getFreeContStack() { return 2048; }
rst_info *EspClass::getResetInfoPtr() {
    static rst_info info = {static_cast<uint32_t>(shim::setting_number("TLC_SHIM_RESET", REASON_DEFAULT_RST))};
    return &info;
}

#elif defined(ARDUINO_ARCH_MBED)

void NVIC_SystemReset() { shim::restart(); }
int analogRead(uint32_t) { return static_cast<int>(900u + (shim::random_word() & 3u)); }

#if defined(TARGET_NRF52840)

ShimNrfRng shim_nrf_rng;
ShimRngReady::operator uint32_t() const { return shim_nrf_rng.TASKS_START; }
ShimRngByte::operator uint32_t() const { return shim::random_word() & 0xFFu; }

static uint32_t &reset_flags() {
    static uint32_t flags = static_cast<uint32_t>(shim::setting_number("TLC_SHIM_RESET", 0));
    return flags;
}
ShimNrfPower shim_nrf_power;
ShimResetFlags &ShimResetFlags::operator=(uint32_t ones) {
    reset_flags() &= ~ones;
    return *this;
}
ShimResetFlags::operator uint32_t() const { return reset_flags(); }

#else

ShimRosc shim_rosc;
ShimRandomBit::operator uint32_t() const { return shim::random_word() & 1u; }
ShimWatchdog shim_watchdog;
ShimVreg shim_vreg;
ShimChipReset::operator uint32_t() const {
    return static_cast<uint32_t>(shim::setting_number("TLC_SHIM_RESET", 1 << 8));
}

#endif

#elif defined(ARDUINO_ARCH_STM32)

void NVIC_SystemReset() { shim::restart(); }
int analogRead(uint32_t) { return static_cast<int>(900u + (shim::random_word() & 3u)); }
uint32_t HAL_GetUIDw0() { return 0x00320041u; }
uint32_t HAL_GetUIDw1() { return 0x33365114u; }
uint32_t HAL_GetUIDw2() { return 0x38363236u; }

bool shim_reset_flag(int flag) { return flag == RCC_FLAG_PORRST || flag == RCC_FLAG_PINRST; }

ShimDwt shim_dwt;
ShimCoreDebug shim_core_debug;
CycleCount::operator uint32_t() const {
#if defined(STM32F7xx)
    const bool open = shim_dwt.LAR == 0xC5ACCE55u;
    const uint32_t megahertz = 216;
#else
    const bool open = true;
    const uint32_t megahertz = 180;
#endif
    const bool running = open && (shim_core_debug.DEMCR & CoreDebug_DEMCR_TRCENA_Msk) != 0 &&
                         (shim_dwt.CTRL & DWT_CTRL_CYCCNTENA_Msk) != 0;
    return running ? static_cast<uint32_t>(shim::virtual_micros() * megahertz) : 0u;
}

#if defined(STM32F7xx)
ShimRcc shim_rcc;
ShimRng shim_rng;
RandomReady::operator uint32_t() const {
    static unsigned asked = 0;
    const bool on = (shim_rcc.AHB2ENR & RCC_AHB2ENR_RNGEN) != 0 && (shim_rng.CR & RNG_CR_RNGEN) != 0;
    return on && ++asked % 8u == 0 ? RNG_SR_DRDY : 0u;
}
RandomWord::operator uint32_t() const { return shim::random_word(); }
#endif

#endif

int main() {
    signal(SIGPIPE, SIG_IGN);
    shim::log("boot", "");
    setup();
    for (;;) {
        loop();
    }
}
