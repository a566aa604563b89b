/* SPDX-License-Identifier: Apache-2.0
 *
 * xtensa_arithmetic.c: what the compiler calls for an LX106 and Debian's libgcc leaves out, because the ESP8266 has it
 * in ROM: division, wide multiplication, and float32 addition, multiplication and conversion (IEEE 754, rounded to
 * nearest, ties to even; every NaN is 0x7FC00000). Floats come in integer registers, so their bits are the arguments.
 */
#include <stdint.h>

#define SIGN 0x80000000u
#define INFINITE 0x7F800000u
#define NOT_A_NUMBER 0x7FC00000u
#define HIDDEN 0x00800000u /* the significand's first bit, which is not stored */
#define TOP 0x40000000u    /* the same with seven more bits below: what rounding looks at */

uint32_t __udivsi3(uint32_t a, uint32_t b);
uint32_t __umodsi3(uint32_t a, uint32_t b);
int32_t __divsi3(int32_t a, int32_t b);
int32_t __modsi3(int32_t a, int32_t b);
uint64_t __umulsidi3(uint32_t a, uint32_t b);
uint64_t __muldi3(uint64_t a, uint64_t b);
uint64_t __udivdi3(uint64_t a, uint64_t b);
uint64_t __umoddi3(uint64_t a, uint64_t b);
int64_t __divdi3(int64_t a, int64_t b);
int64_t __moddi3(int64_t a, int64_t b);
uint32_t __addsf3(uint32_t a, uint32_t b);
uint32_t __subsf3(uint32_t a, uint32_t b);
uint32_t __mulsf3(uint32_t a, uint32_t b);
uint32_t __floatsisf(int32_t a);
uint32_t __floatunsisf(uint32_t a);
uint32_t __fixunssfsi(uint32_t a);

/* ---- integers: long division, from the first bit on that can be one; by 0 it gives all ones ---- */

static uint32_t divide(uint32_t a, uint32_t b, uint32_t *rest) {
    uint32_t quotient = 0;
    if (b == 0) {
        *rest = a;
        return UINT32_MAX;
    }
    if (a >= b) {
        uint32_t shift = (uint32_t)(__builtin_clz(b) - __builtin_clz(a));
        b <<= shift;
        for (uint32_t left = shift + 1u; left > 0; left--) {
            quotient <<= 1;
            if (a >= b) {
                a -= b;
                quotient |= 1u;
            }
            b >>= 1;
        }
    }
    *rest = a;
    return quotient;
}

uint32_t __udivsi3(uint32_t a, uint32_t b) {
    uint32_t rest;
    return divide(a, b, &rest);
}

uint32_t __umodsi3(uint32_t a, uint32_t b) {
    uint32_t rest;
    (void)divide(a, b, &rest);
    return rest;
}

static uint32_t magnitude(int32_t a) { return a < 0 ? 0u - (uint32_t)a : (uint32_t)a; }

int32_t __divsi3(int32_t a, int32_t b) {
    uint32_t quotient = __udivsi3(magnitude(a), magnitude(b));
    return (int32_t)((a < 0) != (b < 0) ? 0u - quotient : quotient);
}

int32_t __modsi3(int32_t a, int32_t b) {
    uint32_t rest = __umodsi3(magnitude(a), magnitude(b));
    return (int32_t)(a < 0 ? 0u - rest : rest);
}

static uint32_t high_word(uint64_t a) { return (uint32_t)(a >> 32); }

static uint32_t leading_zeros(uint64_t a) {
    return (uint32_t)(high_word(a) != 0 ? __builtin_clz(high_word(a)) : 32 + __builtin_clz((uint32_t)a));
}

static uint64_t divide_long(uint64_t a, uint64_t b, uint64_t *rest) {
    uint64_t quotient = 0;
    if (high_word(a) == 0 && high_word(b) == 0) {
        uint32_t short_rest;
        uint32_t short_quotient = divide((uint32_t)a, (uint32_t)b, &short_rest);
        *rest = short_rest;
        return b == 0 ? UINT64_MAX : short_quotient;
    }
    if (b == 0) {
        *rest = a;
        return UINT64_MAX;
    }
    if (a >= b) {
        uint32_t shift = leading_zeros(b) - leading_zeros(a);
        b <<= shift;
        for (uint32_t left = shift + 1u; left > 0; left--) {
            quotient <<= 1;
            if (a >= b) {
                a -= b;
                quotient |= 1u;
            }
            b >>= 1;
        }
    }
    *rest = a;
    return quotient;
}

uint64_t __udivdi3(uint64_t a, uint64_t b) {
    uint64_t rest;
    return divide_long(a, b, &rest);
}

uint64_t __umoddi3(uint64_t a, uint64_t b) {
    uint64_t rest;
    (void)divide_long(a, b, &rest);
    return rest;
}

static uint64_t long_magnitude(int64_t a) { return a < 0 ? 0u - (uint64_t)a : (uint64_t)a; }

int64_t __divdi3(int64_t a, int64_t b) {
    uint64_t quotient = __udivdi3(long_magnitude(a), long_magnitude(b));
    return (int64_t)((a < 0) != (b < 0) ? 0u - quotient : quotient);
}

int64_t __moddi3(int64_t a, int64_t b) {
    uint64_t rest = __umoddi3(long_magnitude(a), long_magnitude(b));
    return (int64_t)(a < 0 ? 0u - rest : rest);
}

