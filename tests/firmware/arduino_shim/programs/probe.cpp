// SPDX-License-Identifier: Apache-2.0
//
// probe.cpp: tries out a link and the clock: one command byte, its 32-bit argument, an answer (little endian).
//   e n: echo the n bytes that follow     t n: let n ms pass; answers the cycles (64 bits) and the ms that passed
//   r: entropy
#include <Arduino.h>
#include <string.h>

#include "tlc_arduino_entropy.hpp"
#include "tlc_arduino_serial.hpp"
#include "tlc_arduino_time.hpp"
#if defined(PROBE_WIFI)
#include "tlc_arduino_wifi.hpp"
#include "tlc_secrets.h"
#endif

namespace {

tlc::Clock timer;
#if defined(PROBE_WIFI)
tlc::WifiLink line(tlc::WifiSettings(TLC_WIFI_SSID, TLC_WIFI_PASSWORD, TLC_WIFI_CHANNEL, TLC_HOST, TLC_HOST_PORT),
                   &Serial);
#else
tlc::SerialLink<HardwareSerial> line(Serial, PROBE_BAUD, PROBE_RX_BUFFER);
#endif

uint8_t command[5];
size_t have = 0;
uint32_t echoes = 0;

void send(const void *bytes, size_t count) {
    const uint8_t *next = static_cast<const uint8_t *>(bytes);
    while (count > 0) {
        const size_t sent = line.write(next, count);
        next += sent;
        count -= sent;
        line.poll();
    }
}

void answer(uint32_t value) {
    switch (command[0]) {
    case 'e':
        echoes = value;
        break;
    case 't': {
        const uint32_t start = timer.millis();
        const uint64_t before = timer.ticks();
        while (timer.millis() - start < value) {
            delay(1);
            timer.yield();
        }
        const uint64_t taken = timer.ticks() - before;
        value = timer.millis() - start;
        send(&taken, sizeof taken);
        send(&value, sizeof value);
        break;
    }
    case 'r':
        value = tlc::entropy();
        send(&value, sizeof value);
        break;
    default:
        break;
    }
}

} // namespace

void setup() {
#if defined(PROBE_WIFI)
    Serial.begin(115200);
#endif
    timer.begin();
    const char *problem = line.begin(tlc::entropy());
    if (problem != nullptr) {
        Serial.println(problem);
        for (;;) {
            delay(1000);
        }
    }
}

void loop() {
    line.poll();
    uint8_t bytes[64];
    const size_t count = line.read(bytes, echoes > 0 ? (echoes < sizeof bytes ? echoes : sizeof bytes) : 5u - have);
    if (count == 0) {
        timer.idle();
    } else if (echoes > 0) {
        send(bytes, count);
        echoes -= static_cast<uint32_t>(count);
    } else {
        memcpy(command + have, bytes, count);
        have += count;
        if (have == sizeof command) {
            uint32_t value;
            memcpy(&value, command + 1, sizeof value);
            have = 0;
            answer(value);
        }
    }
}
