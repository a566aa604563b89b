/* SPDX-License-Identifier: Apache-2.0
 *
 * check.h: CHECK(condition) counts and shows what does not hold; a test ends with `return check_result();`.
 */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>

static int check_failures;

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition) && ++check_failures <= 20) {                                                                  \
            (void)fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                      \
        }                                                                                                              \
    } while (0)

static inline int check_result(void) {
    if (check_failures != 0) {
        (void)fprintf(stderr, "%d checks failed\n", check_failures);
    }
    return check_failures != 0;
}

#endif /* CHECK_H */
