// SPDX-License-Identifier: Apache-2.0
#ifndef TLC_SHIM_ESP_HEAP_CAPS_H
#define TLC_SHIM_ESP_HEAP_CAPS_H

#include <stddef.h>
#include <stdint.h>

#define MALLOC_CAP_8BIT (1u << 2)
#define MALLOC_CAP_SPIRAM (1u << 10)
#define MALLOC_CAP_INTERNAL (1u << 11)

void *heap_caps_malloc(size_t size, uint32_t caps);
size_t heap_caps_get_largest_free_block(uint32_t caps);

#endif // TLC_SHIM_ESP_HEAP_CAPS_H
