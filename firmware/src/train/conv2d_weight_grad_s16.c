/* SPDX-License-Identifier: Apache-2.0
 *
 * Eight output channels at a time: their gradients are spread out in two panels, position behind position, and one
 * tap's view of one input channel beside them. A weight's gradient is the dot product of two of these.
 */
#include <string.h>

#include "odd.h"
#include "panel.h"

typedef struct {
    const tlc_conv2d_grad_s16_t *p;
    int32_t first, outputs; /* output channels of the block */
    int16_t *panels;        /* (TLC_PANEL / 4, chunk / 2, 4, 2) */
    int16_t *planes;        /* (4, chunk) */
    int32_t *sums;          /* (TLC_PANEL, row); NULL: one chunk holds all positions */
    uint32_t row;           /* weights of an output channel */
} block_t;

/* dy of positions [start, start + count), with a zero where they are odd. */
static void fill_panels(const block_t *b, const int16_t *dy, int32_t start, int32_t count) {
    const tlc_conv2d_grad_s16_t *p = b->p;
    for (int32_t o = 0; o < TLC_PANEL; ++o) {
        int16_t *to = b->panels + o / 4 * 4 * p->chunk + 2 * (o % 4);
        if (o >= b->outputs) {
            if (o / 4 * 4 < b->outputs) {
                for (int32_t k = 0; k < count + (count & 1); ++k) {
                    to[tlc_panel_at((uint32_t)k, 0)] = 0;
                }
            }
            continue;
        }
        const int16_t *from = dy + start * p->out_c + b->first + o;
        for (int32_t k = 0; k < count; ++k, from += p->out_c) {
            to[tlc_panel_at((uint32_t)k, 0)] = (int16_t)tlc_odd(*from, p->headroom);
        }
        if (count & 1) {
            to[tlc_panel_at((uint32_t)count, 0)] = 0;
        }
    }
}

#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FEATURE_UNALIGNED) && defined(__GNUC__)

/* Four channels of `count` positions, `step` apart, less the zero point: two positions at a time are turned round. */
static int32_t spread_4(const int8_t *x, int32_t step, int32_t count, int32_t zp, int16_t *planes, int32_t chunk) {
    const uint32_t offset = (uint32_t)(-zp & 0xFFFF) * 0x10001u;
    int16_t *a = planes, *b = planes + chunk, *c = b + chunk, *d = c + chunk;
    int32_t i = 0;
    for (; i + 2 <= count; i += 2) {
        uint32_t first, second, even, odd;
        memcpy(&first, x, sizeof first);
        memcpy(&second, x + step, sizeof second);
        x += 2 * step;
        uint32_t pair;
        __asm__ __volatile__("sxtab16 %[even], %[offset], %[first]\n\t" /* channels 0 and 2 of the first position */
                             "sxtab16 %[odd], %[offset], %[first], ror #8\n\t"
                             "sxtab16 %[first], %[offset], %[second]\n\t"
                             "sxtab16 %[second], %[offset], %[second], ror #8\n\t"
                             "pkhbt %[pair], %[even], %[first], lsl #16\n\t"
                             "str %[pair], [%[a]], #4\n\t"
                             "pkhbt %[pair], %[odd], %[second], lsl #16\n\t"
                             "str %[pair], [%[b]], #4\n\t"
                             "pkhtb %[pair], %[first], %[even], asr #16\n\t"
                             "str %[pair], [%[c]], #4\n\t"
                             "pkhtb %[pair], %[second], %[odd], asr #16\n\t"
                             "str %[pair], [%[d]], #4\n\t"
                             : [even] "=&r"(even), [odd] "=&r"(odd), [first] "+r"(first), [second] "+r"(second),
                               [pair] "=&r"(pair), [a] "+r"(a), [b] "+r"(b), [c] "+r"(c), [d] "+r"(d)
                             : [offset] "r"(offset)
                             : "memory");
    }
    return i;
}

#else

static int32_t spread_4(const int8_t *x, int32_t step, int32_t count, int32_t zp, int16_t *planes, int32_t chunk) {
    int32_t i = 0;
    for (; i < count; ++i, x += step) {
        planes[i] = (int16_t)(x[0] - zp);
        planes[chunk + i] = (int16_t)(x[1] - zp);
        planes[2 * chunk + i] = (int16_t)(x[2] - zp);
        planes[3 * chunk + i] = (int16_t)(x[3] - zp);
    }
    return i;
}

#endif

/* A run of positions along a row of x, or of zeros where x is NULL, into `channels` planes. */
static void spread(const int8_t *x, int32_t step, int32_t count, int32_t zp, int32_t channels, int16_t *planes,
                   int32_t chunk) {
    int32_t done = 0;
    if (x != NULL && channels == 4) {
        done = spread_4(x, step, count, zp, planes, chunk);
    }
    for (int32_t c = 0; c < channels; ++c, planes += chunk) {
        for (int32_t i = done; i < count; ++i) {
            planes[i] = x != NULL ? (int16_t)(x[i * step + c] - zp) : 0;
        }
    }
}

