// SPDX-License-Identifier: Apache-2.0
#if defined(ARDUINO)

#include "tlc_arduino_panic.hpp"

#include <Arduino.h>
#include <string.h>

#if defined(ARDUINO_ARCH_MBED)
#include <mbed.h>
#endif

namespace tlc {

namespace {

constexpr uint32_t kSendMs = 2000; // a link that takes nothing must not hold the restart for ever
constexpr uint32_t kLeaveMs = 100; // what was handed to a driver leaves

class Line {
  public:
    explicit Line(Link &link) : link_(link), began_(millis()) {}

    void bytes(const char *text, size_t count) {
        const uint8_t *next = reinterpret_cast<const uint8_t *>(text);
        while (count > 0 && millis() - began_ < kSendMs) {
            const size_t sent = link_.write(next, count);
            next += sent;
            count -= sent;
            if (sent == 0) {
                delay(1);
            }
        }
    }
    void text(const char *words) { bytes(words, strlen(words)); }
    void hex(const char *name, uint32_t value) {
        char digits[8];
        for (int i = 0; i < 8; i++) {
            digits[i] = "0123456789abcdef"[value >> (28 - 4 * i) & 15u];
        }
        text(name);
        bytes(digits, sizeof digits);
    }

  private:
    Link &link_;
    uint32_t began_;
};

// Inside the call: an Arm address tells its state in bit 0, a windowed Xtensa's the window's size in its highest two.
uint32_t call_before(const void *returns_to) {
    const uint32_t address = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(returns_to));
#if defined(__XTENSA__)
    return ((address & 0x3FFFFFFFu) | 0x40000000u) - 3u;
#else
    return (address & ~1u) - 2u;
#endif
}

[[noreturn]] void restart() {
#if defined(ARDUINO_ARCH_ESP32) || defined(ARDUINO_ARCH_ESP8266)
    ESP.restart();
#else
    NVIC_SystemReset();
#endif
    for (;;) {
        delay(1000);
    }
}

} // namespace

void panic(Link &link, const char *what, const void *returns_to) {
    Line line(link);
    const char zero = '\0';
    line.bytes(&zero, 1);
    line.text("\r\ntlc fault: ");
    line.text(what);
    line.hex("; cause ", 0);
    line.hex(" pc ", call_before(returns_to));
    line.hex(" lr ", 0);
    line.hex(" sp ", static_cast<uint32_t>(reinterpret_cast<uintptr_t>(__builtin_frame_address(0))));
    line.hex(" detail ", 0);
    line.hex(" build ", 0);
    line.hex("", 0);
    line.text("\r\n");
    line.bytes(&zero, 1);
    delay(kLeaveMs);
    restart();
}

} // namespace tlc

#endif // ARDUINO
