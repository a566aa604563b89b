/* SPDX-License-Identifier: Apache-2.0
 *
 * The dense kernel on numbers small enough to check by hand.
 */
#include <stdint.h>
#include <string.h>

#include "check.h"
#include "tlc/huffman.h"
#include "tlc/kernels.h"

/* Multipliers 2^30 with shifts 1, 0, -1 are 1, 1/2, 1/4. Input zero point 3 is folded into the bias: b - 3 * sum(w). */
static const int8_t x[2 * 3] = {4, 5, 1, 3, 2, -128};
static const int8_t w[5 * 3] = {1, 0, 0, 1, 1, 1, -1, 1, 0, 0, 0, 1, 1, 0, -1};
static const int32_t bias[5] = {10 - 3, 1 - 9, 0, 7 - 3, -2};
/* sums: (11, 2, 1, 5, 1), (10, -131, -1, -124, 129) */
static const int32_t mult[5] = {1 << 30, 1 << 30, 1 << 30, 1 << 30, 1 << 30};
static const int8_t shift[5] = {0, 1, 0, -1, 1};
/* 11/2 = 5.5 -> 6, 2, 1/2 -> 1, high_mul(5, 1/2) = 3 -> /2 = 1.5 -> 2, 1;
 * 5, -131, -1/2 -> 0, high_mul = -62 -> -31, 129; each plus the output's zero point 2, within [-100, 120] */
static const int8_t expected[2 * 5] = {8, 4, 3, 4, 3, 7, -100, 2, -29, 120};

static const tlc_dense_t params = {
    .samples = 2,
    .in = 3,
    .out = 5,
    .out_zp = 2,
    .act_min = -100,
    .act_max = 120,
    .per_channel = 1,
    .mult = mult,
    .shift = shift,
};

static void test_raw(void) {
    int8_t y[10];
    tlc_rows_t rows = tlc_rows_raw(w, 3);
    tlc_dense_s8(&params, x, &rows, bias, y);
    CHECK(memcmp(y, expected, sizeof y) == 0);
}

/* The same weights packed: 0: "0", 1: "10", -1: "11". */
static void test_packed(void) {
    static const int16_t lookup[4] = {1 << 8, 1 << 8, 2 << 8 | 1, 2 << 8 | 0xFF};
    static const tlc_huffman_t code = {lookup, NULL, NULL, NULL, 2, 16};
    /* 10 0 0 | 10 10 10 | 11 10 0 | 0 0 10 | 10 0 11 */
    static const uint16_t stream[3] = {0x8AB8, 0x5300, 0};
    int8_t y[10], scratch[3];
    tlc_rows_t rows = tlc_rows_packed(stream, 3, &code, scratch);
    tlc_dense_s8(&params, x, &rows, bias, y);
    CHECK(memcmp(y, expected, sizeof y) == 0);
}

static void test_one_multiplier(void) {
    static const int8_t expected_half[5] = {8, 3, 3, 5, 3}; /* 5.5, 1, 0.5, 2.5, 0.5, rounded up, plus 2 */
    int8_t y[5];
    tlc_dense_t half = params;
    half.samples = 1;
    half.per_channel = 0;
    tlc_rows_t rows = tlc_rows_raw(w, 3);
    tlc_dense_s8(&half, x, &rows, bias, y);
    CHECK(memcmp(y, expected_half, sizeof y) == 0);
}

int main(void) {
    test_raw();
    test_packed();
    test_one_multiplier();
    return check_result();
}