static int32_t least(int32_t a, int32_t b) { return a < b ? a : b; }

/* What one tap sees of `channels` channels from x on at positions [start, start + count). */
static void fill_planes(const block_t *b, const int8_t *x, int32_t ky, int32_t kx, int32_t channels, int32_t start,
                        int32_t count) {
    const tlc_conv2d_grad_s16_t *p = b->p;
    const int32_t step = p->stride_w * p->in_c, left = kx * p->dilation_w - p->pad_left;
    /* Outputs [from, to) of a row see the image through this tap. */
    const int32_t from = least(left < 0 ? (-left + p->stride_w - 1) / p->stride_w : 0, p->out_w);
    const int32_t room = p->in_w - left;
    const int32_t to = room <= 0 ? from : least((room + p->stride_w - 1) / p->stride_w, p->out_w);
    for (int32_t done = 0; done < count;) {
        const int32_t oy = (start + done) / p->out_w, ox = (start + done) % p->out_w;
        const int32_t iy = oy * p->stride_h + ky * p->dilation_h - p->pad_top;
        int16_t *at = b->planes + done;
        int32_t run;
        if (iy < 0 || iy >= p->in_h || ox >= to || ox < from) {
            const int is_left = iy >= 0 && iy < p->in_h && ox < from && from < to;
            run = least((is_left ? from : p->out_w) - ox, count - done);
            spread(NULL, 0, run, 0, channels, at, p->chunk);
        } else {
            run = least(to - ox, count - done);
            spread(x + (iy * p->in_w + left) * p->in_c + ox * step, step, run, p->in_zp, channels, at, p->chunk);
        }
        done += run;
    }
    if (count & 1) {
        spread(NULL, 0, 1, 0, channels, b->planes + count, p->chunk);
    }
}

/* The same of a whole block where nothing is added to; 0: the values are too large for the scale so far. */
static inline int put_8(const block_t *b, const tlc_writer_t *w, uint32_t column, const tlc_panel_sum_t *v) {
    const int32_t total = tlc_writer_total(w);
    uint32_t magnitude = tlc_magnitude(v[0].p0) | tlc_magnitude(v[0].p1) | tlc_magnitude(v[0].p2);
    magnitude |= tlc_magnitude(v[0].p3) | tlc_magnitude(v[1].p0) | tlc_magnitude(v[1].p1);
    magnitude |= tlc_magnitude(v[1].p2) | tlc_magnitude(v[1].p3);
    if (tlc_is_over(magnitude, total, TLC_GRAD_BITS)) {
        return 0;
    }
    const uint32_t row = b->row;
    int16_t *to = w->q + (uint32_t)(b->first - b->p->out_first) * row + column;
    *to = (int16_t)tlc_odd(v[0].p0, total), to += row;
    *to = (int16_t)tlc_odd(v[0].p1, total), to += row;
    *to = (int16_t)tlc_odd(v[0].p2, total), to += row;
    *to = (int16_t)tlc_odd(v[0].p3, total), to += row;
    *to = (int16_t)tlc_odd(v[1].p0, total), to += row;
    *to = (int16_t)tlc_odd(v[1].p1, total), to += row;
    *to = (int16_t)tlc_odd(v[1].p2, total), to += row;
    *to = (int16_t)tlc_odd(v[1].p3, total);
    return 1;
}

/* Weights number `column` of the block's output channels. */
static void put(const block_t *b, tlc_writer_t *w, uint32_t column, const tlc_panel_sum_t *values) {
    int32_t sums[TLC_PANEL];
    uint32_t magnitude = 0;
    if (!w->adds && b->outputs == TLC_PANEL && put_8(b, w, column, values)) {
        return;
    }
    const uint32_t top = (uint32_t)(b->first - b->p->out_first) * b->row;
    for (int32_t o = 0; o < b->outputs; ++o) {
        const tlc_panel_sum_t *four = &values[o / 4];
        const int32_t value = o % 4 == 0 ? four->p0 : o % 4 == 1 ? four->p1 : o % 4 == 2 ? four->p2 : four->p3;
        sums[o] = tlc_writer_sum(w, top + (uint32_t)o * b->row + column, value);
        magnitude |= tlc_magnitude(sums[o]);
    }
    if (tlc_writer_full(w, magnitude)) {
        const int32_t more = tlc_writer_grow(w, magnitude);
        tlc_odd_shift(w->q, 1, top, top, more);
        tlc_odd_shift(w->q + top, (uint32_t)b->outputs, b->row, column, more);
    }
    for (int32_t o = 0; o < b->outputs; ++o) {
        w->q[top + (uint32_t)o * b->row + column] = (int16_t)tlc_odd(sums[o], w->shift);
    }
}

