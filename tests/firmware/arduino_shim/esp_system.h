// SPDX-License-Identifier: Apache-2.0
#ifndef TLC_SHIM_ESP_SYSTEM_H
#define TLC_SHIM_ESP_SYSTEM_H

#include <stdint.h>

typedef enum {
    ESP_RST_UNKNOWN,
    ESP_RST_POWERON,
    ESP_RST_EXT,
    ESP_RST_SW,
    ESP_RST_PANIC,
    ESP_RST_INT_WDT,
    ESP_RST_TASK_WDT,
    ESP_RST_WDT,
    ESP_RST_DEEPSLEEP,
    ESP_RST_BROWNOUT,
    ESP_RST_SDIO,
} esp_reset_reason_t;

uint32_t esp_random(void);
// The setting TLC_SHIM_RESET, a number; 1 (power on) without it.
esp_reset_reason_t esp_reset_reason(void);

#endif // TLC_SHIM_ESP_SYSTEM_H
