/* SPDX-License-Identifier: Apache-2.0 */
#include "conv.h"

/* Taps of a row whose channels are neighbours, in x and in the weights, are one run. */
static tlc_axis_t tlc_runs(const tlc_window_t *v, uint32_t *length) {
    if (v->col.x_step == v->depth) {
        *length = (uint32_t)(v->col.count * v->depth);
        return (tlc_axis_t){.count = 1};
    }
    *length = (uint32_t)v->depth;
    return v->col;
}

static int32_t tlc_one(const tlc_window_t *v, const int8_t *x, int32_t acc) {
    uint32_t length;
    const tlc_axis_t run = tlc_runs(v, &length);
    const int8_t *w = v->w;
    for (int32_t i = 0; i < v->row.count; ++i, x += v->row.x_step, w += v->row.w_step) {
        for (int32_t j = 0; j < run.count; ++j) {
            acc = tlc_dot_s8(x + j * run.x_step, w + j * run.w_step, length, acc);
        }
    }
    return acc;
}

static void tlc_four(const tlc_window_t *v, const int8_t *x, int32_t step, int is_row, tlc_sum4_t *acc) {
    (void)is_row;
    uint32_t length;
    const tlc_axis_t run = tlc_runs(v, &length);
    const int8_t *w = v->w;
    tlc_sum4_t sum = *acc;
    for (int32_t i = 0; i < v->row.count; ++i, x += v->row.x_step, w += v->row.w_step) {
        for (int32_t j = 0; j < run.count; ++j) {
            tlc_dot4_s8(x + j * run.x_step, step, w + j * run.w_step, length, &sum);
        }
    }
    *acc = sum;
}

void tlc_conv2d_s8(const tlc_conv2d_t *p, const int8_t *x, tlc_rows_t *w, const int32_t *bias, int8_t *y) {
    tlc_conv(p, x, w, bias, y, tlc_one, tlc_four);
}
