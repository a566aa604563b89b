// SPDX-License-Identifier: Apache-2.0
//
// tlc_arduino_app.hpp: the firmware application on an Arduino core: the device over a link, with its memory. Knows
// nothing of tlc_config.h; tlc_arduino_main.hpp makes one of these from it.
#ifndef TLC_ARDUINO_APP_HPP
#define TLC_ARDUINO_APP_HPP

#include <Arduino.h>

extern "C" {
#include "tlc/device.h"
}

#include "tlc_arduino_link.hpp"
#include "tlc_arduino_time.hpp"

namespace tlc {

// Bytes of each part of the one block that the device works in; all but arena and state may be 0.
struct Layout {
    uint32_t arena, state, message, output, values;

    static constexpr size_t round(uint32_t bytes) {
        return (static_cast<size_t>(bytes) + 15u) & ~static_cast<size_t>(15);
    }
    constexpr size_t bytes() const {
        return round(arena) + round(state) + round(message) + round(output) + round(values);
    }
};

struct Settings {
    // What the generated code and the user bring; the application fills in port, memory and reset_reason.
    tlc_device_config_t device;
    Layout layout;
    uint8_t *memory;     // (layout.bytes()) 16-byte aligned; NULL: from the heap
    uint32_t loop_stack; // bytes of stack that setup() and loop() have; 0: unknown
    int led;             // blinks when the board gives up; negative: none
};

class Application {
  public:
    // Words for people go to `console`: with a serial link the same line, before it carries frames.
    Application(Link &link, Print &console) : link_(link), console_(console) {}

    // From setup(), after the console was begun. Where something is missing it says so, every two seconds, and blinks
    // for ever.
    void setup(const Settings &settings);
    // From loop().
    void loop();

  private:
    void lay_out(uint8_t *memory);
    // wanted: bytes that the heap could not give, 0 where that is not the problem. Never returns.
    void halt(const char *problem, size_t wanted, int led);
    static Application &of(void *self) { return *static_cast<Application *>(self); }

    Link &link_;
    Print &console_;
    Clock clock_;
    tlc_port_t port_ = {};
    tlc_device_config_t config_ = {};
    Layout layout_ = {};
    uint32_t loop_stack_ = 0;
    tlc_device_t device_ = {};
};

} // namespace tlc

#endif // TLC_ARDUINO_APP_HPP
