/* SPDX-License-Identifier: Apache-2.0 */
#include "conv.h"

static int32_t tlc_one(const tlc_window_t *v, const int8_t *x, int32_t acc) {
    const int8_t *w = v->w;
    for (int32_t i = 0; i < v->row.count; ++i, x += v->row.x_step, w += v->row.w_step) {
        for (int32_t j = 0; j < v->col.count; ++j) {
            acc = tlc_dot_s8(x + j * v->col.x_step, w + j * v->col.w_step, (uint32_t)v->depth, acc);
        }
    }
    return acc;
}

static void tlc_four(const tlc_window_t *v, const int8_t *x, int32_t step, int is_row, tlc_sum4_t *acc) {
    (void)is_row;
    const int8_t *w = v->w;
    tlc_sum4_t sum = *acc;
    for (int32_t i = 0; i < v->row.count; ++i, x += v->row.x_step, w += v->row.w_step) {
        for (int32_t j = 0; j < v->col.count; ++j) {
            tlc_dot4_s8(x + j * v->col.x_step, step, w + j * v->col.w_step, (uint32_t)v->depth, &sum);
        }
    }
    *acc = sum;
}

void tlc_conv2d_s8(const tlc_conv2d_t *p, const int8_t *x, tlc_rows_t *w, const int32_t *bias, int8_t *y) {
    tlc_conv(p, x, w, bias, y, tlc_one, tlc_four, 1);
}
