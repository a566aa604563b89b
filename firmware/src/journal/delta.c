/* SPDX-License-Identifier: Apache-2.0 */
#include "delta.h"

#include <string.h>

#include "tlc/bytes.h"
#include "tlc/crc32.h"

#define AS_IT_IS 0u
#define CODED 1u
#define ZEROS 0x80u  /* most zeros in a run */
#define VALUES 0x40u /* most differences in a run */
#define NIBBLES 0x80u
#define BYTES 0xC0u

/* ---- bytes ---- */

void tlc_sink_flush(tlc_sink_t *sink) {
    const uint32_t used = sink->used;
    const uint32_t count = (used + TLC_JOURNAL_UNIT - 1u) / TLC_JOURNAL_UNIT * TLC_JOURNAL_UNIT;
    sink->used = 0;
    if (!sink->storage || count == 0 || sink->failed) {
        return;
    }
    uint8_t *const bytes = (uint8_t *)sink->buffer;
    memset(bytes + used, 0xFF, count - used);
    const tlc_storage_t *storage = sink->storage;
    sink->failed = !storage->flash_write(storage->self, sink->slot, sink->offset, bytes, count);
    sink->offset += count;
}

static void put(tlc_sink_t *sink, uint32_t value) {
    const uint8_t byte = (uint8_t)(value & 0xFFu);
    if (sink->counting) {
        sink->counted++;
        return;
    }
    sink->crc = tlc_crc32_byte(sink->crc, byte);
    if (sink->storage || sink->memory) {
        if (sink->bytes >= sink->room) {
            sink->failed = true;
        } else if (sink->storage) {
            ((uint8_t *)sink->buffer)[sink->used++] = byte;
            if (sink->used == sizeof sink->buffer) {
                tlc_sink_flush(sink);
            }
        } else {
            sink->memory[sink->bytes] = byte;
        }
    }
    sink->bytes++;
}

static uint32_t take(tlc_source_t *source) {
    if (source->left == 0) {
        source->failed = true;
        return 0;
    }
    uint8_t byte;
    if (source->storage) {
        if (source->at == source->filled) {
            const tlc_storage_t *storage = source->storage;
            const uint32_t count = source->left < sizeof source->buffer ? source->left : sizeof source->buffer;
            if (!storage->flash_read(storage->self, source->slot, source->offset, (uint8_t *)source->buffer, count)) {
                source->failed = true;
                return 0;
            }
            source->offset += count;
            source->at = 0;
            source->filled = count;
        }
        byte = ((const uint8_t *)source->buffer)[source->at++];
    } else {
        byte = *source->memory++;
    }
    source->left--;
    source->crc = tlc_crc32_byte(source->crc, byte);
    return byte;
}

/* ---- weights ---- */

typedef struct {
    const int8_t *values, *initial; /* initial NULL: zeros */
} weights_t;

static int32_t weight_delta(const weights_t *w, uint32_t i) {
    const uint32_t value = (uint8_t)w->values[i], initial = w->initial ? (uint8_t)w->initial[i] : 0u;
    const uint32_t delta = (value - initial) & 0xFFu;
    return (int32_t)(delta ^ 0x80u) - 0x80;
}

static bool is_small(int32_t delta) { return delta >= -8 && delta <= 7; }

/* Zeros from element i on, at most ZEROS. */
static uint32_t zeros_at(const weights_t *w, uint32_t i, uint32_t elements) {
    uint32_t count = 0;
    while (count < ZEROS && i + count < elements && weight_delta(w, i + count) == 0) {
        count++;
    }
    return count;
}

/* One zero alone costs no more among nibbles than a run of its own. */
static bool run_of_zeros(const weights_t *w, uint32_t i, uint32_t elements) {
    return weight_delta(w, i) == 0 && (i + 1 == elements || weight_delta(w, i + 1) == 0);
}

