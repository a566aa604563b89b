// SPDX-License-Identifier: Apache-2.0
//
// wifi.cpp: an access point that can be out of reach, and TCP over this machine's sockets.
#if defined(ARDUINO_ARCH_ESP32) || defined(ARDUINO_ARCH_ESP8266)

#include "WiFi.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "shim.h"

WiFiClass WiFi;

namespace {

const unsigned long kJoinMs = 800; // until an access point in reach has let us in

bool in_reach() {
    const char *path = shim::setting("TLC_SHIM_AP", nullptr);
    return path == nullptr || access(path, F_OK) == 0;
}

} // namespace

bool IPAddress::fromString(const char *text) {
    in_addr address;
    if (inet_pton(AF_INET, text, &address) != 1) {
        return false;
    }
    address_ = address.s_addr;
    return true;
}

size_t IPAddress::printTo(Print &out) const {
    char text[INET_ADDRSTRLEN];
    in_addr address;
    address.s_addr = address_;
    return out.print(inet_ntop(AF_INET, &address, text, sizeof text));
}

bool WiFiClass::mode(wifi_mode_t mode) {
    station_ = mode == WIFI_STA;
    return true;
}

bool WiFiClass::setAutoReconnect(bool on) {
    auto_reconnect_ = on;
    return true;
}

wl_status_t WiFiClass::begin(const char *ssid, const char *password, int32_t) {
    shim::log("wifi_begin", ssid);
    const char *wanted = shim::setting("TLC_SHIM_PASSWORD", nullptr);
    refused_ = wanted != nullptr && (password == nullptr || strcmp(password, wanted) != 0);
    asked_ = station_;
    joined_ = false;
    asked_at_ = millis();
    return status();
}

bool WiFiClass::disconnect() {
    asked_ = false;
    joined_ = false;
    return true;
}

wl_status_t WiFiClass::status() {
    if (!asked_) {
        return WL_DISCONNECTED;
    }
    if (!in_reach()) {
        if (joined_ && !auto_reconnect_) {
            asked_ = false;
        }
        return joined_ ? WL_CONNECTION_LOST : WL_NO_SSID_AVAIL;
    }
    if (refused_) {
#if defined(ARDUINO_ARCH_ESP8266)
        return WL_WRONG_PASSWORD;
#else
        return WL_CONNECT_FAILED;
#endif
    }
    joined_ = joined_ || millis() - asked_at_ >= kJoinMs;
    return joined_ ? WL_CONNECTED : WL_IDLE_STATUS;
}

IPAddress WiFiClass::localIP() { return status() == WL_CONNECTED ? IPAddress(htonl(INADDR_LOOPBACK)) : IPAddress(); }

int WiFiClass::hostByName(const char *name, IPAddress &address) {
    addrinfo hints = {};
    hints.ai_family = AF_INET;
    addrinfo *found = nullptr;
    if (status() != WL_CONNECTED || getaddrinfo(name, nullptr, &hints, &found) != 0) {
        return 0;
    }
    address = IPAddress(reinterpret_cast<const sockaddr_in *>(found->ai_addr)->sin_addr.s_addr);
    freeaddrinfo(found);
    return 1;
}

WiFiClient::WiFiClient(int fd)
    : socket_(new int(fd), [](int *socket) {
          close(*socket);
          delete socket;
      }) {}

