// SPDX-License-Identifier: Apache-2.0
#if defined(ARDUINO)

// Cores whose Wi-Fi class is known; elsewhere this file is empty.
#if defined(ARDUINO_ARCH_ESP32) || defined(ARDUINO_ARCH_ESP8266)

#include "tlc_arduino_wifi.hpp"

#include <stdio.h>
#include <string.h>

#if defined(ARDUINO_ARCH_ESP32)
#include <errno.h>
#include <lwip/sockets.h>
#endif

namespace tlc {

namespace {

#if defined(ARDUINO_ARCH_ESP32)

// WiFiClient::write waits up to 10 s for room, so the bytes go to the socket themselves.
// Returns how many were taken, -1: the connection is broken.
int send_now(WiFiClient &client, const uint8_t *bytes, size_t count) {
    const int sent = static_cast<int>(::send(client.fd(), bytes, count, MSG_DONTWAIT));
    if (sent >= 0) {
        return sent;
    }
    return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -1;
}

// A host that lost its power sends no FIN: ask it after 10 s of silence, give up after 3 questions 5 s apart.
void keep_alive(WiFiClient &client) {
    const int on = 1;
    const int idle_s = 10;
    const int interval_s = 5;
    const int tries = 3;
    (void)::setsockopt(client.fd(), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    (void)::setsockopt(client.fd(), IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
    (void)::setsockopt(client.fd(), IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
    (void)::setsockopt(client.fd(), IPPROTO_TCP, TCP_KEEPCNT, &tries, sizeof tries);
}

bool connect_now(WiFiClient &client, const IPAddress &address, uint16_t port, uint32_t timeout_ms) {
    return client.connect(address, port, static_cast<int32_t>(timeout_ms)) != 0;
}

#else

int send_now(WiFiClient &client, const uint8_t *bytes, size_t count) {
    const size_t room = static_cast<size_t>(client.availableForWrite());
    if (room == 0) {
        return client.connected() ? 0 : -1;
    }
    return static_cast<int>(client.write(bytes, room < count ? room : count));
}

void keep_alive(WiFiClient &client) { client.keepAlive(10, 5, 3); } // as above

bool connect_now(WiFiClient &client, const IPAddress &address, uint16_t port, uint32_t timeout_ms) {
    client.setTimeout(timeout_ms); // milliseconds on this core
    return client.connect(address, port) != 0;
}

#endif

const char kService[] = "_tlc._tcp";

IPAddress service_address(int index) {
#if defined(ESP_ARDUINO_VERSION_MAJOR) && ESP_ARDUINO_VERSION_MAJOR >= 3
    return MDNS.address(index);
#else
    return MDNS.IP(index);
#endif
}

#if defined(ARDUINO_ARCH_ESP32)
// "bench" of "bench.local", which mDNS knows and no name server; false: another name.
bool local_name(const char *host, char *name, size_t capacity) {
    const char suffix[] = ".local";
    const size_t length = strlen(host);
    const size_t cut = sizeof suffix - 1;
    if (length <= cut || length - cut >= capacity || strcmp(host + length - cut, suffix) != 0) {
        return false;
    }
    memcpy(name, host, length - cut);
    name[length - cut] = '\0';
    return true;
}
#endif

const char *join_problem() {
    switch (WiFi.status()) {
    case WL_NO_SSID_AVAIL:
        return "no such network in reach; look at TLC_WIFI_SSID (2.4 GHz only) and TLC_WIFI_CHANNEL";
#if defined(ARDUINO_ARCH_ESP8266)
    case WL_WRONG_PASSWORD:
#endif
    case WL_CONNECT_FAILED:
        return "the network refuses us; look at TLC_WIFI_PASSWORD";
    default:
        return "the network does not answer in time";
    }
}

} // namespace

WifiLink::WifiLink(const WifiSettings &settings, Print *console)
    : settings_(settings), console_(console), server_(settings.port),
      backoff_(settings.retry_base_ms, settings.retry_cap_ms) {}

const char *WifiLink::begin(uint32_t entropy) {
    backoff_.seed(entropy);
    name_ = entropy;
    if (settings_.ssid[0] == '\0' || settings_.port == 0) {
        return "include/tlc_secrets.h leaves TLC_WIFI_SSID empty, or TLC_HOST_PORT 0";
    }
    wait_ = 0;
    enter(State::Away);
    return nullptr;
}

void WifiLink::poll() {
    switch (state_) {
    case State::Away:
        if (waited(wait_)) {
            join();
        }
        break;
    case State::Joining:
        wait_for_join();
        break;
    case State::Joined:
        if (WiFi.status() != WL_CONNECTED) {
            retry(State::Away, "the network is lost");
        } else if (listens()) {
            accept();
        } else if (waited(wait_)) {
            connect();
        }
        break;
    case State::Open:
        watch();
        break;
    }
}

size_t WifiLink::read(uint8_t *bytes, size_t capacity) {
    if (state_ != State::Open || capacity == 0) {
        return 0;
    }
    const int waiting = client_.available();
    if (waiting <= 0) {
        return 0;
    }
    const int count =
        client_.read(bytes, static_cast<size_t>(waiting) < capacity ? static_cast<size_t>(waiting) : capacity);
    if (count <= 0) {
        return 0;
    }
    backoff_.reset(); // only now: a host that accepts and hangs up is no host yet
    return static_cast<size_t>(count);
}

size_t WifiLink::write(const uint8_t *bytes, size_t count) {
    if (state_ != State::Open) {
        return count; // lost, as on a line with no cable: the link sends again, and holds no half of an old frame
    }
    if (count == 0) {
        return 0;
    }
    const int sent = send_now(client_, bytes, count);
    if (sent < 0) {
        drop("the connection broke");
        return count;
    }
    if (sent > 0) {
        stalling_ = false;
    } else if (!stalling_) {
        stalling_ = true;
        stalled_ = static_cast<uint32_t>(millis());
    } else if (static_cast<uint32_t>(millis()) - stalled_ >= settings_.stall_timeout_ms) {
        drop("the host takes no bytes");
    }
    return static_cast<size_t>(sent);
}

void WifiLink::join() {
    if (console_ != nullptr) {
        console_->print("tlc: joining Wi-Fi ");
        console_->println(settings_.ssid);
    }
    WiFi.persistent(false); // the password stays out of the flash's settings sector
    WiFi.mode(WIFI_STA);
    WiFi.setAutoReconnect(false); // one retry policy, ours
    // Modem sleep adds up to a beacon interval (100 ms) to each message.
#if defined(ARDUINO_ARCH_ESP32)
    WiFi.setSleep(false);
#else
    WiFi.setSleepMode(WIFI_NONE_SLEEP);
#endif
    const char *password = settings_.password[0] == '\0' ? nullptr : settings_.password;
    WiFi.begin(settings_.ssid, password, settings_.channel);
    enter(State::Joining);
}

void WifiLink::wait_for_join() {
    if (WiFi.status() == WL_CONNECTED) {
        if (console_ != nullptr) {
            console_->print("tlc: on the network as ");
            console_->println(WiFi.localIP());
        }
        if (listens()) {
            server_.begin();
            if (console_ != nullptr) {
                console_->print("tlc: waiting for the host: --device tcp://");
                console_->print(WiFi.localIP());
                console_->print(":");
                console_->println(static_cast<unsigned>(settings_.port));
            }
        }
        wait_ = 0;
        enter(State::Joined);
    } else if (waited(settings_.join_timeout_ms)) {
        const char *why = join_problem(); // before disconnect() overwrites it
        (void)WiFi.disconnect();
        retry(State::Away, why);
    }
}

void WifiLink::begin_mdns() {
    if (!mdns_) {
        char name[16];
        (void)snprintf(name, sizeof name, "tlc-%08lx", static_cast<unsigned long>(name_));
        mdns_ = MDNS.begin(name);
    }
}

const char *WifiLink::find(IPAddress &address, uint16_t &port) {
    port = settings_.port;
    if (strcmp(settings_.host, kService) == 0) {
        begin_mdns();
        const int count = static_cast<int>(MDNS.queryService("tlc", "tcp"));
        if (count <= 0) {
            return "no host announces _tlc._tcp here; on the host: tlc serve --device listen://0.0.0.0:7777";
        }
        // One that is announced and does not answer is not tried for ever.
        const int chosen = static_cast<int>(backoff_.failures() % static_cast<uint32_t>(count));
        address = service_address(chosen);
        port = MDNS.port(chosen);
        return nullptr;
    }
    if (address.fromString(settings_.host)) {
        return nullptr;
    }
#if defined(ARDUINO_ARCH_ESP32)
    char name[64];
    if (local_name(settings_.host, name, sizeof name)) {
        begin_mdns();
        address = MDNS.queryHost(name);
        return address != IPAddress() ? nullptr : "no machine of the name TLC_HOST answers by mDNS";
    }
#endif
    return WiFi.hostByName(settings_.host, address) == 1 ? nullptr : "the name server does not know TLC_HOST";
}

void WifiLink::connect() {
    IPAddress address;
    uint16_t port = 0;
    const char *problem = find(address, port);
    if (problem != nullptr) {
        retry(State::Joined, problem);
        return;
    }
    if (!connect_now(client_, address, port, settings_.connect_timeout_ms)) {
        client_.stop();
        retry(State::Joined, "the host does not answer; does something listen there, and is the port open?");
        return;
    }
    open();
}

void WifiLink::accept() {
#if defined(ARDUINO_ARCH_ESP8266)
    client_ = server_.accept();
#else
    client_ = server_.available();
#endif
    if (client_.connected()) {
        open();
    }
}

void WifiLink::open() {
    client_.setNoDelay(true); // small messages, each waited for
    keep_alive(client_);
    stalling_ = false;
    enter(State::Open);
    if (console_ != nullptr) {
        console_->print("tlc: connected to ");
        console_->println(client_.remoteIP());
    }
}

void WifiLink::watch() {
    if (WiFi.status() != WL_CONNECTED) {
        client_.stop();
        retry(State::Away, "the network is lost");
    } else if (!client_.connected() && client_.available() <= 0) {
        drop("the host closed the connection");
    }
}

void WifiLink::drop(const char *why) {
    client_.stop();
    retry(State::Joined, why);
}

void WifiLink::retry(State state, const char *why) {
    if (listens() && state == State::Joined) {
        enter(state); // it is the host that comes again
        if (console_ != nullptr) {
            console_->print("tlc: ");
            console_->println(why);
        }
        return;
    }
    wait_ = backoff_.next();
    enter(state);
    if (console_ != nullptr) {
        console_->print("tlc: ");
        console_->print(why);
        console_->print("; again in ");
        console_->print(static_cast<unsigned long>(wait_));
        console_->println(" ms");
    }
}

bool WifiLink::waited(uint32_t milliseconds) const { return static_cast<uint32_t>(millis()) - since_ >= milliseconds; }

void WifiLink::enter(State state) {
    state_ = state;
    since_ = static_cast<uint32_t>(millis());
}

} // namespace tlc

#endif
#endif // ARDUINO
