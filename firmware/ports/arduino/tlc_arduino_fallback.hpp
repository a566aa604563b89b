// SPDX-License-Identifier: Apache-2.0
//
// tlc_arduino_fallback.hpp: Wi-Fi with the serial line to fall back to. While Wi-Fi has no connection a host may speak
// on the serial line instead: its first zero byte, which no person types, hands the link over to it, and the console
// falls silent there. After 4 s without a byte Wi-Fi is tried again. The link's session knows nothing of all this: it
// goes on where it was.
#ifndef TLC_ARDUINO_FALLBACK_HPP
#define TLC_ARDUINO_FALLBACK_HPP

#include <Arduino.h>

#include "tlc_arduino_link.hpp"
#include "tlc_arduino_wifi.hpp"

namespace tlc {

// The serial line's words for people, which are not to come between frames.
class Console final : public Print {
  public:
    explicit Console(Print &out) : out_(out) {}

    void mute(bool muted) { muted_ = muted; }
    size_t write(uint8_t byte) override { return muted_ ? 1 : out_.write(byte); }
    size_t write(const uint8_t *bytes, size_t count) override { return muted_ ? count : out_.write(bytes, count); }
    using Print::write;

  private:
    Print &out_;
    bool muted_ = false;
};

class FallbackLink final : public Link {
  public:
    FallbackLink(WifiLink &wifi, Link &serial, Console &console) : wifi_(wifi), serial_(serial), console_(console) {}

    const char *begin(uint32_t entropy) override {
        const char *problem = serial_.begin(entropy); // first: the console is there
        return problem != nullptr ? problem : wifi_.begin(entropy);
    }

    void poll() override {
        const uint32_t now = static_cast<uint32_t>(millis());
        if (now - polled_ >= kGapMs) {
            heard_ += now - polled_; // it was we who did not listen
        }
        polled_ = now;
        if (on_serial_) {
            if (now - heard_ >= kSilenceMs) {
                on_serial_ = false;
                console_.mute(false);
            }
            return; // Wi-Fi would hold the loop for seconds while it connects
        }
        wifi_.poll();
        uint8_t bytes[64];
        bool zero = false;
        for (size_t count = serial_.read(bytes, sizeof bytes); count > 0; count = serial_.read(bytes, sizeof bytes)) {
            for (size_t i = 0; i < count; i++) {
                zero = zero || bytes[i] == 0;
            }
        }
        if (zero && !wifi_.connected()) {
            on_serial_ = true;
            heard_ = static_cast<uint32_t>(millis());
            console_.mute(true);
        }
    }

    size_t read(uint8_t *bytes, size_t capacity) override {
        if (!on_serial_) {
            return wifi_.read(bytes, capacity);
        }
        const size_t count = serial_.read(bytes, capacity);
        if (count > 0) {
            heard_ = static_cast<uint32_t>(millis());
        }
        return count;
    }

    size_t write(const uint8_t *bytes, size_t count) override {
        return on_serial_ ? serial_.write(bytes, count) : wifi_.write(bytes, count);
    }

  private:
    static constexpr uint32_t kSilenceMs = 4000; // a host says something every second; the session lives for 10 s
    static constexpr uint32_t kGapMs = 500;      // the model computed

    WifiLink &wifi_;
    Link &serial_;
    Console &console_;
    bool on_serial_ = false;
    uint32_t heard_ = 0;  // on_serial_: when the last byte came
    uint32_t polled_ = 0; // when poll() was last called
};

} // namespace tlc

#endif // TLC_ARDUINO_FALLBACK_HPP
