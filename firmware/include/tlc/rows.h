/* SPDX-License-Identifier: Apache-2.0
 *
 * rows.h: a weight tensor as a stream of rows, one an output channel. Raw weights are read where they lie;
 * entropy-packed ones are decoded a row at a time into a small scratch, never a whole tensor.
 */
#ifndef TLC_ROWS_H
#define TLC_ROWS_H

#include <stddef.h>
#include <stdint.h>

typedef struct tlc_huffman tlc_huffman_t; /* the code of packed tensors: tlc/huffman.h */

typedef struct {
    const int8_t *next;        /* raw: the next row */
    uint32_t row_bytes;        /* weights in a row */
    const tlc_huffman_t *code; /* packed: its code; NULL: raw */
    const uint16_t *stream;    /* packed: the next word of the bit stream */
    int8_t *row;               /* packed: (row_bytes) scratch */
    uint32_t bits;             /* packed: the 16 to 32 bits read ahead, left-aligned, zeros behind them */
    int32_t room;              /* packed: 16 less their number */
} tlc_rows_t;

static inline tlc_rows_t tlc_rows_raw(const int8_t *weights, uint32_t row_bytes) {
    return (tlc_rows_t){.next = weights, .row_bytes = row_bytes};
}

/* `scratch` (row_bytes) holds one decoded row; it belongs to these rows until the last one has been used. */
static inline tlc_rows_t tlc_rows_packed(const uint16_t *stream, uint32_t row_bytes, const tlc_huffman_t *code,
                                         int8_t *scratch) {
    return (tlc_rows_t){
        .row_bytes = row_bytes, .code = code, .stream = stream + 1, .row = scratch, .bits = (uint32_t)stream[0] << 16};
}

/* Decodes the next row of a packed tensor into `rows->row`. */
void tlc_rows_decode(tlc_rows_t *rows);

/* The next row; valid until the next call. */
static inline const int8_t *tlc_rows_next(tlc_rows_t *rows) {
    if (rows->code == NULL) {
        const int8_t *row = rows->next;
        rows->next += rows->row_bytes;
        return row;
    }
    tlc_rows_decode(rows);
    return rows->row;
}

#endif /* TLC_ROWS_H */
