// SPDX-License-Identifier: Apache-2.0
//
// tlc_arduino_serial.hpp: the link over a serial line: any core's Serial class, a UART or USB CDC. A template and not
// a Stream&, because not every core declares availableForWrite() virtual, and the sizes of buffers are set by methods
// that only some classes have.
#ifndef TLC_ARDUINO_SERIAL_HPP
#define TLC_ARDUINO_SERIAL_HPP

#include <Arduino.h>
#include <string.h>

#include "tlc_arduino_link.hpp"

namespace tlc {

namespace detail {

// Sets the receive buffer in the way that the class knows. False: it refused the size.
template <class Port>
auto set_rx_buffer(Port &port, size_t bytes, int) -> decltype(port.setRxBufferSize(bytes), bool()) {
    return port.setRxBufferSize(bytes) != 0; // ESP32 (refuses 128 and less), ESP8266
}
template <class Port> auto set_rx_buffer(Port &port, size_t bytes, long) -> decltype(port.setFIFOSize(bytes), bool()) {
    return port.setFIFOSize(bytes); // RP2040
}
template <class Port> bool set_rx_buffer(Port &, size_t, ...) {
    return true; // STM32: -DSERIAL_RX_BUFFER_SIZE in platformio.ini; USB CDC: fixed, but the host is held back
}

// Takes what it can at once. Returns how much.
#if defined(ARDUINO_ARCH_MBED)
// mbed's classes leave availableForWrite() as Print has it: it is always 0, and write() waits until all is gone.
// USB CDC (Nano 33 BLE, Pico) can send what there is room for. Never a whole packet of 64 bytes: the host would wait
// for one that is not full. Without a host the bytes are lost, as on a line with no cable.
template <class Port>
auto write_some(Port &port, const uint8_t *bytes, size_t count, int)
    -> decltype(port.send_nb(nullptr, 0u, nullptr, true), size_t()) {
    constexpr size_t kPiece = 63;
    if (!port.connected()) {
        return count;
    }
    uint8_t piece[kPiece]; // it takes no const
    const size_t some = count < kPiece ? count : kPiece;
    memcpy(piece, bytes, some);
    uint32_t sent = 0;
    port.send_nb(piece, static_cast<uint32_t>(some), &sent, true);
    return sent;
}
// A UART of it waits: for so few bytes not long.
template <class Port> size_t write_some(Port &port, const uint8_t *bytes, size_t count, long) {
    constexpr size_t kPiece = 16;
    return count == 0 ? 0 : port.write(bytes, count < kPiece ? count : kPiece);
}
#else
template <class Port> size_t write_some(Port &port, const uint8_t *bytes, size_t count, int) {
    const int room = port.availableForWrite();
    if (room <= 0) {
        return 0;
    }
    return port.write(bytes, static_cast<size_t>(room) < count ? static_cast<size_t>(room) : count);
}
#endif

} // namespace detail

template <class Port> class SerialLink final : public Link {
  public:
    // rx_buffer: bytes that may wait while a layer computes. What comes beyond them is lost, found missing by the
    // link's checksum, and sent again.
    SerialLink(Port &port, uint32_t baud, size_t rx_buffer) : port_(port), baud_(baud), rx_buffer_(rx_buffer) {}

    const char *begin(uint32_t) override {
        // Before begin(): the driver allocates the buffer there.
        const bool sized = detail::set_rx_buffer(port_, rx_buffer_, 0);
        port_.begin(baud_);
        return sized ? nullptr : "the serial driver refuses TLC_UART_RX_BUFFER; use more than 128 bytes";
    }

    size_t read(uint8_t *bytes, size_t capacity) override {
        const int waiting = port_.available();
        if (waiting <= 0) {
            return 0;
        }
        // Never more than what is there: readBytes would wait for the rest.
        const size_t count = static_cast<size_t>(waiting) < capacity ? static_cast<size_t>(waiting) : capacity;
        return port_.readBytes(reinterpret_cast<char *>(bytes), count);
    }

    size_t write(const uint8_t *bytes, size_t count) override { return detail::write_some(port_, bytes, count, 0); }

  private:
    Port &port_;
    uint32_t baud_;
    size_t rx_buffer_;
};

} // namespace tlc

#endif // TLC_ARDUINO_SERIAL_HPP
