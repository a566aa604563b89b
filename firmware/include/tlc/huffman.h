/* SPDX-License-Identifier: Apache-2.0
 *
 * huffman.h: the code of packed weights, as the compiler lays it out in flash; several tensors may share one.
 *
 * Canonical Huffman, no code longer than 16 bits. The next `lookup_bits` bits of the stream find the codes
 * that are no longer than that at once; longer ones, which are rare, are told by comparison.
 *
 * The stream is an array of 16-bit words, each read from its most significant bit. The decoder may read one
 * word behind the last coded one, which the compiler adds, and never more.
 */
#ifndef TLC_HUFFMAN_H
#define TLC_HUFFMAN_H

#include <stdint.h>

#include "tlc/rows.h"

struct tlc_huffman {
    const int16_t *lookup; /* (1 << lookup_bits): length << 8 | value as a byte; where the code is longer than
                              lookup_bits, minus the shortest length of those that begin so */
    const uint16_t *last;  /* (lengths from `first` on): the greatest code, left-aligned, filled with ones */
    const uint8_t *base;   /* (lengths from `first` on): right-aligned code + base = index of its value, modulo 256 */
    const int8_t *symbols; /* (values with longer codes): values in the codes' order */
    uint8_t lookup_bits;   /* 1..16 */
    uint8_t first;         /* the shortest length above lookup_bits */
};

#endif /* TLC_HUFFMAN_H */
