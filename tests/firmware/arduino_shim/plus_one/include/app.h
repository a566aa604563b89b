/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TLC_APP_H
#define TLC_APP_H

#include <stdbool.h>
#include <stdint.h>

bool tlc_app_sample(void *app, float *values);
void tlc_app_result(void *app, const float *values, uint32_t count);

#endif /* TLC_APP_H */
