// SPDX-License-Identifier: Apache-2.0
//
// tlc_arduino_wifi.hpp: the link over Wi-Fi: joins the network and then either connects to the host by TCP or, where no
// host is named, listens for it, one at a time. What fails is tried again after a growing and jittered wait. Joining
// happens in the background; looking up a name and connecting hold the loop for at most a few seconds (other tasks run
// meanwhile).
#ifndef TLC_ARDUINO_WIFI_HPP
#define TLC_ARDUINO_WIFI_HPP

#include <Arduino.h>

#if defined(ARDUINO_ARCH_ESP8266)
#include <ESP8266WiFi.h>
#include <ESP8266mDNS.h>
#else
#include <ESPmDNS.h>
#include <WiFi.h>
#endif

#include "tlc_arduino_backoff.hpp"
#include "tlc_arduino_link.hpp"

namespace tlc {

struct WifiSettings {
    const char *ssid;
    const char *password; // "" for an open network
    int32_t channel;      // 0: search all; a known one joins in about a second
    const char *host;     // name or IP; "_tlc._tcp": whoever announces that by mDNS; "": listen for the host
    uint16_t port;        // the host's; ours, where we listen
    uint32_t join_timeout_ms = 20000;
    uint32_t connect_timeout_ms = 3000;
    uint32_t stall_timeout_ms = 10000; // the host takes no bytes for so long: it is gone
    uint32_t retry_base_ms = 500;
    uint32_t retry_cap_ms = 30000;

    WifiSettings(const char *ssid_, const char *password_, int32_t channel_, const char *host_, uint16_t port_)
        : ssid(ssid_), password(password_), channel(channel_), host(host_), port(port_) {}
};

class WifiLink final : public Link {
  public:
    // What happens is told to `console` in lines that begin with "tlc: "; NULL: nowhere.
    WifiLink(const WifiSettings &settings, Print *console);

    const char *begin(uint32_t entropy) override;
    void poll() override;
    size_t read(uint8_t *bytes, size_t capacity) override;
    size_t write(const uint8_t *bytes, size_t count) override;
    bool connected() const { return state_ == State::Open; }

  private:
    enum class State {
        Away,    // not on the network, waiting to join
        Joining, // the network has been asked
        Joined,  // on the network, waiting to connect, or listening
        Open,    // connected to the host
    };

    void join();
    void wait_for_join();
    void connect();
    void accept();
    void open();
    bool listens() const { return settings_.host[0] == '\0'; }
    void begin_mdns();
    // Where the host is. NULL: found; else what is wrong.
    const char *find(IPAddress &address, uint16_t &port);
    void watch();
    void drop(const char *why);
    void retry(State state, const char *why);
    bool waited(uint32_t milliseconds) const;
    void enter(State state);

    WifiSettings settings_;
    Print *console_;
    WiFiServer server_;
    WiFiClient client_;
    Backoff backoff_;
    State state_ = State::Away;
    uint32_t since_ = 0;   // when the state was entered
    uint32_t wait_ = 0;    // Away, Joined: how long to stay
    uint32_t stalled_ = 0; // Open: when the host began to take nothing
    bool stalling_ = false;
    uint32_t name_ = 0; // of ours, for mDNS
    bool mdns_ = false; // it was begun
};

} // namespace tlc

#endif // TLC_ARDUINO_WIFI_HPP
