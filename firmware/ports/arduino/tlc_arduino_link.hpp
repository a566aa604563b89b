// SPDX-License-Identifier: Apache-2.0
//
// tlc_arduino_link.hpp: what carries the bytes: a serial line or a TCP connection. Nothing here waits: every call
// takes or gives what it can at once (a TCP connect excepted, see tlc_arduino_wifi.hpp).
#ifndef TLC_ARDUINO_LINK_HPP
#define TLC_ARDUINO_LINK_HPP

#include <stddef.h>
#include <stdint.h>

namespace tlc {

class Link {
  public:
    // Once, in setup(). NULL: it works; else what to tell the person at the console. Takes no large block of the heap:
    // the arena may have to come from there after it (Wi-Fi starts with the first poll).
    virtual const char *begin(uint32_t entropy) = 0;
    // In every round of loop(): opens and reopens the connection where there is one.
    virtual void poll() {}
    // As tlc_port_t's: at once, 0 where nothing can be done now. Bytes written while there is no connection are lost.
    virtual size_t read(uint8_t *bytes, size_t capacity) = 0;
    virtual size_t write(const uint8_t *bytes, size_t count) = 0;

  protected:
    ~Link() = default; // links are members or static; none is deleted through this class
};

} // namespace tlc

#endif // TLC_ARDUINO_LINK_HPP