static void put_weights(const weights_t *w, uint32_t elements, tlc_sink_t *sink) {
    uint32_t i = 0;
    while (i < elements) {
        if (run_of_zeros(w, i, elements)) {
            const uint32_t count = zeros_at(w, i, elements);
            put(sink, count - 1);
            i += count;
            continue;
        }
        const bool small = is_small(weight_delta(w, i));
        uint32_t count = 1;
        while (count < VALUES && i + count < elements && is_small(weight_delta(w, i + count)) == small &&
               !run_of_zeros(w, i + count, elements)) {
            count++;
        }
        put(sink, (small ? NIBBLES : BYTES) + count - 1);
        for (uint32_t k = 0; k < count; k += small ? 2u : 1u) {
            const uint32_t low = (uint32_t)weight_delta(w, i + k);
            const uint32_t high = small && k + 1 < count ? (uint32_t)weight_delta(w, i + k + 1) : 0u;
            put(sink, small ? (low & 15u) | (high & 15u) << 4 : low);
        }
        i += count;
    }
}

static void set_weight(int8_t *values, const int8_t *initial, uint32_t i, uint32_t delta) {
    const uint32_t value = (delta + (initial ? (uint8_t)initial[i] : 0u)) & 0xFFu;
    values[i] = (int8_t)((int32_t)(value ^ 0x80u) - 0x80);
}

static bool take_weights(int8_t *values, const int8_t *initial, uint32_t elements, tlc_source_t *source) {
    uint32_t i = 0;
    while (i < elements && !source->failed) {
        const uint32_t code = take(source);
        const uint32_t count = code < NIBBLES ? code + 1 : (code & 0x3Fu) + 1;
        if (count > elements - i) {
            return false;
        }
        uint32_t byte = 0;
        for (uint32_t k = 0; k < count; k++) {
            uint32_t delta = 0;
            if (code >= BYTES) {
                delta = take(source);
            } else if (code >= NIBBLES) {
                byte = k % 2 ? byte >> 4 : take(source);
                delta = ((byte & 15u) ^ 8u) - 8u;
            }
            set_weight(values, initial, i + k, delta);
        }
        i += count;
    }
    return !source->failed;
}

/* ---- biases ---- */

typedef struct {
    const int32_t *values, *initial;
} biases_t;

static uint32_t bias_delta(const biases_t *b, uint32_t i) {
    return (uint32_t)b->values[i] - (b->initial ? (uint32_t)b->initial[i] : 0u);
}

static void put_biases(const biases_t *b, uint32_t elements, tlc_sink_t *sink) {
    for (uint32_t i = 0; i < elements; i++) {
        const uint32_t delta = bias_delta(b, i);
        uint32_t code = delta << 1 ^ (delta >> 31 ? 0xFFFFFFFFu : 0u);
        while (code >= 0x80u) {
            put(sink, code | 0x80u);
            code >>= 7;
        }
        put(sink, code);
    }
}

static bool take_biases(int32_t *values, const int32_t *initial, uint32_t elements, bool coded, tlc_source_t *source) {
    for (uint32_t i = 0; i < elements && !source->failed; i++) {
        uint32_t code = 0, byte = 0x80u;
        for (uint32_t shift = 0; coded ? (byte & 0x80u) != 0 : shift < 32; shift += coded ? 7u : 8u) {
            byte = take(source);
            if (coded && shift == 28 && byte > 15u) {
                return false;
            }
            code |= (coded ? byte & 0x7Fu : byte) << shift;
        }
        const uint32_t delta = coded ? code >> 1 ^ (code & 1u ? 0xFFFFFFFFu : 0u) : code;
        const uint32_t value = delta + (initial ? (uint32_t)initial[i] : 0u);
        memcpy(&values[i], &value, sizeof value);
    }
    return !source->failed;
}

/* ---- all of them ---- */

static void put_coded(const tlc_ctx_t *ctx, const tlc_param_t *param, tlc_sink_t *sink) {
    const void *values = ctx->state + param->offset;
    if (param->dtype == TLC_S8) {
        const weights_t weights = {values, param->initial};
        put_weights(&weights, param->elements, sink);
    } else {
        const biases_t biases = {values, param->initial};
        put_biases(&biases, param->elements, sink);
    }
}