/* The same of a static scale. */
static void store(const block_t *b, const tlc_writer_t *w, uint32_t column, const tlc_panel_sum_t *values) {
    const uint32_t row = b->row;
    int16_t *to = w->q + (uint32_t)(b->first - b->p->out_first) * row + column;
    const int32_t written = w->written;
    for (int32_t left = b->outputs; left > 0; left -= 4, ++values, to += 4 * row) {
        to[0] = tlc_near_s16(values->p0, written);
        if (left > 1) {
            to[row] = tlc_near_s16(values->p1, written);
        }
        if (left > 2) {
            to[2 * row] = tlc_near_s16(values->p2, written);
        }
        if (left > 3) {
            to[3 * row] = tlc_near_s16(values->p3, written);
        }
    }
}

/* Over positions [start, start + count). */
static inline __attribute__((always_inline)) void take_chunk(const block_t *b, const int8_t *x, const int16_t *dy,
                                                             int32_t start, int32_t count, tlc_writer_t *w,
                                                             const int is_static) {
    const tlc_conv2d_grad_s16_t *p = b->p;
    const uint32_t pairs = (uint32_t)(count + 1) / 2;
    fill_panels(b, dy, start, count);
    uint32_t column = 0;
    for (int32_t tap = 0; tap < p->kernel_h * p->kernel_w; ++tap) {
        for (int32_t c = 0; c < p->ins; c += 4) {
            const int32_t channels = least(p->ins - c, 4);
            fill_planes(b, x + c, tap / p->kernel_w, tap % p->kernel_w, channels, start, count);
            for (int32_t i = 0; i < channels; ++i, ++column) {
                tlc_panel_sum_t sum[TLC_PANEL / 4] = {{0, 0, 0, 0}, {0, 0, 0, 0}};
                for (int32_t four = 0; 4 * four < b->outputs; ++four) {
                    tlc_panel(b->panels + four * 4 * p->chunk, b->planes + i * p->chunk, pairs, &sum[four]);
                }
                if (b->sums == NULL && is_static) {
                    store(b, w, column, sum);
                    continue;
                }
                if (b->sums == NULL) {
                    put(b, w, column, sum);
                    continue;
                }
                int32_t *to = b->sums + TLC_PANEL * column;
                for (int32_t four = 0; four < TLC_PANEL / 4; ++four, to += 4) {
                    to[0] += sum[four].p0, to[1] += sum[four].p1, to[2] += sum[four].p2, to[3] += sum[four].p3;
                }
            }
        }
    }
}

static inline __attribute__((always_inline)) void weight_grad(const tlc_conv2d_grad_s16_t *p, const int8_t *x,
                                                              const tlc_grad_t *dy, tlc_grad_t *dw, void *scratch,
                                                              tlc_writer_t w, const int is_static) {
    const int32_t positions = p->out_h * p->out_w, depth = p->in_c / p->groups, share = p->out_c / p->groups;
    int16_t *const panels = scratch, *const planes = panels + TLC_PANEL * p->chunk;
    int32_t *const sums = positions > p->chunk ? (int32_t *)(void *)(planes + 4 * p->chunk) : NULL;
    const uint32_t row = (uint32_t)(p->kernel_h * p->kernel_w * p->ins);
    const int32_t last = p->out_first + p->outs;
    for (int32_t o = p->out_first; o < last;) {
        const int32_t group = o / share;
        const block_t b = {p, o, least(least((group + 1) * share, last) - o, TLC_PANEL), panels, planes, sums, row};
        if (sums != NULL) {
            memset(sums, 0, TLC_PANEL * row * sizeof *sums);
        }
        for (int32_t start = 0; start < positions; start += p->chunk) {
            take_chunk(&b, x + group * depth + p->in_first, tlc_grad_const_values(dy), start,
                       least(p->chunk, positions - start), &w, is_static);
        }
        for (uint32_t column = 0; sums != NULL && column < row; ++column) {
            const int32_t *v = sums + TLC_PANEL * column;
            const tlc_panel_sum_t sum[TLC_PANEL / 4] = {{v[0], v[1], v[2], v[3]}, {v[4], v[5], v[6], v[7]}};
            if (is_static) {
                store(&b, &w, column, sum);
            } else {
                put(&b, &w, column, sum);
            }
        }
        o += b.outputs;
    }
    tlc_writer_end(&w, dw);
}

void tlc_conv2d_weight_grad_s16(const tlc_conv2d_grad_s16_t *p, const int8_t *x, const tlc_grad_t *dy, tlc_grad_t *dw,
                                void *scratch) {
    weight_grad(p, x, dy, dw, scratch, tlc_writer(dw, tlc_grad_times(dy->scale, p->headroom), 1), 0);
}

void tlc_conv2d_weight_static_grad_s16(const tlc_conv2d_grad_s16_t *p, const int8_t *x, const tlc_grad_t *dy,
                                       tlc_grad_t *dw, void *scratch) {
    const uint32_t scale = tlc_grad_times(dy->scale, p->headroom);
    weight_grad(p, x, dy, dw, scratch, tlc_writer_static(dw, scale, 0, p->written, 0), 1);
}
