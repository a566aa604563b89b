// SPDX-License-Identifier: Apache-2.0
#ifndef TLC_SHIM_ESP_PARTITION_H
#define TLC_SHIM_ESP_PARTITION_H

#include <stddef.h>
#include <stdint.h>

typedef int esp_err_t;
#define ESP_OK 0
#define ESP_ERR_INVALID_ARG 0x102
#define ESP_ERR_INVALID_SIZE 0x104

typedef enum { ESP_PARTITION_TYPE_APP = 0, ESP_PARTITION_TYPE_DATA = 1 } esp_partition_type_t;
typedef enum { ESP_PARTITION_SUBTYPE_ANY = 0xFF } esp_partition_subtype_t;

typedef struct {
    uint32_t size;
    char label[17];
} esp_partition_t;

// There is one, "tlc", where the setting TLC_SHIM_FLASH names a file.
const esp_partition_t *esp_partition_find_first(esp_partition_type_t type, esp_partition_subtype_t subtype,
                                                const char *label);
esp_err_t esp_partition_read(const esp_partition_t *partition, size_t offset, void *bytes, size_t count);
// Clears bits.
esp_err_t esp_partition_write(const esp_partition_t *partition, size_t offset, const void *bytes, size_t count);
// Whole sectors of 4096 bytes.
esp_err_t esp_partition_erase_range(const esp_partition_t *partition, size_t offset, size_t count);

#endif // TLC_SHIM_ESP_PARTITION_H
