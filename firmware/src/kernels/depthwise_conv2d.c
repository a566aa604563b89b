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

/* Three taps of four windows that overlap: window j reads values j to j + 2, so six values serve twelve products. */
static inline void tlc_slide3(const int8_t *x, int32_t step, int32_t w0, int32_t w1, int32_t w2, tlc_sum4_t *sum) {
    const int32_t x0 = x[0], x1 = x[step], x2 = x[2 * step];
    x += 3 * step;
    const int32_t x3 = x[0], x4 = x[step], x5 = x[2 * step];
    sum->p0 += x0 * w0 + x1 * w1 + x2 * w2;
    sum->p1 += x1 * w0 + x2 * w1 + x3 * w2;
    sum->p2 += x2 * w0 + x3 * w1 + x4 * w2;
    sum->p3 += x3 * w0 + x4 * w1 + x5 * w2;
}

static void tlc_four(const tlc_window_t *v, const int8_t *x, int32_t step, int is_row, tlc_sum4_t *acc) {
    const tlc_axis_t along = is_row ? v->col : v->row, across = is_row ? v->row : v->col;
    const int8_t *w = v->w;
    tlc_sum4_t sum = {0, 0, 0, 0};
    if (along.count == 3 && along.x_step == step) {
        for (int32_t i = 0; i < across.count; ++i, x += across.x_step, w += across.w_step) {
            tlc_slide3(x, step, w[0], w[along.w_step], w[2 * along.w_step], &sum);
        }
    } else {
        for (int32_t i = 0; i < across.count; ++i, x += across.x_step, w += across.w_step) {
            const int8_t *in = x, *tap = w;
            for (int32_t j = 0; j < along.count; ++j, in += along.x_step, tap += along.w_step) {
                const int32_t weight = *tap;
                sum.p0 += in[0] * weight;
                sum.p1 += in[step] * weight;
                sum.p2 += in[2 * step] * weight;
                sum.p3 += in[3 * step] * weight;
            }
        }
    }
    acc->p0 = tlc_wrap_add(acc->p0, sum.p0);
    acc->p1 = tlc_wrap_add(acc->p1, sum.p1);
    acc->p2 = tlc_wrap_add(acc->p2, sum.p2);
    acc->p3 = tlc_wrap_add(acc->p3, sum.p3);
}

void tlc_depthwise_conv2d_s8(const tlc_depthwise_conv2d_t *p, const int8_t *x, tlc_rows_t *w, const int32_t *bias,
                             int8_t *y) {
    tlc_conv(p, x, w, bias, y, tlc_one, tlc_four);
}
