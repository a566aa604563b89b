// SPDX-License-Identifier: Apache-2.0
//
// backoff.cpp: prints the waits: for each of `seeds` one line of `count` numbers. Arguments: base cap seeds count.
#include "tlc_arduino_backoff.hpp"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    if (argc != 5) {
        return 2;
    }
    const uint32_t base = static_cast<uint32_t>(strtoul(argv[1], nullptr, 10));
    const uint32_t cap = static_cast<uint32_t>(strtoul(argv[2], nullptr, 10));
    for (long seed = 0; seed < strtol(argv[3], nullptr, 10); seed++) {
        tlc::Backoff backoff(base, cap);
        backoff.seed(static_cast<uint32_t>(seed) * 2654435761u);
        for (long i = 0; i < strtol(argv[4], nullptr, 10); i++) {
            printf("%lu ", static_cast<unsigned long>(backoff.next()));
        }
        backoff.reset();
        printf("%lu\n", static_cast<unsigned long>(backoff.next()));
    }
    return 0;
}
