/* SPDX-License-Identifier: Apache-2.0
 *
 * crc32.h: the CRC-32 of zlib, Ethernet and PNG: polynomial 0x04C11DB7 reflected, initial value and
 * final xor 0xFFFFFFFF. The running value below is before the final xor.
 */
#ifndef TLC_CRC32_H
#define TLC_CRC32_H

#include <stddef.h>
#include <stdint.h>

/* 256: a table of 1 KiB in flash, one look-up a byte. 16: 64 bytes, two look-ups a byte. */
#ifndef TLC_CRC32_TABLE
#define TLC_CRC32_TABLE 256
#endif

#define TLC_CRC32_INIT 0xFFFFFFFFu
/* The running value after some bytes followed by their own CRC, little-endian. */
#define TLC_CRC32_RESIDUE 0xDEBB20E3u

extern const uint32_t tlc_crc32_table[TLC_CRC32_TABLE];

static inline uint32_t tlc_crc32_byte(uint32_t crc, uint8_t byte) {
#if TLC_CRC32_TABLE == 256
    return tlc_crc32_table[(crc ^ byte) & 0xFFu] ^ (crc >> 8);
#else
    crc ^= byte;
    crc = tlc_crc32_table[crc & 0xFu] ^ (crc >> 4);
    return tlc_crc32_table[crc & 0xFu] ^ (crc >> 4);
#endif
}

/* zlib's crc32(): 0 to begin with, the result of the call before to go on. */
uint32_t tlc_crc32(uint32_t crc, const uint8_t *bytes, size_t count);

#endif /* TLC_CRC32_H */
