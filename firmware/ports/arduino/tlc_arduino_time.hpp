// SPDX-License-Identifier: Apache-2.0
//
// tlc_arduino_time.hpp: the clock, the cycle counter, and giving way to the board's other tasks.
#ifndef TLC_ARDUINO_TIME_HPP
#define TLC_ARDUINO_TIME_HPP

#include <stdint.h>

namespace tlc {

class Clock {
  public:
    // Starts the cycle counter where it must be started.
    void begin();
    // Milliseconds since the board started; wraps at 2^32.
    uint32_t millis() const;
    // CPU cycles (ESP32, ESP8266, Cortex-M3 and above), else microseconds. The counter has 32 bits and wraps (18 s at
    // 240 MHz): yield() and idle() look at it often enough.
    uint64_t ticks();
    // Between layers: lets the system's tasks run. On ESP32 the watchdog wants the idle task of its core to run at
    // least once in 5 s; a delay(0) never reaches it, so a tick is slept every kRestMs. It costs 1 ms in each. On
    // ESP8266 this is what its watchdog of 3 s waits for: no layer may take that long there.
    void yield();
    // Nothing to do: sleeps up to about a millisecond where the core can.
    void idle();

    static constexpr uint32_t kRestMs = 500;

  private:
    uint32_t last_ = 0;   // the counter, as seen last
    uint64_t ticks_ = 0;  // and extended
    uint32_t rested_ = 0; // when the idle task ran last, milliseconds
};

} // namespace tlc

#endif // TLC_ARDUINO_TIME_HPP
