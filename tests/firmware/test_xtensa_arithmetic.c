/* SPDX-License-Identifier: Apache-2.0
 *
 * What the LX106's port supplies instead of libgcc, against this machine's own arithmetic, bit for bit.
 */
#include "../../firmware/ports/baremetal/xtensa_arithmetic.c"

#include <string.h>

#include "check.h"

#define RANDOM 300000

static uint64_t state = 0x243F6A8885A308D3u;

static uint32_t next(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32);
}

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return value != value ? NOT_A_NUMBER : bits;
}

static float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void floats(uint32_t a, uint32_t b) {
    volatile float x = float_of(a), y = float_of(b);
    CHECK(__addsf3(a, b) == bits_of(x + y));
    CHECK(__subsf3(a, b) == bits_of(x - y));
    CHECK(__mulsf3(a, b) == bits_of(x * y));
}

static const uint32_t edges[] = {
    0,          1,          2,          0x007FFFFF, 0x00800000, 0x00800001, 0x00FFFFFF, 0x01000000,
    0x0C800000, 0x20000000, 0x33800000, 0x33800001, 0x34000000, 0x3EFFFFFF, 0x3F000000, 0x3F7FFFFF,
    0x3F800000, 0x3F800001, 0x3FC00000, 0x40000000, 0x4B000000, 0x4B800001, 0x4F000000, 0x5F800000,
    0x7F000000, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FC00000, 0x3F800003, 0x3F800005, 0x00400000,
};
#define EDGES (sizeof edges / sizeof *edges)

static void test_floats(void) {
    for (uint32_t i = 0; i < 4u * EDGES * EDGES; i++) {
        uint32_t a = edges[i / 4u % EDGES], b = edges[i / 4u / EDGES];
        floats(i & 1u ? a | SIGN : a, i & 2u ? b | SIGN : b);
    }
    for (int i = 0; i < RANDOM; i++) {
        uint32_t a = next(), b = next();
        floats(a, b);
        floats(a, (a & 0xFF800000u) ^ (b & 0x83FFFFFFu)); /* magnitudes near each other */
        floats(a & 0x83FFFFFFu, 0x3F000000u ^ (b & 0x80FFFFFFu));
    }
}

static void test_conversions(void) {
    for (uint32_t i = 0; i < RANDOM; i++) {
        uint32_t a = next() >> (i & 31u);
        CHECK(__floatunsisf(a) == bits_of((float)a));
        CHECK(__floatsisf((int32_t)a) == bits_of((float)(int32_t)a));
        CHECK(__floatsisf(-(int32_t)(a >> 1)) == bits_of((float)-(int32_t)(a >> 1)));
        float value = (float)a / (float)(1u + (i & 63u));
        CHECK(__fixunssfsi(bits_of(value)) == (value < 4294967296.0f ? (uint32_t)value : UINT32_MAX));
    }
    CHECK(__floatsisf(INT32_MIN) == 0xCF000000u && __floatsisf(0) == 0 && __floatunsisf(0) == 0);
    CHECK(__fixunssfsi(0x3F7FFFFF) == 0 && __fixunssfsi(0xBF800000) == 0 && __fixunssfsi(INFINITE) == UINT32_MAX);
}

static void test_integers(void) {
    for (uint32_t i = 0; i < RANDOM; i++) {
        uint64_t a = ((uint64_t)next() << 32 | next()) >> (i & 63u);
        uint64_t b = ((uint64_t)next() << 32 | next()) >> (i >> 6 & 63u);
        uint32_t c = (uint32_t)a, d = (uint32_t)b;
        CHECK(__umulsidi3(c, d) == (uint64_t)c * d);
        CHECK(__muldi3(a, b) == a * b);
        if (b != 0) {
            CHECK(__udivdi3(a, b) == a / b && __umoddi3(a, b) == a % b);
            CHECK(b == UINT64_MAX || __divdi3((int64_t)a, (int64_t)b) == (int64_t)a / (int64_t)b);
            CHECK(b == UINT64_MAX || __moddi3((int64_t)a, (int64_t)b) == (int64_t)a % (int64_t)b);
        }
        if (d != 0) {
            CHECK(__udivsi3(c, d) == c / d && __umodsi3(c, d) == c % d);
            CHECK(d == UINT32_MAX || __divsi3((int32_t)c, (int32_t)d) == (int32_t)c / (int32_t)d);
            CHECK(d == UINT32_MAX || __modsi3((int32_t)c, (int32_t)d) == (int32_t)c % (int32_t)d);
        }
    }
    CHECK(__divsi3(INT32_MIN, 1) == INT32_MIN && __divsi3(INT32_MIN, 3) == INT32_MIN / 3);
    CHECK(__udivsi3(7, 0) == UINT32_MAX && __umodsi3(7, 0) == 7u && __udivdi3(7, 0) == UINT64_MAX);
}

int main(void) {
    test_floats();
    test_conversions();
    test_integers();
    return check_result();
}
