/* SPDX-License-Identifier: Apache-2.0 */
#include "grad.h"

/* Sums of one tap for 4 output and 4 input channels: they stay in registers over all positions, where each value of dy
 * and each of x, converted once, serves four products. */
static void add_4_by_4(const tlc_seen_t *v, const int8_t *x, int32_t zp, const float *dy, float scale, float *dw,
                       int32_t row) {
    float a0 = 0.0f, a1 = 0.0f, a2 = 0.0f, a3 = 0.0f, b0 = 0.0f, b1 = 0.0f, b2 = 0.0f, b3 = 0.0f;
    float c0 = 0.0f, c1 = 0.0f, c2 = 0.0f, c3 = 0.0f, d0 = 0.0f, d1 = 0.0f, d2 = 0.0f, d3 = 0.0f;
    for (int32_t r = 0; r < v->rows; ++r, x += v->x_row, dy += v->dy_row) {
        const int8_t *in = x;
        const float *g = dy;
        for (int32_t i = v->cols; i > 0; --i, in += v->x_col, g += v->dy_col) {
            const float x0 = (float)(in[0] - zp), x1 = (float)(in[1] - zp);
            const float x2 = (float)(in[2] - zp), x3 = (float)(in[3] - zp);
            const float g0 = g[0], g1 = g[1], g2 = g[2], g3 = g[3];
            a0 = tlc_mla_f32(a0, g0, x0), a1 = tlc_mla_f32(a1, g0, x1), a2 = tlc_mla_f32(a2, g0, x2),
            a3 = tlc_mla_f32(a3, g0, x3);
            b0 = tlc_mla_f32(b0, g1, x0), b1 = tlc_mla_f32(b1, g1, x1), b2 = tlc_mla_f32(b2, g1, x2),
            b3 = tlc_mla_f32(b3, g1, x3);
            c0 = tlc_mla_f32(c0, g2, x0), c1 = tlc_mla_f32(c1, g2, x1), c2 = tlc_mla_f32(c2, g2, x2),
            c3 = tlc_mla_f32(c3, g2, x3);
            d0 = tlc_mla_f32(d0, g3, x0), d1 = tlc_mla_f32(d1, g3, x1), d2 = tlc_mla_f32(d2, g3, x2),
            d3 = tlc_mla_f32(d3, g3, x3);
        }
    }
    dw[0] += a0 * scale, dw[1] += a1 * scale, dw[2] += a2 * scale, dw[3] += a3 * scale;
    dw += row;
    dw[0] += b0 * scale, dw[1] += b1 * scale, dw[2] += b2 * scale, dw[3] += b3 * scale;
    dw += row;
    dw[0] += c0 * scale, dw[1] += c1 * scale, dw[2] += c2 * scale, dw[3] += c3 * scale;
    dw += row;
    dw[0] += d0 * scale, dw[1] += d1 * scale, dw[2] += d2 * scale, dw[3] += d3 * scale;
}

/* The same for 4 output channels and one input channel. */
static void add_4_by_1(const tlc_seen_t *v, const int8_t *x, int32_t zp, const float *dy, float scale, float *dw,
                       int32_t row) {
    float a = 0.0f, b = 0.0f, c = 0.0f, d = 0.0f;
    for (int32_t r = 0; r < v->rows; ++r, x += v->x_row, dy += v->dy_row) {
        const int8_t *in = x;
        const float *g = dy;
        for (int32_t i = v->cols; i > 0; --i, in += v->x_col, g += v->dy_col) {
            const float value = (float)(*in - zp);
            a = tlc_mla_f32(a, g[0], value), b = tlc_mla_f32(b, g[1], value), c = tlc_mla_f32(c, g[2], value),
            d = tlc_mla_f32(d, g[3], value);
        }
    }
    dw[0] += a * scale, dw[row] += b * scale, dw[2 * row] += c * scale, dw[3 * row] += d * scale;
}

static void add_1_by_1(const tlc_seen_t *v, const int8_t *x, int32_t zp, const float *dy, float scale, float *dw) {
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

/* One tap, `outs` channels of a group: x and dy at the first position, dw at the first row. */
static void add_tap(const tlc_conv2d_grad_t *p, const tlc_seen_t *v, const int8_t *x, const float *dy, int32_t outs,
                    float *dw) {
    const int32_t row = p->kernel_h * p->kernel_w * p->ins;
    int32_t o = 0;
    for (; o + 4 <= outs; o += 4, dw += 4 * row) {
        int32_t c = 0;
        for (; c + 4 <= p->ins; c += 4) {
            add_4_by_4(v, x + c, p->in_zp, dy + o, p->in_scale, dw + c, row);
        }
        for (; c < p->ins; ++c) {
            add_4_by_1(v, x + c, p->in_zp, dy + o, p->in_scale, dw + c, row);
        }
    }
    for (; o < outs; ++o, dw += row) {
        for (int32_t c = 0; c < p->ins; ++c) {
            add_1_by_1(v, x + c, p->in_zp, dy + o, p->in_scale, dw + c);
        }
    }
}

void tlc_conv2d_weight_grad_f32(const tlc_conv2d_grad_t *p, const int8_t *x, const float *dy, float *dw) {
    const int32_t in_c = p->in_c / p->groups, out_c = p->out_c / p->groups, taps = p->kernel_h * p->kernel_w;
    const int32_t end = p->out_first + p->outs;
    for (int32_t tap = 0; tap < taps; ++tap) {
        const tlc_seen_t seen = tlc_seen(p, tap / p->kernel_w, tap % p->kernel_w);
        if (seen.rows == 0 || seen.cols == 0) {
            continue;
        }
        /* group by group, as far as the slice reaches into it */
        for (int32_t o = p->out_first; o < end;) {
            const int32_t group = o / out_c, last = (group + 1) * out_c < end ? (group + 1) * out_c : end;
            float *const to = dw + ((o - p->out_first) * taps + tap) * p->ins;
            add_tap(p, &seen, x + seen.x + group * in_c + p->in_first, dy + seen.dy + o, last - o, to);
            o = last;
        }
    }
}
