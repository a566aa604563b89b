// SPDX-License-Identifier: Apache-2.0
#ifndef TLC_SHIM_WIFI_H
#define TLC_SHIM_WIFI_H

#include "Arduino.h"
#include "WiFiClient.h"

typedef enum {
    WL_IDLE_STATUS = 0,
    WL_NO_SSID_AVAIL = 1,
    WL_CONNECTED = 3,
    WL_CONNECT_FAILED = 4,
    WL_CONNECTION_LOST = 5,
#if defined(ARDUINO_ARCH_ESP8266)
    WL_WRONG_PASSWORD = 6,
    WL_DISCONNECTED = 7,
#else
    WL_DISCONNECTED = 6,
#endif
} wl_status_t;

typedef enum { WIFI_OFF = 0, WIFI_STA = 1 } wifi_mode_t;
#if defined(ARDUINO_ARCH_ESP8266)
typedef enum { WIFI_NONE_SLEEP = 0 } WiFiSleepType_t;
#endif

class WiFiClass {
  public:
    bool mode(wifi_mode_t mode);
    void persistent(bool) {}
    bool setAutoReconnect(bool on);
#if defined(ARDUINO_ARCH_ESP8266)
    bool setSleepMode(WiFiSleepType_t) { return true; }
#else
    bool setSleep(bool) { return true; }
#endif
    wl_status_t begin(const char *ssid, const char *password = nullptr, int32_t channel = 0);
    bool disconnect();
    wl_status_t status();
    IPAddress localIP();
    int hostByName(const char *name, IPAddress &address);

  private:
    bool station_ = false;
    bool auto_reconnect_ = true;
    bool asked_ = false;
    bool refused_ = false;
    bool joined_ = false;
    unsigned long asked_at_ = 0;
};

extern WiFiClass WiFi;

#endif // TLC_SHIM_WIFI_H