/* From products of half words, which one instruction gives. */
static inline uint64_t multiply(uint32_t a, uint32_t b) {
    uint32_t a0 = a & 0xFFFFu, a1 = a >> 16, b0 = b & 0xFFFFu, b1 = b >> 16;
    uint32_t low = a0 * b0;
    uint32_t middle = a1 * b0 + (low >> 16);
    uint32_t other = a0 * b1 + (middle & 0xFFFFu);
    uint32_t high = a1 * b1 + (middle >> 16) + (other >> 16);
    return (uint64_t)high << 32 | (other << 16 | (low & 0xFFFFu));
}

uint64_t __umulsidi3(uint32_t a, uint32_t b) { return multiply(a, b); }

uint64_t __muldi3(uint64_t a, uint64_t b) {
    uint64_t low = multiply((uint32_t)a, (uint32_t)b);
    uint32_t cross = (uint32_t)a * high_word(b) + high_word(a) * (uint32_t)b;
    return low + ((uint64_t)cross << 32);
}

/* ---- float32 ---- */

/* A shift that leaves a one in the last place if it loses any. */
static uint32_t shift_right(uint32_t bits, uint32_t count) {
    if (count == 0) {
        return bits;
    }
    if (count > 31u) {
        return bits != 0;
    }
    return bits >> count | ((bits << (32u - count)) != 0);
}

/* The float of a significand whose first bit is TOP, or that is 0. */
static uint32_t rounded(uint32_t sign, int32_t exponent, uint32_t significand) {
    if (exponent >= 255) {
        return sign | INFINITE;
    }
    if (exponent <= 0) { /* too small: with an exponent of 1, but fewer bits */
        significand = shift_right(significand, (uint32_t)(1 - exponent));
        exponent = 1;
    }
    uint32_t even = significand >> 7 & 1u;
    significand = (significand + 63u + even) >> 7; /* may carry into the exponent, as it should */
    return sign | (((uint32_t)(exponent - 1) << 23) + significand);
}

static uint32_t scaled(uint32_t sign, int32_t exponent, uint32_t significand) {
    if (significand == 0) {
        return sign;
    }
    uint32_t zeros = (uint32_t)__builtin_clz(significand);
    if (zeros == 0) {
        return rounded(sign, exponent + 1, shift_right(significand, 1));
    }
    return rounded(sign, exponent - (int32_t)zeros + 1, significand << (zeros - 1u));
}

static uint32_t exponent_of(uint32_t a) { return a >> 23 & 255u; }

/* With its hidden bit; a subnormal number has none, and the exponent 1. */
static uint32_t significand_of(uint32_t a, uint32_t *exponent) {
    *exponent = exponent_of(a);
    if (*exponent == 0) {
        *exponent = 1;
        return a & (HIDDEN - 1u);
    }
    return (a & (HIDDEN - 1u)) | HIDDEN;
}

uint32_t __addsf3(uint32_t a, uint32_t b) {
    if ((a & ~SIGN) < (b & ~SIGN)) { /* the greater comes first */
        uint32_t swap = a;
        a = b;
        b = swap;
    }
    if (exponent_of(a) == 255u) {
        uint32_t nothing = (a & ~SIGN) > INFINITE || ((b & ~SIGN) == INFINITE && a != b);
        return nothing ? NOT_A_NUMBER : a;
    }
    if ((a & ~SIGN) == 0) {
        return a & b; /* -0 only if both are */
    }
    uint32_t exponent, below;
    uint32_t sum = significand_of(a, &exponent) << 7;
    uint32_t other = significand_of(b, &below) << 7;
    other = shift_right(other, exponent - below);
    sum = (a ^ b) & SIGN ? sum - other : sum + other;
    return scaled(sum == 0 ? 0 : a & SIGN, (int32_t)exponent, sum);
}

uint32_t __subsf3(uint32_t a, uint32_t b) {
    /* Of a NaN the sign does not matter. */
    return __addsf3(a, b ^ SIGN);
}

uint32_t __mulsf3(uint32_t a, uint32_t b) {
    uint32_t sign = (a ^ b) & SIGN;
    uint32_t one = a & ~SIGN, two = b & ~SIGN;
    if (one >= INFINITE || two >= INFINITE) {
        uint32_t nothing = one > INFINITE || two > INFINITE || one == 0 || two == 0;
        return nothing ? NOT_A_NUMBER : sign | INFINITE;
    }
    if (one == 0 || two == 0) {
        return sign;
    }
    uint32_t first, second;
    one = significand_of(one, &first);
    two = significand_of(two, &second);
    int32_t exponent = (int32_t)(first + second) - 127;
    uint32_t zeros = (uint32_t)__builtin_clz(one), more = (uint32_t)__builtin_clz(two);
    uint64_t product = multiply(one << zeros, two << more);
    exponent += 16 - (int32_t)(zeros + more); /* a normal number has 8 zeros, and 1.0 * 1.0 gives TOP */
    return scaled(sign, exponent, high_word(product) | ((uint32_t)product != 0));
}

uint32_t __floatunsisf(uint32_t a) { return scaled(0, 127 + 30, a); }

uint32_t __floatsisf(int32_t a) { return scaled((uint32_t)a & SIGN, 127 + 30, magnitude(a)); }

uint32_t __fixunssfsi(uint32_t a) {
    uint32_t exponent = exponent_of(a);
    if ((a & SIGN) != 0 || exponent < 127u) {
        return 0;
    }
    if (exponent > 127u + 31u) {
        return UINT32_MAX;
    }
    uint32_t significand = ((a & (HIDDEN - 1u)) | HIDDEN) << 8;
    return significand >> (127u + 31u - exponent);
}
