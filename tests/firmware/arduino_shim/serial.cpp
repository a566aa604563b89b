// SPDX-License-Identifier: Apache-2.0
//
// serial.cpp: a UART whose far end is a pseudo-terminal. A thread stands for the driver's interrupt: it takes bytes at
// the line's rate and loses those for which the buffer has no room.
#include "HardwareSerial.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <mutex>
#include <thread>

#include "Arduino.h"
#include "shim.h"

HardwareSerial Serial;

namespace {

#if defined(ARDUINO_ARCH_ESP32) || defined(ARDUINO_ARCH_ESP8266)
const size_t kHardwareFifo = 128;
const size_t kTxFifo = 128;
size_t rx_buffer = 256;
#elif defined(ARDUINO_ARCH_MBED)
const size_t kPacket = 64; // of USB
const size_t kHardwareFifo = kPacket;
const size_t kTxFifo = kPacket;
const size_t rx_buffer = 256;
#else
#ifndef SERIAL_RX_BUFFER_SIZE
#define SERIAL_RX_BUFFER_SIZE 64
#endif
const size_t kHardwareFifo = 1;
const size_t kTxFifo = 63;
const size_t rx_buffer = SERIAL_RX_BUFFER_SIZE - 1;
#endif

std::mutex lock;
std::deque<uint8_t> received;
size_t lost = 0;
int line = -1; // the pseudo-terminal's master
bool begun = false;
unsigned long rate = 0;  // bytes a second
uint64_t sent_until = 0; // when the send FIFO will be empty, the board's microseconds

void fail(const char *what) {
    perror(what);
    exit(3);
}

void receive() {
    uint8_t bytes[64];
    for (;;) {
        const ssize_t count = ::read(line, bytes, sizeof bytes);
        if (count <= 0) {
            if (count < 0 && errno == EINTR) {
                continue;
            }
            if (count < 0 && errno == EAGAIN) {
                pollfd wait = {line, POLLIN, 0};
                ::poll(&wait, 1, -1);
                continue;
            }
            fail("serial line");
        }
        shim::virtual_sleep_micros(static_cast<uint64_t>(count) * 1000000u / rate);
#if defined(ARDUINO_ARCH_MBED)
        // USB: the host is held back while there is no room.
        while (Serial.available() + static_cast<size_t>(count) > rx_buffer + kHardwareFifo) {
            shim::virtual_sleep_micros(100);
        }
#endif
        std::lock_guard<std::mutex> hold(lock);
        const size_t before = lost;
        for (ssize_t i = 0; i < count; i++) {
            if (received.size() < rx_buffer + kHardwareFifo) {
                received.push_back(bytes[i]);
            } else {
                lost++;
            }
        }
        if (lost != before) {
            char text[24];
            snprintf(text, sizeof text, "%zu", lost);
            shim::log("rx_lost", text);
        }
    }
}

void open_line(const char *path) {
    line = posix_openpt(O_RDWR | O_NOCTTY);
    if (line < 0 || grantpt(line) != 0 || unlockpt(line) != 0) {
        fail("posix_openpt");
    }
    const char *name = ptsname(line);
    // Kept open: without any holder of the far end a read of this one fails.
    const int far = open(name, O_RDWR | O_NOCTTY);
    termios raw;
    if (far < 0 || tcgetattr(far, &raw) != 0) {
        fail(name);
    }
    cfmakeraw(&raw);
    if (tcsetattr(far, TCSANOW, &raw) != 0 || fcntl(line, F_SETFL, O_NONBLOCK) != 0) {
        fail(name);
    }
    (void)unlink(path);
    if (symlink(name, path) != 0) {
        fail(path);
    }
    std::thread(receive).detach();
}

} // namespace

void HardwareSerial::begin(unsigned long baud) {
    if (begun) {
        return;
    }
    begun = true;
    rate = baud / 10u; // 8N1
    char text[64];
    snprintf(text, sizeof text, "%lu baud, %zu bytes", baud, static_cast<size_t>(rx_buffer));
    shim::log("serial", text);
    const char *path = shim::setting("TLC_SHIM_SERIAL", nullptr);
    if (path != nullptr) {
        open_line(path);
    }
}

#if defined(ARDUINO_ARCH_ESP32) || defined(ARDUINO_ARCH_ESP8266)
size_t HardwareSerial::setRxBufferSize(size_t bytes) {
    if (begun || bytes <= kHardwareFifo) {
        return 0; // as the real one: too late, or too small
    }
    rx_buffer = bytes;
    return bytes;
}
#endif

int HardwareSerial::available() {
    std::lock_guard<std::mutex> hold(lock);
    return static_cast<int>(received.size());
}

int HardwareSerial::read() {
    std::lock_guard<std::mutex> hold(lock);
    if (received.empty()) {
        return -1;
    }
    const int byte = received.front();
    received.pop_front();
    return byte;
}

size_t HardwareSerial::readBytes(char *bytes, size_t count) {
    size_t have = 0;
    const uint64_t start = shim::virtual_micros();
    while (have < count && shim::virtual_micros() - start < 1000000u) {
        const int byte = read();
        if (byte >= 0) {
            bytes[have++] = static_cast<char>(byte);
        } else {
            shim::virtual_sleep_micros(100);
        }
    }
    return have;
}

// Bytes that the transmitter can take now.
static size_t room() {
    if (!begun) {
        return 0;
    }
    const uint64_t now = shim::virtual_micros();
    const uint64_t queued = sent_until > now ? (sent_until - now) * rate / 1000000u : 0u;
    return queued >= kTxFifo ? 0 : static_cast<size_t>(kTxFifo - queued);
}

static void put(const uint8_t *bytes, size_t count) {
    if (line < 0) {
        fwrite(bytes, 1, count, stdout);
        fflush(stdout);
    } else if (::write(line, bytes, count) < 0 && errno == EAGAIN) {
        // The far end's buffer is full. A wire does not wait, but this machine may only be busy.
        pollfd wait = {line, POLLOUT, 0};
        if (::poll(&wait, 1, 20) > 0 && ::write(line, bytes, count) < 0) {
            shim::log("tx_lost", "");
        }
    }
    sent_until = std::max(sent_until, shim::virtual_micros()) + count * 1000000u / rate;
}

#if defined(ARDUINO_ARCH_MBED)

bool HardwareSerial::connected() const { return begun; }

// A packet, where none is on its way. The host's driver waits for a packet that is not full before it hands on what
// came.
void HardwareSerial::send_nb(uint8_t *bytes, uint32_t count, uint32_t *sent, bool) {
    static uint8_t held[16 * kPacket];
    static size_t holds = 0;
    *sent = room() == kPacket ? std::min<uint32_t>(count, kPacket) : 0u;
    std::copy(bytes, bytes + *sent, held + holds);
    holds += *sent;
    if (*sent < kPacket || holds + kPacket > sizeof held) {
        put(held, holds);
        holds = 0;
    }
}

#else

int HardwareSerial::availableForWrite() { return static_cast<int>(room()); }

#endif

size_t HardwareSerial::write(const uint8_t *bytes, size_t count) {
    if (!begun) {
        return 0;
    }
    // As the real one: what there is no room for is waited for.
    for (size_t done = 0; done < count;) {
        const size_t part = std::min(room(), count - done);
        if (part == 0) {
            shim::virtual_sleep_micros(100);
            continue;
        }
        put(bytes + done, part);
        done += part;
    }
    return count;
}
