/* SPDX-License-Identifier: Apache-2.0 */
#include "grad.h"

/* One tap of 4 channels that read 4 neighbouring ones. */
static void add_4(const tlc_seen_t *v, const int8_t *x, int32_t zp, const float *dy, float scale, float *dw,
                  int32_t row) {
    float a = 0.0f, b = 0.0f, c = 0.0f, d = 0.0f;
    for (int32_t r = 0; r < v->rows; ++r, x += v->x_row, dy += v->dy_row) {
        const int8_t *in = x;
        const float *g = dy;
        for (int32_t i = v->cols; i > 0; --i, in += v->x_col, g += v->dy_col) {
            a = tlc_mla_f32(a, g[0], (float)(in[0] - zp)), b = tlc_mla_f32(b, g[1], (float)(in[1] - zp));
            c = tlc_mla_f32(c, g[2], (float)(in[2] - zp)), d = tlc_mla_f32(d, g[3], (float)(in[3] - zp));
        }
    }
    dw[0] += a * scale, dw[row] += b * scale, dw[2 * row] += c * scale, dw[3 * row] += d * scale;
}

static void add_1(const tlc_seen_t *v, const int8_t *x, int32_t zp, const float *dy, float scale, float *dw) {
    float sum = 0.0f;
    for (int32_t r = 0; r < v->rows; ++r, x += v->x_row, dy += v->dy_row) {
        const int8_t *in = x;
        const float *g = dy;
        for (int32_t i = v->cols; i > 0; --i, in += v->x_col, g += v->dy_col) {
            sum = tlc_mla_f32(sum, *g, (float)(*in - zp));
        }
    }
    *dw += sum * scale;
}

void tlc_depthwise_conv2d_weight_grad_f32(const tlc_conv2d_grad_t *p, const int8_t *x, const float *dy, float *dw) {
    const int32_t multiplier = p->out_c / p->in_c, row = p->kernel_h * p->kernel_w;
    for (int32_t tap = 0; tap < row; ++tap) {
        const tlc_seen_t seen = tlc_seen(p, tap / p->kernel_w, tap % p->kernel_w);
        if (seen.rows == 0 || seen.cols == 0) {
            continue;
        }
        const int8_t *const in = x + seen.x;
        const float *const g = dy + seen.dy;
        float *to = dw + tap;
        int32_t o = p->out_first;
        const int32_t end = o + p->outs;
        for (; multiplier == 1 && o + 4 <= end; o += 4, to += 4 * row) {
            add_4(&seen, in + o, p->in_zp, g + o, p->in_scale, to, row);
        }
        for (; o < end; ++o, to += row) {
            add_1(&seen, in + o / multiplier, p->in_zp, g + o, p->in_scale, to);
        }
    }
}
