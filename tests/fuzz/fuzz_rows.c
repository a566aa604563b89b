/* SPDX-License-Identifier: Apache-2.0
 *
 * Packed weights: any complete code, and any stream, which such a code always makes values of; against a decoder that
 * looks at one bit at a time. The stream and the row have exactly their documented length.
 */
#include "input.h"
#include "tlc/huffman.h"
#include "tlc/rows.h"

#define LONGEST 16u
#define SYMBOLS 256u

typedef struct {
    uint8_t length[SYMBOLS]; /* of each leaf, ascending */
    int8_t value[SYMBOLS];
    uint32_t code[SYMBOLS]; /* right-aligned */
    uint32_t count;
} book_t;

/* Leaves split at random: a code is complete from the first leaf, of no bits, to the last. */
static void grow(book_t *book, input_t *in) {
    memset(book, 0, sizeof *book);
    book->count = 1;
    const uint32_t wanted = 1u + take_byte(in);
    const uint8_t habit = take_byte(in);
    for (uint32_t tries = 0; book->count < wanted && tries < 2u * SYMBOLS; tries++) {
        const uint32_t pick = habit & 1u ? take_byte(in) % book->count : habit & 2u ? book->count - 1u : 0u;
        if (book->length[pick] == LONGEST) {
            continue;
        }
        book->length[pick]++;
        book->length[book->count++] = book->length[pick];
    }
    for (uint32_t i = 1; i < book->count; i++) { /* by length: insertion */
        const uint8_t length = book->length[i];
        uint32_t k = i;
        for (; k > 0 && book->length[k - 1] > length; k--) {
            book->length[k] = book->length[k - 1];
        }
        book->length[k] = length;
    }
    uint32_t code = 0;
    const uint8_t turn = take_byte(in);
    for (uint32_t i = 0; i < book->count; i++) {
        code <<= i ? book->length[i] - book->length[i - 1] : 0;
        book->code[i] = code++;
        const uint32_t value = (i * 37u + turn) & 0xFFu; /* 37 is odd: all differ */
        book->value[i] = (int8_t)((int32_t)(value ^ 0x80u) - 0x80);
    }
}

typedef struct {
    int16_t lookup[1u << 10];
    uint16_t last[LONGEST + 1u];
    uint8_t base[LONGEST + 1u];
    int8_t symbols[SYMBOLS];
} tables_t;

static tlc_huffman_t lay_out(const book_t *book, uint32_t lookup_bits, tables_t *tables) {
    memset(tables, 0, sizeof *tables);
    uint32_t first = LONGEST, longs = 0;
    for (uint32_t i = 0; i < book->count; i++) {
        const uint32_t length = book->length[i];
        if (length <= lookup_bits) {
            const uint32_t spare = lookup_bits - length;
            for (uint32_t k = 0; k < 1u << spare; k++) {
                tables->lookup[(book->code[i] << spare) + k] = (int16_t)(length << 8 | (uint8_t)book->value[i]);
            }
            continue;
        }
        const uint32_t prefix = book->code[i] >> (length - lookup_bits);
        if (tables->lookup[prefix] == 0) {
            tables->lookup[prefix] = (int16_t) - (int32_t)length;
        }
        first = longs == 0 ? length : first;
        const uint32_t level = length - first;
        if (level == 0 ? longs == 0 : book->length[i - 1] != length) {
            tables->base[level] = (uint8_t)(longs - book->code[i]);
            for (uint32_t k = level; k > 0 && tables->last[k - 1] == 0; k--) {
                uint32_t known = k - 1; /* a length that no code has: what the one before it says */
                while (known > 0 && tables->last[known] == 0) {
                    known--;
                }
                tables->last[k - 1] = tables->last[known];
            }
        }
        tables->last[level] = (uint16_t)(((book->code[i] + 1u) << (LONGEST - length)) - 1u);
        tables->symbols[longs++] = book->value[i];
    }
    return (tlc_huffman_t){tables->lookup,  tables->last,         tables->base,
                           tables->symbols, (uint8_t)lookup_bits, (uint8_t)first};
}

static int8_t one_value(const book_t *book, const uint16_t *stream, uint32_t *bit) {
    uint32_t code = 0, length = 0;
    for (uint32_t i = 0; i < book->count; i++) {
        while (length < book->length[i]) {
            code = code << 1 | (stream[*bit / 16u] >> (15u - *bit % 16u) & 1u);
            (*bit)++;
            length++;
        }
        if (code == book->code[i]) {
            return book->value[i];
        }
    }
    HOLDS(0);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input_t in = {data, size};
    book_t book;
    tables_t tables;
    const uint32_t lookup_bits = 1u + take_byte(&in) % 10u, row_bytes = 1u + take_byte(&in) % 48u;
    const uint32_t rows = 1u + take_byte(&in) % 4u;
    grow(&book, &in);
    const tlc_huffman_t code = lay_out(&book, lookup_bits, &tables);
    uint16_t stream[48 * 4 + 2]; /* every value may take 16 bits */
    memset(stream, 0, sizeof stream);
    (void)take_bytes(&in, (uint8_t *)stream, sizeof stream);
    uint32_t bit = 0;
    int8_t wanted[48 * 4];
    for (uint32_t i = 0; i < rows * row_bytes; i++) {
        wanted[i] = one_value(&book, stream, &bit);
    }
    const uint32_t words = (bit + 15u) / 16u + 1u; /* and one of padding */
    uint16_t *const exact = malloc(2u * words);
    memcpy(exact, stream, 2u * words);
    int8_t *const scratch = malloc(row_bytes);
    tlc_rows_t packed = tlc_rows_packed(exact, row_bytes, &code, scratch);
    for (uint32_t row = 0; row < rows; row++) {
        HOLDS(memcmp(tlc_rows_next(&packed), wanted + row * row_bytes, row_bytes) == 0);
    }
    free(scratch);
    free(exact);
    return 0;
}
