/* SPDX-License-Identifier: Apache-2.0
 *
 * rows.h: a weight tensor as a stream of rows, one an output channel. Raw weights are read where they lie;
 * entropy-packed ones are decoded a row at a time into a small scratch, never a whole tensor. Where only a slice of the
 * tensor learns, a row is put together there from the frozen one and the slice's.
 */
#ifndef TLC_ROWS_H
#define TLC_ROWS_H

#include <stddef.h>
#include <stdint.h>

typedef struct tlc_huffman tlc_huffman_t; /* the code of packed tensors: tlc/huffman.h */

/* What learns of a tensor: of rows [first, last), at each tap the channels [offset, offset + count) of `depth`. */
typedef struct {
    uint32_t first, last;
    uint32_t taps, depth, offset, count;
} tlc_slice_t;

typedef struct {
    const int8_t *next;        /* raw: the next row */
    uint32_t row_bytes;        /* weights in a row */
    const tlc_huffman_t *code; /* packed: its code; NULL: raw */
    const uint16_t *stream;    /* packed: the next word of the bit stream */
    int8_t *row;               /* packed or sliced: (row_bytes) scratch */
    uint32_t bits;             /* packed: the 16 to 32 bits read ahead, left-aligned, zeros behind them */
    int32_t room;              /* packed: 16 less their number */
    const tlc_slice_t *slice;  /* what learns; NULL: nothing, or all of it */
    const int8_t *learned;     /* sliced: (count of each tap) of the next row of the slice */
    uint32_t number;           /* sliced: of the next row */
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

/* The frozen tensor `rows` with what has been learned, (rows of the slice, taps, count), in its place. `scratch`: as
 * for packed rows, and the same where they are packed. */
static inline tlc_rows_t tlc_rows_sliced(tlc_rows_t rows, const tlc_slice_t *slice, const int8_t *learned,
                                         int8_t *scratch) {
    rows.row = scratch;
    rows.slice = slice;
    rows.learned = learned;
    return rows;
}

/* Whether they lie in memory as they are, one behind the other. */
static inline int tlc_rows_are_raw(const tlc_rows_t *rows) { return rows->code == NULL && rows->slice == NULL; }

/* Makes the next row of a packed or sliced tensor in `rows->row`. */
void tlc_rows_fetch(tlc_rows_t *rows);

/* The next row; valid until the next call. */
static inline const int8_t *tlc_rows_next(tlc_rows_t *rows) {
    if (tlc_rows_are_raw(rows)) {
        const int8_t *row = rows->next;
        rows->next += rows->row_bytes;
        return row;
    }
    tlc_rows_fetch(rows);
    return rows->row;
}

/* The next four rows, one behind the other; valid until the next call. `scratch` must have room for four. */
static inline const int8_t *tlc_rows_next_4(tlc_rows_t *rows) {
    if (tlc_rows_are_raw(rows)) {
        const int8_t *row = rows->next;
        rows->next += 4 * rows->row_bytes;
        return row;
    }
    int8_t *const first = rows->row;
    for (int i = 0; i < 4; ++i, rows->row += rows->row_bytes) {
        tlc_rows_fetch(rows);
    }
    rows->row = first;
    return first;
}

#endif /* TLC_ROWS_H */
