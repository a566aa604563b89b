/* SPDX-License-Identifier: Apache-2.0
 *
 * The fixed-point arithmetic against its definition in wider integers, written differently.
 */
#include <stdint.h>

#include "check.h"
#include "tlc/requant.h"

/* floor(a / 2^n) for any sign, without a shift of a negative number */
static int64_t floor_div(int64_t a, unsigned n) {
    const int64_t d = (int64_t)1 << n;
    const int64_t q = a / d;
    return a % d < 0 ? q - 1 : q;
}

/* round(a * b / 2^31), ties up, saturated */
static int64_t high_mul(int64_t a, int64_t b) {
    const int64_t r = floor_div(a * b + ((int64_t)1 << 30), 31);
    return r > INT32_MAX ? INT32_MAX : r;
}

/* round(x / 2^n), ties away from zero */
static int64_t divide(int64_t x, unsigned n) {
    const int64_t magnitude = x < 0 ? -x : x;
    const int64_t r = (2 * magnitude + ((int64_t)1 << n)) / ((int64_t)1 << (n + 1));
    return x < 0 ? -r : r;
}

/* the low 32 bits as a signed number */
static int64_t wrap(int64_t x) {
    const int64_t span = (int64_t)1 << 32;
    const int64_t low = ((x % span) + span) % span;
    return low > INT32_MAX ? low - span : low;
}

static int64_t requant(int64_t x, int64_t mult, int shift) {
    if (shift > 0) {
        return high_mul(wrap(x * ((int64_t)1 << shift)), mult);
    }
    return divide(high_mul(x, mult), (unsigned)-shift);
}

static uint32_t random_bits(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state ^ *state >> 15;
}

static void check_all(int32_t x, int32_t mult) {
    CHECK(tlc_high_mul(x, mult) == high_mul(x, mult));
    for (int n = 0; n <= 31; ++n) {
        CHECK(tlc_divide_by_pot(x, n) == divide(x, (unsigned)n));
    }
    for (int shift = -31; shift <= 30; ++shift) {
        CHECK(tlc_requant(x, mult, shift) == requant(x, mult, shift));
    }
}

int main(void) {
    static const int32_t corners[] = {
        INT32_MIN, INT32_MIN + 1, -(1 << 30) - 1, -(1 << 30),    -(1 << 30) + 1, -65536,   -3, -2, -1, 0, 1, 2, 3, 255,
        65536,     (1 << 30) - 1, 1 << 30,        (1 << 30) + 1, INT32_MAX - 1,  INT32_MAX};
    static const int32_t mults[] = {1 << 30, (1 << 30) + 1, 1518500250, INT32_MAX - 1, INT32_MAX, 0};
    const unsigned corner_count = sizeof corners / sizeof corners[0];
    const unsigned mult_count = sizeof mults / sizeof mults[0];

    for (unsigned i = 0; i < corner_count; ++i) {
        for (unsigned j = 0; j < mult_count; ++j) {
            check_all(corners[i], mults[j]);
        }
        for (unsigned j = 0; j < corner_count; ++j) {
            CHECK(tlc_high_mul(corners[i], corners[j]) == high_mul(corners[i], corners[j]));
        }
    }
    uint32_t state = 1;
    for (int i = 0; i < 20000; ++i) {
        const int32_t x = (int32_t)(random_bits(&state) >> 1) >> (random_bits(&state) & 31u);
        const int32_t mult = (int32_t)(random_bits(&state) >> 2) + (1 << 30);
        check_all(i & 1 ? -x : x, mult);
    }

    /* By hand. Ties: the product rounds up, the shift away from zero. */
    CHECK(tlc_high_mul(1, 1 << 30) == 1);
    CHECK(tlc_high_mul(-1, 1 << 30) == 0);
    CHECK(tlc_high_mul(INT32_MIN, INT32_MIN) == INT32_MAX);
    CHECK(tlc_divide_by_pot(5, 1) == 3);
    CHECK(tlc_divide_by_pot(-5, 1) == -3);
    CHECK(tlc_divide_by_pot(INT32_MIN, 31) == -1);
    CHECK(tlc_divide_by_pot(INT32_MAX, 31) == 1);
    CHECK(tlc_requant(1000, 1 << 30, 0) == 500);
    CHECK(tlc_requant(1000, 1 << 30, -3) == 63);
    CHECK(tlc_requant(-1000, 1 << 30, -3) == -63);
    CHECK(tlc_requant(3, 1 << 30, 5) == 48);

    CHECK(tlc_clamp_s8(INT32_MAX, -128, 127) == 127);
    CHECK(tlc_clamp_s8(INT32_MIN, -128, 127) == -128);
    CHECK(tlc_clamp_s8(-5, -3, 9) == -3);
    CHECK(tlc_clamp_s8(9, -3, 9) == 9);
    return check_result();
}
