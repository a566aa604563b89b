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

/* dx[0..3] += dy[0] * w[0..3] + dy[1] * w[4..7] + ..., added from left to right, at `count` positions. */
#if defined(__arm__) && defined(__ARM_FP) && (__ARM_FP & 4) && defined(__GNUC__)
/* By hand: GCC neither fetches four values at once nor uses VMLA, which rounds each product as the C below does. */
static void add_products(const float *w, const float *dy, int32_t dy_step, float *dx, int32_t dx_step, int32_t count) {
    dy_step *= (int32_t)sizeof(float), dx_step *= (int32_t)sizeof(float);
    __asm__ volatile("vldmia %[w], {s0-s15}\n"
                     "1:\n\t"
                     "vldmia %[dy], {s16-s19}\n\t"
                     "vldmia %[dx], {s20-s23}\n\t"
                     "add %[dy], %[dy_step]\n\t"
                     "vmla.f32 s20, s16, s0\n\tvmla.f32 s21, s16, s1\n\t"
                     "vmla.f32 s22, s16, s2\n\tvmla.f32 s23, s16, s3\n\t"
                     "vmla.f32 s20, s17, s4\n\tvmla.f32 s21, s17, s5\n\t"
                     "vmla.f32 s22, s17, s6\n\tvmla.f32 s23, s17, s7\n\t"
                     "vmla.f32 s20, s18, s8\n\tvmla.f32 s21, s18, s9\n\t"
                     "vmla.f32 s22, s18, s10\n\tvmla.f32 s23, s18, s11\n\t"
                     "vmla.f32 s20, s19, s12\n\tvmla.f32 s21, s19, s13\n\t"
                     "vmla.f32 s22, s19, s14\n\tvmla.f32 s23, s19, s15\n\t"
                     "subs %[count], #1\n\t"
                     "vstmia %[dx], {s20-s23}\n\t"
                     "add %[dx], %[dx_step]\n\t"
                     "bne 1b"
                     : [dy] "+r"(dy), [dx] "+r"(dx), [count] "+r"(count)
                     : [w] "r"(w), [dy_step] "r"(dy_step), [dx_step] "r"(dx_step)
                     : "cc", "memory", "s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "s12",
                       "s13", "s14", "s15", "s16", "s17", "s18", "s19", "s20", "s21", "s22", "s23");
}
#else
static void add_products(const float *w, const float *dy, int32_t dy_step, float *dx, int32_t dx_step, int32_t count) {
    for (; count > 0; --count, dy += dy_step, dx += dx_step) {
        const float a = dy[0], b = dy[1], c = dy[2], d = dy[3];
        dx[0] = dx[0] + a * w[0] + b * w[4] + c * w[8] + d * w[12];
        dx[1] = dx[1] + a * w[1] + b * w[5] + c * w[9] + d * w[13];
        dx[2] = dx[2] + a * w[2] + b * w[6] + c * w[10] + d * w[14];
        dx[3] = dx[3] + a * w[3] + b * w[7] + c * w[11] + d * w[15];
    }
}
#endif

/* The only tap of 4 output channels, whose rows lie one behind the other, to 4 input channels: a value of dx is fetched
 * once for four products, which are added in the order of the rows. */
static void add_4_by_4(const tlc_seen_t *v, const int8_t *w, int32_t row, const float *dy, float *dx) {
    float weights[16];
    for (int o = 0; o < 4; ++o, w += row) {
        weights[4 * o] = (float)w[0], weights[4 * o + 1] = (float)w[1];
        weights[4 * o + 2] = (float)w[2], weights[4 * o + 3] = (float)w[3];
    }
    for (int32_t r = 0; r < v->rows; ++r, dy += v->dy_row, dx += v->x_row) {
        add_products(weights, dy, v->dy_col, dx, v->x_col, v->cols);
    }
}

void tlc_conv2d_input_grad_f32(const tlc_conv2d_grad_t *p, tlc_rows_t *w, float *dy, float *dx) {
    const int32_t in_c = p->in_c / p->groups, out_c = p->out_c / p->groups;
    const int is_pointwise = p->kernel_h * p->kernel_w == 1 && in_c % 4 == 0;
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
                const int8_t *const rows = tlc_rows_next_4(w);
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
