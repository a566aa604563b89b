/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows of weights: raw ones where they lie, packed ones as the compiler's encoder made them. The streams have exactly
 * their documented length, so that AddressSanitizer sees any word read beyond it.
 */
#include <stdint.h>
#include <string.h>

#include "check.h"
#include "huffman_vectors.h"
#include "tlc/huffman.h"
#include "tlc/rows.h"

static void test_raw(void) {
    static const int8_t weights[6] = {1, -2, 3, -4, 127, -128};
    tlc_rows_t rows = tlc_rows_raw(weights, 2);
    for (unsigned row = 0; row < 3; ++row) {
        CHECK(tlc_rows_next(&rows) == weights + row * 2);
    }
}

/* 0: "0", 1: "10", -1: "110", 5: "111"; a look-up of one bit finds only the first. */
static void test_by_hand(void) {
    static const int16_t lookup[2] = {1 << 8, -2};
    static const uint16_t last[2] = {0xBFFF, 0xFFFF};
    static const uint8_t base[2] = {256 - 2, 256 - 6 + 1};
    static const int8_t symbols[3] = {1, -1, 5};
    static const tlc_huffman_t code = {lookup, last, base, symbols, 1, 2};
    static const uint16_t stream[2] = {0xEB00, 0x0000}; /* 111 0 10 110: 5 0 | 1 -1 */
    int8_t scratch[2];
    tlc_rows_t rows = tlc_rows_packed(stream, 2, &code, scratch);
    const int8_t *row = tlc_rows_next(&rows);
    CHECK(row == scratch && row[0] == 5 && row[1] == 0);
    row = tlc_rows_next(&rows);
    CHECK(row == scratch && row[0] == 1 && row[1] == -1);
}

static void test_vector(const huffman_vector_t *vector) {
    int8_t row_and_guard[HUFFMAN_VECTOR_MAX_ROW + 1];
    tlc_rows_t rows = tlc_rows_packed(vector->stream, vector->row_bytes, vector->code, row_and_guard);
    row_and_guard[vector->row_bytes] = 42;
    for (uint32_t row = 0; row < vector->rows; ++row) {
        const int8_t *decoded = tlc_rows_next(&rows);
        CHECK(memcmp(decoded, vector->values + row * vector->row_bytes, vector->row_bytes) == 0);
    }
    CHECK(row_and_guard[vector->row_bytes] == 42);
    CHECK(rows.stream <= vector->stream + vector->words);
}

/* A copy goes on by itself: the state is a plain value. */
static void test_copy(const huffman_vector_t *vector) {
    int8_t first[HUFFMAN_VECTOR_MAX_ROW], second[HUFFMAN_VECTOR_MAX_ROW];
    tlc_rows_t rows = tlc_rows_packed(vector->stream, vector->row_bytes, vector->code, first);
    (void)tlc_rows_next(&rows);
    tlc_rows_t copy = rows;
    copy.row = second;
    for (uint32_t row = 1; row < vector->rows; ++row) {
        CHECK(memcmp(tlc_rows_next(&rows), tlc_rows_next(&copy), vector->row_bytes) == 0);
    }
}

/* Channels 1 and 2 of 3 at both taps, of the second and third row of four, have been learned. */
static void test_slice(void) {
    static const int8_t frozen[4 * 6] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11,
                                         12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23};
    static const int8_t learned[2 * 4] = {-1, -2, -3, -4, -5, -6, -7, -8};
    static const int8_t wanted[4 * 6] = {0,  1,  2,  3,  4,  5,  6,  -1, -2, 9,  -3, -4,
                                         12, -5, -6, 15, -7, -8, 18, 19, 20, 21, 22, 23};
    static const tlc_slice_t slice = {.first = 1, .last = 3, .taps = 2, .depth = 3, .offset = 1, .count = 2};
    int8_t scratch[4 * 6];
    tlc_rows_t rows = tlc_rows_sliced(tlc_rows_raw(frozen, 6), &slice, learned, scratch);
    for (unsigned row = 0; row < 4; ++row) {
        CHECK(memcmp(tlc_rows_next(&rows), wanted + 6 * row, 6) == 0);
    }
    CHECK(!tlc_rows_are_raw(&rows));
    rows = tlc_rows_sliced(tlc_rows_raw(frozen, 6), &slice, learned, scratch);
    CHECK(memcmp(tlc_rows_next_4(&rows), wanted, sizeof wanted) == 0);
    static const int8_t five[5 * 6] = {0};
    tlc_rows_t raw = tlc_rows_raw(five, 6);
    CHECK(tlc_rows_next_4(&raw) == five && tlc_rows_next(&raw) == five + 24);
}

int main(void) {
    test_raw();
    test_slice();
    test_by_hand();
    for (uint32_t i = 0; i < HUFFMAN_VECTOR_COUNT; ++i) {
        test_vector(&huffman_vectors[i]);
        test_copy(&huffman_vectors[i]);
    }
    return check_result();
}
