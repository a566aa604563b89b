// SPDX-License-Identifier: Apache-2.0
#ifndef TLC_SHIM_ESP8266_WIFI_H
#define TLC_SHIM_ESP8266_WIFI_H

#include "WiFi.h"

#endif // TLC_SHIM_ESP8266_WIFI_H
