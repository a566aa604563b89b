/* SPDX-License-Identifier: Apache-2.0 */
#include "app.h"

bool tlc_app_sample(void *app, float *values) {
    (void)app;
    (void)values;
    return false;
}

void tlc_app_result(void *app, const float *values, uint32_t count) {
    (void)app;
    (void)values;
    (void)count;
}
