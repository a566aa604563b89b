// SPDX-License-Identifier: Apache-2.0
#ifndef TLC_SHIM_HARDWARE_SERIAL_H
#define TLC_SHIM_HARDWARE_SERIAL_H

#include "Stream.h"

class HardwareSerial final : public Stream {
  public:
    void begin(unsigned long baud);
#if defined(ARDUINO_ARCH_ESP32) || defined(ARDUINO_ARCH_ESP8266)
    size_t setRxBufferSize(size_t bytes);
#endif
    int available() override;
    int read() override;
    size_t readBytes(char *bytes, size_t count) override;
#if defined(ARDUINO_ARCH_MBED)
    // USB CDC: availableForWrite() stays Print's.
    bool connected() const;
    void send_nb(uint8_t *bytes, uint32_t count, uint32_t *sent, bool now = true);
#else
    int availableForWrite() override;
#endif
    size_t write(uint8_t byte) override { return write(&byte, 1); }
    size_t write(const uint8_t *bytes, size_t count) override;
    using Print::write;
    operator bool() const { return true; }
};

extern HardwareSerial Serial;

#endif // TLC_SHIM_HARDWARE_SERIAL_H
