/* SPDX-License-Identifier: Apache-2.0 */
#include "app.h"

#include <time.h>

#ifndef SAMPLE_MS
#define SAMPLE_MS 0 /* how long the sensor takes, in real milliseconds */
#endif

bool tlc_app_sample(void *app, tlc_sample_t *sample) {
    (void)app;
    (void)sample;
    if (SAMPLE_MS > 0) {
        const struct timespec wait = {.tv_nsec = SAMPLE_MS * 1000000L};
        (void)nanosleep(&wait, 0);
    }
    return false;
}

void tlc_app_result(void *app, const float *values, uint32_t count) {
    (void)app;
    (void)values;
    (void)count;
}
