/* SPDX-License-Identifier: Apache-2.0 */
#include "tlc/train.h"

void tlc_bias_grad_f32(const tlc_bias_grad_t *p, const float *dy, float *db) {
    uint32_t c = 0;
    dy += p->out_first;
    for (; c + 4 <= p->outs; c += 4) {
        float s0 = 0.0f, s1 = 0.0f, s2 = 0.0f, s3 = 0.0f;
        const float *g = dy + c;
        for (uint32_t r = 0; r < p->rows; ++r, g += p->channels) {
            s0 += g[0], s1 += g[1], s2 += g[2], s3 += g[3];
        }
        db[c] += s0, db[c + 1] += s1, db[c + 2] += s2, db[c + 3] += s3;
    }
    for (; c < p->outs; ++c) {
        float sum = 0.0f;
        for (uint32_t r = 0; r < p->rows; ++r) {
            sum += dy[r * p->channels + c];
        }
        db[c] += sum;
    }
}
