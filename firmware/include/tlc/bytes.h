/* SPDX-License-Identifier: Apache-2.0
 *
 * bytes.h: little-endian fields at any alignment. The wire is little-endian; the CPU need not be.
 */
#ifndef TLC_BYTES_H
#define TLC_BYTES_H

#include <stdint.h>
#include <string.h>

static inline void tlc_put_u16(uint8_t *at, uint32_t value) {
    at[0] = (uint8_t)(value & 0xFFu);
    at[1] = (uint8_t)((value >> 8) & 0xFFu);
}

static inline void tlc_put_u24(uint8_t *at, uint32_t value) {
    tlc_put_u16(at, value);
    at[2] = (uint8_t)((value >> 16) & 0xFFu);
}

static inline void tlc_put_u32(uint8_t *at, uint32_t value) {
    tlc_put_u16(at, value);
    tlc_put_u16(at + 2, value >> 16);
}

static inline void tlc_put_u64(uint8_t *at, uint64_t value) {
    tlc_put_u32(at, (uint32_t)(value & 0xFFFFFFFFu));
    tlc_put_u32(at + 4, (uint32_t)(value >> 32));
}

static inline void tlc_put_f32(uint8_t *at, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    tlc_put_u32(at, bits);
}

static inline uint16_t tlc_get_u16(const uint8_t *at) { return (uint16_t)(at[0] | ((uint32_t)at[1] << 8)); }

static inline uint32_t tlc_get_u24(const uint8_t *at) { return tlc_get_u16(at) | ((uint32_t)at[2] << 16); }

static inline uint32_t tlc_get_u32(const uint8_t *at) { return tlc_get_u24(at) | ((uint32_t)at[3] << 24); }

static inline uint64_t tlc_get_u64(const uint8_t *at) {
    return tlc_get_u32(at) | ((uint64_t)tlc_get_u32(at + 4) << 32);
}

static inline float tlc_get_f32(const uint8_t *at) {
    const uint32_t bits = tlc_get_u32(at);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

#endif /* TLC_BYTES_H */
