// SPDX-License-Identifier: Apache-2.0
#ifndef TLC_SHIM_WIFI_CLIENT_H
#define TLC_SHIM_WIFI_CLIENT_H

#include <memory>

#include "IPAddress.h"
#include "Stream.h"

// A TCP connection over a real socket. Copies share it, as the real one's do.
class WiFiClient final : public Stream {
  public:
    WiFiClient() = default;
    explicit WiFiClient(int fd);

#if defined(ARDUINO_ARCH_ESP8266)
    int connect(IPAddress address, uint16_t port) { return connect(address, port, timeout_ms_); }
    void setTimeout(unsigned long milliseconds) { timeout_ms_ = static_cast<int32_t>(milliseconds); }
    void keepAlive(uint16_t idle_s, uint16_t interval_s, uint8_t tries);
    // What write() takes without waiting; 0 also where the connection is broken.
    int availableForWrite() override;
#else
    int connect(IPAddress address, uint16_t port, int32_t timeout_ms);
#endif
    void stop();
    uint8_t connected();
    int available() override;
    int read() override;
    int read(uint8_t *bytes, size_t count);
    size_t readBytes(char *bytes, size_t count) override;
    size_t write(uint8_t byte) override { return write(&byte, 1); }
    size_t write(const uint8_t *bytes, size_t count) override;
    using Print::write;
    int setNoDelay(bool no_delay);
    IPAddress remoteIP() const;

#if defined(ARDUINO_ARCH_ESP8266)
  private:
    int connect(IPAddress address, uint16_t port, int32_t timeout_ms);
    int32_t timeout_ms_ = 5000;
#endif
    int fd() const { return socket_ ? *socket_ : -1; }

  private:
    std::shared_ptr<int> socket_; // closes it with the last copy
};

// Takes connections without waiting.
class WiFiServer {
  public:
    explicit WiFiServer(uint16_t port) : port_(port) {}
    void begin();
    // The next connection that waits; one that is not connected where none does.
#if defined(ARDUINO_ARCH_ESP8266)
    WiFiClient accept();
#else
    WiFiClient available();
#endif

  private:
    uint16_t port_;
    int fd_ = -1;
};

#endif // TLC_SHIM_WIFI_CLIENT_H
