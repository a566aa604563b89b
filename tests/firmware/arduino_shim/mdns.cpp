// SPDX-License-Identifier: Apache-2.0
//
// mdns.cpp: a network whose announcements stand in a file.
#if defined(ARDUINO_ARCH_ESP32) || defined(ARDUINO_ARCH_ESP8266)

#include "ESPmDNS.h"

#include <fstream>
#include <string.h>

#include "Arduino.h"
#include "shim.h"

MDNSResponder MDNS;

bool MDNSResponder::begin(const char *name) {
    name_ = name;
    shim::log("mdns_begin", name);
    return !name_.empty();
}

int MDNSResponder::queryService(const char *service, const char *protocol) {
    found_.clear();
    const bool ours = strcmp(service, "tlc") == 0 && strcmp(protocol, "tcp") == 0;
    const char *path = shim::setting("TLC_SHIM_MDNS", nullptr);
    if (!name_.empty() && ours && path != nullptr) {
        std::ifstream file(path);
        std::string text;
        for (unsigned port; file >> text >> port;) {
            IPAddress address;
            if (address.fromString(text.c_str())) {
                found_.emplace_back(address, static_cast<uint16_t>(port));
            }
        }
    }
    shim::log("mdns_query", found_.empty() ? "none" : "found");
    return static_cast<int>(found_.size());
}

// One machine is known, by one name.
IPAddress MDNSResponder::queryHost(const char *name) {
    IPAddress address;
    if (!name_.empty() && strcmp(name, "bench") == 0) {
        (void)address.fromString("127.0.0.1");
    }
    return address;
}

#endif
