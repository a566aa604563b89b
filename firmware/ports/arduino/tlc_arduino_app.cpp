// SPDX-License-Identifier: Apache-2.0
#if defined(ARDUINO)

#include "tlc_arduino_app.hpp"

#include "tlc_arduino_entropy.hpp"
#include "tlc_arduino_memory.hpp"
#include "tlc_arduino_reset.hpp"

namespace tlc {

namespace {

const char *status_text(tlc_status_t status) {
    switch (status) {
    case TLC_ERR_SIZE:
        return "the device refuses its buffers: TLC_LINK_WINDOW and TLC_LINK_FRAGMENT do not fit its memory";
    case TLC_ERR_ARG:
        return "the device refuses its settings: run tlc compile again";
    default:
        return "the device does not start: run tlc compile again";
    }
}

} // namespace

void Application::setup(const Settings &settings) {
    config_ = settings.device;
    layout_ = settings.layout;
    loop_stack_ = settings.loop_stack;
    clock_.begin();

    const char *problem = link_.begin(entropy());
    if (problem != nullptr) {
        halt(problem, 0, settings.led);
    }
    uint8_t *memory = settings.memory != nullptr ? settings.memory : allocate(layout_.bytes());
    if (memory == nullptr) {
        halt("no room for the arena", layout_.bytes(), settings.led);
    }

    port_.self = this;
    port_.read = [](void *self, uint8_t *bytes, size_t capacity) { return of(self).link_.read(bytes, capacity); };
    port_.write = [](void *self, const uint8_t *bytes, size_t count) { return of(self).link_.write(bytes, count); };
    port_.millis = [](void *self) { return of(self).clock_.millis(); };
    port_.ticks = [](void *self) { return of(self).clock_.ticks(); };
    port_.yield = [](void *self) { of(self).clock_.yield(); };
    port_.entropy = [](void *) { return entropy(); };

    config_.port = &port_;
    config_.reset_reason = static_cast<uint8_t>(reset_reason());
#if defined(ARDUINO_ARCH_ESP32)
    if (loop_stack_ > 0) {
        config_.stack_bytes = [](void *self) {
            return of(self).loop_stack_ - static_cast<uint32_t>(uxTaskGetStackHighWaterMark(nullptr));
        };
    }
#elif defined(ARDUINO_ARCH_ESP8266)
    if (loop_stack_ > 0) {
        config_.stack_bytes = [](void *self) { return of(self).loop_stack_ - ESP.getFreeContStack(); };
    }
#endif
    lay_out(memory);
    const tlc_status_t status = tlc_device_init(&device_, &config_);
    if (status != TLC_OK) {
        halt(status_text(status), 0, settings.led);
    }
}

void Application::lay_out(uint8_t *memory) {
    uint8_t *next = memory;
    const auto take = [&next](uint32_t bytes) {
        uint8_t *part = bytes > 0 ? next : nullptr;
        next += Layout::round(bytes);
        return part;
    };
    config_.arena = take(layout_.arena);
    config_.state = take(layout_.state);
    config_.message = take(layout_.message);
    config_.message_bytes = layout_.message;
    config_.output = take(layout_.output);
    config_.output_bytes = layout_.output;
    config_.values = reinterpret_cast<float *>(take(layout_.values));
    config_.value_count = layout_.values / static_cast<uint32_t>(sizeof(float));
}

void Application::loop() {
    link_.poll();
    if (!tlc_device_poll(&device_)) {
        clock_.idle();
    }
}

void Application::halt(const char *problem, size_t wanted, int led) {
    if (led >= 0) {
        pinMode(static_cast<uint8_t>(led), OUTPUT);
    }
    // Again and again: a monitor that is opened late must show it too.
    for (;;) {
        console_.print("tlc: cannot start: ");
        console_.print(problem);
        if (wanted > 0) {
            console_.print(": ");
            console_.print(static_cast<unsigned long>(wanted));
            console_.print(" bytes wanted, the heap's largest block has ");
            console_.print(static_cast<unsigned long>(largest_block()));
            console_.print("; compile with an earlier --cut, or for a larger board");
        }
        console_.println();
        for (int i = 0; i < 10; i++) {
            if (led >= 0) {
                digitalWrite(static_cast<uint8_t>(led), i % 2 == 0 ? HIGH : LOW);
            }
            delay(200);
        }
    }
}

} // namespace tlc

#endif // ARDUINO
