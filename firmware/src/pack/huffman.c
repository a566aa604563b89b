/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "tlc/huffman.h"
#include "tlc/rows.h"

#if defined(__GNUC__)
#define NEVER_INLINE __attribute__((noinline)) /* inlined, the rare case takes registers from the frequent one */
#else
#define NEVER_INLINE
#endif

/* length << 8 | value of a code that is at least `length` bits long; `ahead`: the next 16 bits. The greatest code
 * of the last length is 0xFFFF, so the search always ends. */
static NEVER_INLINE int32_t longer_code(const tlc_huffman_t *code, uint32_t ahead, uint32_t length) {
    const uint16_t *last = code->last + (length - code->first);
    while (ahead > *last) {
        ++last;
        ++length;
    }
    const uint8_t index = (uint8_t)((ahead >> (16u - length)) + code->base[length - code->first]);
    return (int32_t)(length << 8 | (uint8_t)code->symbols[index]);
}

static void decode(tlc_rows_t *rows) {
    const tlc_huffman_t *const code = rows->code;
    const int16_t *const lookup = code->lookup;
    const uint32_t unused = 32u - code->lookup_bits;
    const uint16_t *stream = rows->stream;
    uint32_t bits = rows->bits;
    int32_t room = rows->room;
    uint8_t *row = (uint8_t *)rows->row;
    const uint8_t *const end = row + rows->row_bytes;
    while (row != end) {
        int32_t entry = lookup[bits >> unused];
        if (entry < 0) {
            entry = longer_code(code, bits >> 16, (uint32_t)-entry);
        }
        *row++ = (uint8_t)entry;
        bits <<= entry >> 8;
        room += entry >> 8;
        if (room > 0) {
            bits |= (uint32_t)*stream++ << room;
            room -= 16;
        }
    }
    rows->stream = stream;
    rows->bits = bits;
    rows->room = room;
}

void tlc_rows_fetch(tlc_rows_t *rows) {
    if (rows->code != NULL) {
        decode(rows);
    } else {
        memcpy(rows->row, rows->next, rows->row_bytes);
        rows->next += rows->row_bytes;
    }
    const tlc_slice_t *const slice = rows->slice;
    if (slice == NULL) {
        return;
    }
    if (rows->number >= slice->first && rows->number < slice->last) {
        int8_t *to = rows->row + slice->offset;
        for (uint32_t tap = 0; tap < slice->taps; ++tap, to += slice->depth, rows->learned += slice->count) {
            memcpy(to, rows->learned, slice->count);
        }
    }
    ++rows->number;
}