static void put_as_it_is(const tlc_ctx_t *ctx, const tlc_param_t *param, tlc_sink_t *sink) {
    const void *values = ctx->state + param->offset;
    const weights_t weights = {values, param->initial};
    const biases_t biases = {values, param->initial};
    for (uint32_t i = 0; i < param->elements; i++) {
        if (param->dtype == TLC_S8) {
            put(sink, (uint32_t)weight_delta(&weights, i));
            continue;
        }
        const uint32_t delta = bias_delta(&biases, i);
        for (uint32_t shift = 0; shift < 32; shift += 8) {
            put(sink, delta >> shift);
        }
    }
}

void tlc_delta_put(const tlc_ctx_t *ctx, tlc_sink_t *sink) {
    for (uint32_t i = 0; i < ctx->model->param_count && !sink->failed; i++) {
        const tlc_param_t *param = &ctx->model->params[i];
        sink->counting = true;
        sink->counted = 0;
        put_coded(ctx, param, sink);
        sink->counting = false;
        const bool coded = sink->counted < param->elements * (param->dtype == TLC_S8 ? 1u : 4u);
        put(sink, coded ? CODED : AS_IT_IS);
        if (coded) {
            put_coded(ctx, param, sink);
        } else {
            put_as_it_is(ctx, param, sink);
        }
    }
}

bool tlc_delta_take_part(tlc_ctx_t *ctx, tlc_source_t *source) {
    for (uint32_t i = 0; i < ctx->model->param_count; i++) {
        const tlc_param_t *param = &ctx->model->params[i];
        void *values = ctx->state + param->offset;
        const uint32_t form = take(source);
        bool held = form <= CODED;
        if (param->dtype == TLC_S32) {
            held = held && take_biases(values, param->initial, param->elements, form == CODED, source);
        } else if (form == CODED) {
            held = take_weights(values, param->initial, param->elements, source);
        } else {
            for (uint32_t k = 0; held && k < param->elements; k++) {
                set_weight(values, param->initial, k, take(source));
            }
        }
        if (!held || source->failed) {
            return false;
        }
    }
    return true;
}

/* ---- the optimizer's memory ---- */

void tlc_memory_put(const tlc_ctx_t *ctx, tlc_sink_t *sink) {
    const tlc_model_t *model = ctx->model;
    const uint8_t *const memory = ctx->state + (model->state_bytes - model->memory_bytes);
    uint32_t used = model->memory_bytes;
    while (used > 0 && memory[used - 1] == 0) {
        used--;
    }
    for (uint32_t i = 0; i < used && !sink->failed; i++) {
        put(sink, memory[i]);
    }
}

bool tlc_memory_take(tlc_ctx_t *ctx, tlc_source_t *source) {
    const tlc_model_t *model = ctx->model;
    uint8_t *const memory = ctx->state + (model->state_bytes - model->memory_bytes);
    for (uint32_t i = 0; source->left > 0; i++) {
        if (i == model->memory_bytes || source->failed) {
            return false;
        }
        memory[i] = (uint8_t)take(source);
    }
    return !source->failed;
}

/* ---- messages ---- */

tlc_status_t tlc_delta_encode(const tlc_ctx_t *ctx, uint8_t *to, uint32_t room, uint32_t *bytes) {
    tlc_sink_t sink;
    memset(&sink, 0, sizeof sink);
    sink.memory = to;
    sink.room = room;
    tlc_delta_put(ctx, &sink);
    *bytes = sink.bytes;
    return sink.failed ? TLC_ERR_SIZE : TLC_OK;
}

tlc_status_t tlc_delta_decode(tlc_ctx_t *ctx, const uint8_t *from, uint32_t bytes) {
    tlc_source_t source;
    memset(&source, 0, sizeof source);
    source.memory = from;
    source.left = bytes;
    const bool held = tlc_delta_take_part(ctx, &source) && source.left == 0;
    if (!held) {
        ctx->model->init(ctx);
    } else if (ctx->model->refresh) {
        ctx->model->refresh(ctx);
    }
    return held ? TLC_OK : TLC_ERR_CORRUPT;
}