int WiFiClient::connect(IPAddress address, uint16_t port, int32_t timeout_ms) {
    sockaddr_in to = {};
    to.sin_family = AF_INET;
    to.sin_port = htons(port);
    to.sin_addr.s_addr = address;
    *this = WiFiClient(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    int error = 0;
    if (::connect(fd(), reinterpret_cast<const sockaddr *>(&to), sizeof to) != 0) {
        error = errno;
    }
    if (error == EINPROGRESS) {
        pollfd wait = {fd(), POLLOUT, 0};
        socklen_t size = sizeof error;
        if (::poll(&wait, 1, timeout_ms) <= 0) {
            error = ETIMEDOUT;
        } else {
            getsockopt(fd(), SOL_SOCKET, SO_ERROR, &error, &size);
        }
    }
    shim::log("tcp_connect", error == 0 ? "ok" : strerror(error));
    if (error != 0) {
        stop();
        return 0;
    }
    // Small, as lwIP's: a host that does not read is felt soon.
    const int window = 5744;
    setsockopt(fd(), SOL_SOCKET, SO_SNDBUF, &window, sizeof window);
    return 1;
}

void WiFiClient::stop() { socket_.reset(); }

uint8_t WiFiClient::connected() {
    uint8_t byte;
    const ssize_t count = recv(fd(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (count > 0 || (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))) {
        return 1;
    }
    stop(); // as the real one, which closes the socket when it finds it broken
    return 0;
}

int WiFiClient::available() {
    int count = 0;
    return ioctl(fd(), FIONREAD, &count) == 0 ? count : 0;
}

int WiFiClient::read() {
    uint8_t byte;
    return read(&byte, 1) == 1 ? byte : -1;
}

int WiFiClient::read(uint8_t *bytes, size_t count) { return static_cast<int>(recv(fd(), bytes, count, MSG_DONTWAIT)); }

size_t WiFiClient::readBytes(char *bytes, size_t count) {
    const int have = read(reinterpret_cast<uint8_t *>(bytes), count);
    return have < 0 ? 0u : static_cast<size_t>(have);
}

size_t WiFiClient::write(const uint8_t *bytes, size_t count) {
    // As the real one: waits for room, up to ten times a second.
    size_t done = 0;
    for (int tries = 0; fd() >= 0 && done < count && tries < 10;) {
        const ssize_t sent = send(fd(), bytes + done, count - done, MSG_DONTWAIT);
        if (sent > 0) {
            done += static_cast<size_t>(sent);
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            pollfd wait = {fd(), POLLOUT, 0};
            tries += ::poll(&wait, 1, 1000) == 0 ? 1 : 0;
        } else {
            stop();
        }
    }
    return done;
}

#if defined(ARDUINO_ARCH_ESP8266)

void WiFiClient::keepAlive(uint16_t idle_s, uint16_t interval_s, uint8_t tries) {
    const int on = 1;
    const int values[] = {idle_s, interval_s, tries};
    (void)setsockopt(fd(), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    (void)setsockopt(fd(), IPPROTO_TCP, TCP_KEEPIDLE, &values[0], sizeof(int));
    (void)setsockopt(fd(), IPPROTO_TCP, TCP_KEEPINTVL, &values[1], sizeof(int));
    (void)setsockopt(fd(), IPPROTO_TCP, TCP_KEEPCNT, &values[2], sizeof(int));
}

int WiFiClient::availableForWrite() {
    pollfd look = {fd(), POLLOUT, 0};
    return ::poll(&look, 1, 0) > 0 && (look.revents & (POLLERR | POLLHUP)) == 0 ? 536 : 0;
}

#endif

int WiFiClient::setNoDelay(bool no_delay) {
    const int on = no_delay ? 1 : 0;
    return setsockopt(fd(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

IPAddress WiFiClient::remoteIP() const {
    sockaddr_in peer = {};
    socklen_t size = sizeof peer;
    (void)getpeername(fd(), reinterpret_cast<sockaddr *>(&peer), &size);
    return IPAddress(peer.sin_addr.s_addr);
}

void WiFiServer::begin() {
    if (fd_ >= 0) {
        return;
    }
    fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    sockaddr_in here = {};
    here.sin_family = AF_INET;
    here.sin_port = htons(port_);
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int on = 1;
    (void)setsockopt(fd_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    const bool listening =
        bind(fd_, reinterpret_cast<const sockaddr *>(&here), sizeof here) == 0 && listen(fd_, 4) == 0;
    shim::log("tcp_listen", listening ? "ok" : strerror(errno));
}

#if defined(ARDUINO_ARCH_ESP8266)
WiFiClient WiFiServer::accept() {
#else
WiFiClient WiFiServer::available() {
#endif
    const int connection = accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    return connection < 0 ? WiFiClient() : WiFiClient(connection);
}

#endif
