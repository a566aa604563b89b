/* SPDX-License-Identifier: Apache-2.0 */
#include "conv.h"

static int32_t tlc_one(const tlc_window_t *v, const int8_t *x, int32_t acc) {
    const int8_t *w = v->w;
    for (int32_t i = 0; i < v->row.count; ++i, x += v->row.x_step, w += v->row.w_step) {
        for (int32_t j = 0; j < v->col.count; ++j) {
            acc = tlc_wrap_add(acc, x[j * v->col.x_step] * w[j]);
        }
    }
    return acc;
}

static void tlc_four(const tlc_window_t *v, const int8_t *x, int32_t step, int is_row, tlc_sum4_t *acc) {
    const tlc_axis_t along = is_row ? v->col : v->row, across = is_row ? v->row : v->col;
    const int8_t *w = v->w;
    tlc_sum4_t sum = *acc;
    if (along.count == 3 && along.x_step == step) {
        for (int32_t i = 0; i < across.count; ++i, x += across.x_step, w += across.w_step) {
            tlc_slide3(x, step, w[0], w[along.w_step], w[2 * along.w_step], &sum);
        }
    } else {
        for (int32_t i = 0; i < across.count; ++i, x += across.x_step, w += across.w_step) {
            const int8_t *in = x, *tap = w;
            for (int32_t j = 0; j < along.count; ++j, in += along.x_step, tap += along.w_step) {
                const int32_t weight = *tap;
                sum.p0 += (uint32_t)(in[0] * weight);
                sum.p1 += (uint32_t)(in[step] * weight);
                sum.p2 += (uint32_t)(in[2 * step] * weight);
                sum.p3 += (uint32_t)(in[3 * step] * weight);
            }
        }
    }
    *acc = sum;
}

void tlc_depthwise_conv2d_s8(const tlc_depthwise_conv2d_t *p, const int8_t *x, tlc_rows_t *w, const int32_t *bias,
                             int8_t *y) {
    tlc_conv(p, x, w, bias, y, tlc_one, tlc_four, 0);
}
