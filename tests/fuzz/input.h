/* SPDX-License-Identifier: Apache-2.0
 *
 * input.h: what the fuzzer made, taken piece by piece; after its end come zeros.
 */
#ifndef TLC_FUZZ_INPUT_H
#define TLC_FUZZ_INPUT_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* A rule that the fuzzed code broke: libFuzzer keeps the input. */
#define HOLDS(rule)                                                                                                    \
    do {                                                                                                               \
        if (!(rule)) {                                                                                                 \
            __builtin_trap();                                                                                          \
        }                                                                                                              \
    } while (0)

typedef struct {
    const uint8_t *at;
    size_t left;
} input_t;

static inline uint8_t take_byte(input_t *in) {
    if (in->left == 0) {
        return 0;
    }
    in->left--;
    return *in->at++;
}

static inline uint32_t take_short(input_t *in) {
    const uint32_t low = take_byte(in);
    return low | (uint32_t)take_byte(in) << 8;
}

/* Up to `most` bytes, fewer where there are no more. */
static inline size_t take_bytes(input_t *in, uint8_t *to, size_t most) {
    const size_t count = most < in->left ? most : in->left;
    if (count) {
        memcpy(to, in->at, count);
        in->at += count;
        in->left -= count;
    }
    return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif /* TLC_FUZZ_INPUT_H */
