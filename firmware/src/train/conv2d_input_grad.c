/* SPDX-License-Identifier: Apache-2.0 */
#include "grad.h"

/* One tap of one output channel to 8 input channels, whose weights stay in registers over all positions. */
static void add_8(const tlc_seen_t *v, const int8_t *w, const float *dy, float *dx) {
    const float w0 = (float)w[0], w1 = (float)w[1], w2 = (float)w[2], w3 = (float)w[3];
    const float w4 = (float)w[4], w5 = (float)w[5], w6 = (float)w[6], w7 = (float)w[7];
    for (int32_t r = 0; r < v->rows; ++r, dy += v->dy_row, dx += v->x_row) {
        const float *g = dy;
        float *to = dx;
        for (int32_t i = v->cols; i > 0; --i, g += v->dy_col, to += v->x_col) {
            const float value = *g;
            if (value != 0.0f) { /* a ReLU leaves many zeros */
                to[0] += value * w0, to[1] += value * w1, to[2] += value * w2, to[3] += value * w3;
                to[4] += value * w4, to[5] += value * w5, to[6] += value * w6, to[7] += value * w7;
            }
        }
    }
}

static void add_1(const tlc_seen_t *v, float w, const float *dy, float *dx) {
    for (int32_t r = 0; r < v->rows; ++r, dy += v->dy_row, dx += v->x_row) {
        const float *g = dy;
        float *to = dx;
        for (int32_t i = v->cols; i > 0; --i, g += v->dy_col, to += v->x_col) {
            *to += *g * w;
        }
    }
}

/* All taps of one output channel; dx from the first channel that it read. */
static void add_row(const tlc_conv2d_grad_t *p, const int8_t *w, const float *dy, float *dx) {
    const int32_t in_c = p->in_c / p->groups;
    for (int32_t ky = 0; ky < p->kernel_h; ++ky) {
        for (int32_t kx = 0; kx < p->kernel_w; ++kx, w += in_c) {
            const tlc_seen_t seen = tlc_seen(p, ky, kx);
            if (seen.rows == 0 || seen.cols == 0) {
                continue;
            }
            int32_t c = 0;
            for (; c + 8 <= in_c; c += 8) {
                add_8(&seen, w + c, dy + seen.dy, dx + seen.x + c);
            }
            for (; c < in_c; ++c) {
                add_1(&seen, (float)w[c], dy + seen.dy, dx + seen.x + c);
            }
        }
    }
}

/* The only tap of 4 output channels, whose rows lie one behind the other, to 4 input channels: a value of dx is fetched
 * once for four products, which are added in the order of the rows. */
static void add_4_by_4(const tlc_seen_t *v, const int8_t *w, int32_t row, const float *dy, float *dx) {
    const int8_t *const wb = w + row, *const wc = wb + row, *const wd = wc + row;
    const float a0 = (float)w[0], a1 = (float)w[1], a2 = (float)w[2], a3 = (float)w[3];
    const float b0 = (float)wb[0], b1 = (float)wb[1], b2 = (float)wb[2], b3 = (float)wb[3];
    const float c0 = (float)wc[0], c1 = (float)wc[1], c2 = (float)wc[2], c3 = (float)wc[3];
    const float d0 = (float)wd[0], d1 = (float)wd[1], d2 = (float)wd[2], d3 = (float)wd[3];
    for (int32_t r = 0; r < v->rows; ++r, dy += v->dy_row, dx += v->x_row) {
        const float *g = dy;
        float *to = dx;
        for (int32_t i = v->cols; i > 0; --i, g += v->dy_col, to += v->x_col) {
            const float a = g[0], b = g[1], c = g[2], d = g[3];
            to[0] = to[0] + a * a0 + b * b0 + c * c0 + d * d0;
            to[1] = to[1] + a * a1 + b * b1 + c * c1 + d * d1;
            to[2] = to[2] + a * a2 + b * b2 + c * c2 + d * d2;
            to[3] = to[3] + a * a3 + b * b3 + c * c3 + d * d3;
        }
    }
}

void tlc_conv2d_input_grad_f32(const tlc_conv2d_grad_t *p, tlc_rows_t *w, float *dy, float *dx) {
    const int32_t in_c = p->in_c / p->groups, out_c = p->out_c / p->groups;
    const int is_pointwise = p->kernel_h * p->kernel_w == 1 && w->code == NULL && in_c % 4 == 0;
    if (!p->add) {
        tlc_clear_f32(dx, (uint32_t)(p->in_h * p->in_w * p->in_c));
    }
    tlc_scale_f32(dy, (uint32_t)(p->out_h * p->out_w), (uint32_t)p->out_c, p->w_scale, p->per_channel);
    for (int32_t group = 0; group < p->groups; ++group) {
        float *const to = dx + group * in_c;
        const float *g = dy + group * out_c;
        int32_t o = 0;
        if (is_pointwise) {
            const tlc_seen_t seen = tlc_seen(p, 0, 0);
            for (; seen.rows > 0 && seen.cols > 0 && o + 4 <= out_c; o += 4, g += 4) {
                const int8_t *const rows = tlc_rows_next(w);
                (void)tlc_rows_next(w), (void)tlc_rows_next(w), (void)tlc_rows_next(w);
                for (int32_t c = 0; c < in_c; c += 4) {
                    add_4_by_4(&seen, rows + c, in_c, g + seen.dy, to + seen.x + c);
                }
            }
        }
        for (; o < out_c; ++o, ++g) {
            add_row(p, tlc_rows_next(w), g, to);
        }
    }
}
