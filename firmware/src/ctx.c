/* SPDX-License-Identifier: Apache-2.0
 *
 * ctx.c: an instance of a model, its inputs and its gradient.
 */
#include <string.h>

#include "tlc/bytes.h"
#include "tlc/device.h"
#include "tlc/train_int.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "tensors go over the link as they lie in memory: little-endian CPUs only"
#endif

tlc_status_t tlc_ctx_init(tlc_ctx_t *ctx, const tlc_model_t *model, uint8_t *arena, uint8_t *state) {
    if (!model || (!arena && model->arena_bytes) || (!state && model->state_bytes) || ((uintptr_t)arena & 15u) != 0 ||
        ((uintptr_t)state & 15u) != 0) {
        return TLC_ERR_ARG;
    }
    memset(ctx, 0, sizeof *ctx);
    ctx->model = model;
    ctx->arena = arena;
    ctx->state = state;
    if (model->init) {
        model->init(ctx);
    }
    return TLC_OK;
}

/* Nearest, ties away from zero, as LiteRT's QUANTIZE; without libm. */
static int8_t quantize(float value, float scale, int32_t zero_point) {
    if (value != value) {
        return (int8_t)zero_point;
    }
    float real = value / scale;
    real = real > 1024.0f ? 1024.0f : real < -1024.0f ? -1024.0f : real;
    int32_t q = (int32_t)real;
    const float rest = real - (float)q;
    if (rest >= 0.5f) {
        q++;
    } else if (rest <= -0.5f) {
        q--;
    }
    q += zero_point;
    return (int8_t)(q < -128 ? -128 : q > 127 ? 127 : q);
}

void tlc_sample_put(tlc_sample_t *sample, float value) {
    const tlc_model_t *model = sample->ctx->model;
    if (sample->input == model->input_count) {
        return;
    }
    const tlc_tensor_t *tensor = &model->inputs[sample->input];
    sample->ctx->has_forward = 0;
    sample->ctx->arena[tensor->offset + sample->next] = (uint8_t)quantize(value, tensor->scale, tensor->zero_point);
    if (++sample->next == tensor->elements) {
        sample->next = 0;
        ++sample->input;
    }
}

void tlc_sample_label(tlc_sample_t *sample, uint32_t label) {
    sample->labelled = true;
    sample->target = (tlc_target_t){.label = label, .values = NULL};
}

void tlc_sample_target(tlc_sample_t *sample, const float *values) {
    sample->labelled = true;
    sample->target = (tlc_target_t){.label = 0, .values = values};
}

tlc_status_t tlc_run_forward(tlc_ctx_t *ctx) {
    ctx->has_forward = 0;
    const tlc_status_t status = ctx->model->forward(ctx);
    if (status == TLC_OK && ctx->model->backward) {
        ctx->has_forward = 1;
    }
    return status;
}

tlc_status_t tlc_select_cut(tlc_ctx_t *ctx, uint8_t cut) {
    const tlc_model_t *const model = ctx->model;
    if (cut == model->cut) {
        return TLC_OK;
    }
    if (cut >= model->cut_count) {
        return TLC_ERR_ARG;
    }
    if (ctx->samples && model->update) {
        (void)!model->update(ctx, NULL);
    }
    ctx->samples = 0;
    ctx->has_forward = 0;
    ctx->model = model->cuts[cut];
    return TLC_OK;
}

static bool is_finite(float value) { /* neither NaN nor infinite: the exponent is not all ones */
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (bits & 0x7F800000u) != 0x7F800000u;
}

void tlc_clear_gradient(tlc_ctx_t *ctx, const tlc_tensor_t *gradient) {
    const uint32_t elements = gradient->elements;
    memset(ctx->arena + gradient->offset, 0, gradient->dtype == TLC_S16 ? TLC_GRAD_BYTES(elements) : 4u * elements);
}

uint32_t tlc_gradient_room(const tlc_model_t *model) {
    const uint32_t elements = model->gradient->elements;
    return model->gradient->dtype == TLC_S16 ? (uint32_t)TLC_GRAD_BYTES(elements) : 4u * elements;
}

/* The same into integers: no instruction computes with a float. */
static tlc_status_t load_integers(const tlc_tensor_t *tensor, uint8_t *to, uint8_t dtype, float scale,
                                  const uint8_t *from, uint32_t bytes) {
    tlc_grad_t *const grad = (tlc_grad_t *)(void *)to;
    if (dtype == TLC_S8) {
        uint32_t bits;
        memcpy(&bits, &scale, sizeof bits);
        if (bytes != tensor->elements) {
            return TLC_ERR_SIZE;
        }
        if (!is_finite(scale)) {
            return TLC_ERR_NUMERIC;
        }
        tlc_take_grad_s8(from, bytes, bits, grad);
        return TLC_OK;
    }
    if (dtype != TLC_F32) {
        return TLC_ERR_ARG;
    }
    if (bytes != 4u * tensor->elements) {
        return TLC_ERR_SIZE;
    }
    for (uint32_t i = 0; i < tensor->elements; i++) {
        uint32_t bits;
        memcpy(&bits, from + 4u * i, sizeof bits);
        if ((bits & 0x7F800000u) == 0x7F800000u) {
            return TLC_ERR_NUMERIC;
        }
    }
    tlc_take_grad_f32(from, tensor->elements, grad);
    return TLC_OK;
}

tlc_status_t tlc_load_gradient(tlc_ctx_t *ctx, uint8_t dtype, float scale, const uint8_t *from, uint32_t bytes) {
    const tlc_tensor_t *tensor = ctx->model->gradient;
    if (!tensor) {
        return TLC_ERR_STATE;
    }
    uint8_t *to = ctx->arena + tensor->offset;
    if (tensor->dtype == TLC_S16) {
        return load_integers(tensor, to, dtype, scale, from, bytes);
    }
    if (dtype == TLC_F32) {
        if (bytes != 4u * tensor->elements) {
            return TLC_ERR_SIZE;
        }
        if (from != to) {
            memmove(to, from, bytes);
        }
    } else if (dtype == TLC_S8) {
        if (bytes != tensor->elements) {
            return TLC_ERR_SIZE;
        }
        for (uint32_t i = 0; i < tensor->elements; i++) { /* upwards: value i lies at or behind 4 * i */
            const float value = scale * (float)(int8_t)from[i];
            memcpy(to + 4u * i, &value, sizeof value);
        }
    } else {
        return TLC_ERR_ARG;
    }
    for (uint32_t i = 0; i < tensor->elements; i++) {
        float value;
        memcpy(&value, to + 4u * i, sizeof value);
        if (!is_finite(value)) {
            return TLC_ERR_NUMERIC;
        }
    }
    return TLC_OK;
}
