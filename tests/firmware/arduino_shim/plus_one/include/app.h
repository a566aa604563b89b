/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TLC_APP_H
#define TLC_APP_H

#include <stdbool.h>
#include <stdint.h>

#include "tlc/device.h"

bool tlc_app_sample(void *app, tlc_sample_t *sample);
void tlc_app_result(void *app, const float *values, uint32_t count);

#endif /* TLC_APP_H */
