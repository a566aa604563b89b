// SPDX-License-Identifier: Apache-2.0
#ifndef TLC_SHIM_ESP8266_MDNS_H
#define TLC_SHIM_ESP8266_MDNS_H

#include "ESPmDNS.h"

#endif // TLC_SHIM_ESP8266_MDNS_H
