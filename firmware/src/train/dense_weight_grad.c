/* SPDX-License-Identifier: Apache-2.0 */
#include "grad.h"

/* 4 rows at a time: an input is converted once for four products. x and dy from the first channel that learns. */
static void add_4(const tlc_dense_grad_t *p, const int8_t *x, const float *dy, float *dw) {
    float *const wb = dw + p->ins, *const wc = wb + p->ins, *const wd = wc + p->ins;
    for (uint32_t i = 0; i < p->ins; ++i) {
        float a = 0.0f, b = 0.0f, c = 0.0f, d = 0.0f;
        const float *g = dy;
        const int8_t *in = x + i;
        for (uint32_t n = 0; n < p->samples; ++n, g += p->out, in += p->in) {
            const float value = (float)(*in - p->in_zp);
            a = tlc_mla_f32(a, g[0], value), b = tlc_mla_f32(b, g[1], value);
            c = tlc_mla_f32(c, g[2], value), d = tlc_mla_f32(d, g[3], value);
        }
        dw[i] += a * p->in_scale, wb[i] += b * p->in_scale, wc[i] += c * p->in_scale, wd[i] += d * p->in_scale;
    }
}

void tlc_dense_weight_grad_f32(const tlc_dense_grad_t *p, const int8_t *x, const float *dy, float *dw) {
    uint32_t o = 0;
    x += p->in_first;
    dy += p->out_first;
    for (; o + 4 <= p->outs; o += 4) {
        add_4(p, x, dy + o, dw + o * p->ins);
    }
    for (; o < p->outs; ++o) {
        for (uint32_t i = 0; i < p->ins; ++i) {
            float sum = 0.0f;
            for (uint32_t n = 0; n < p->samples; ++n) {
                sum = tlc_mla_f32(sum, dy[n * p->out + o], (float)(x[n * p->in + i] - p->in_zp));
            }
            dw[o * p->ins + i] += sum * p->in_scale;
        }
    }
}
