/* SPDX-License-Identifier: Apache-2.0
 *
 * train.c: the host's lessons, BACKWARD, STEP and TRAIN.
 */
#include "device_internal.h"

static const char UPDATES_AT_ONCE[] = "this model updates while it goes back: send TRAIN with a step";
static const char NO_SUCH_PASS[] = "the gradient of a forward pass that the arena does not hold";

/* The same for the gradient of output 0: behind the host's part, the second backward pass must have been. */
static bool can_go_back(const tlc_device_t *device, uint32_t of, uint32_t batch) {
    return tlc_device_holds_pass(device, of, batch) &&
           (!device->config.model->tail || device->ctx.has_forward == TLC_HAS_TAIL_GRADIENT);
}

static tlc_step_t step_told(const tlc_device_t *device, const uint8_t *at, uint32_t number) {
    const float bound = tlc_get_f32(at + TLC_TOLD_MAX_NORM);
    return (tlc_step_t){
        .learning_rate = tlc_get_f32(at + TLC_TOLD_RATE),
        .step = number,
        .seed = tlc_get_u32(at + TLC_TOLD_SEED),
        .momentum = tlc_get_f32(at + TLC_TOLD_MOMENTUM),
        .weight_decay = tlc_get_f32(at + TLC_TOLD_WEIGHT_DECAY),
        .clip = tlc_get_f32(at + TLC_TOLD_CLIP),
        .max_norm = bound > 0.0f ? bound : device->config.max_gradient,
    };
}

static bool is_size(float value) { return value >= 0.0f && value <= 3.0e38f; } /* NaN fails both */

/* What is wrong with a step; NULL: nothing. */
static const char *objection(const tlc_model_t *model, const tlc_step_t *step, tlc_status_t *status) {
    *status = TLC_ERR_ARG;
    if (step->step == 0) {
        return "steps count from 1";
    }
    if (step->momentum != 0.0f && !model->has_velocities) {
        return "momentum, but this model keeps no velocities: compile it with --momentum";
    }
    if (model->gradient && model->gradient->dtype == TLC_S16 && (step->weight_decay != 0.0f || step->clip != 0.0f)) {
        return "weight decay or clipping, but this model learns in integers, which have neither";
    }
    *status = TLC_ERR_NUMERIC;
    if (!is_size(step->learning_rate)) {
        return "the learning rate is not a finite number";
    }
    if (!is_size(step->momentum) || !is_size(step->weight_decay) || !is_size(step->clip)) {
        return "momentum, weight decay or clipping is not a finite number";
    }
    return NULL;
}

/* The gradient that was sent into its place; nothing from the head at the cut. What is wrong; NULL: nothing. */
static const char *load_gradient(tlc_device_t *device, uint8_t dtype, const uint8_t *scale, tlc_status_t *status) {
    const tlc_model_t *model = device->config.model;
    const tlc_link_message_t *held = &device->held;
    *status = TLC_ERR_SIZE;
    if (!held->payload) {
        return "no gradient of this size";
    }
    *status = tlc_load_gradient(&device->ctx, dtype, tlc_get_f32(scale), held->payload, held->payload_bytes);
    if (*status != TLC_OK) {
        return *status == TLC_ERR_NUMERIC ? "the gradient is not finite" : "no gradient of this size and type";
    }
    if (model->aux) {
        tlc_clear_gradient(&device->ctx, model->aux->gradient);
    }
    return NULL;
}

/* A step, or its lesson, could not be done. *how: of NUMERIC, when it is undone, too. */
static void say_failed(tlc_device_t *device, tlc_status_t status, const char *how, const char *else_how) {
    if (status == TLC_ERR_NUMERIC) {
        tlc_device_diverged(device);
    }
    tlc_device_say_error(device, status, status == TLC_ERR_NUMERIC ? how : else_how);
}

void tlc_device_take_backward(tlc_device_t *device) {
    const tlc_model_t *model = device->config.model;
    const tlc_link_message_t *held = &device->held;
    const tlc_common_t common = tlc_common_get(held->header);
    const uint32_t of = tlc_get_u32(held->header + TLC_BACKWARD_FORWARD);
    if (!model->update || !model->gradient) {
        tlc_device_say_error(device, TLC_ERR_STATE, model->backward ? UPDATES_AT_ONCE : TLC_FROZEN);
        return;
    }
    if (of != 0 && of == device->backward) {
        tlc_device_say_done(device, TLC_DONE_REPEATED, 0);
        return;
    }
    if (!can_go_back(device, of, common.batch)) {
        tlc_device_say_error(device, TLC_ERR_STATE, NO_SUCH_PASS);
        return;
    }
    tlc_status_t status;
    const char *const wrong =
        load_gradient(device, held->header[TLC_BACKWARD_DTYPE], held->header + TLC_BACKWARD_SCALE, &status);
    if (wrong) {
        tlc_device_say_error(device, status, wrong);
        return;
    }
    const char *how;
    status = tlc_device_go_back(device, NULL, &how);
    if (status != TLC_OK) {
        tlc_device_say_error(device, status, "the backward pass failed");
        return;
    }
    device->backward = of;
    tlc_device_say_done(device, 0, device->backward_ticks);
}

void tlc_device_take_step(tlc_device_t *device) {
    const tlc_model_t *model = device->config.model;
    const tlc_common_t common = tlc_common_get(device->held.header);
    const tlc_step_t step = step_told(device, device->held.header + TLC_STEP_TOLD, common.step);
    if (!model->update) {
        tlc_device_say_error(device, TLC_ERR_STATE, model->backward ? UPDATES_AT_ONCE : TLC_FROZEN);
        return;
    }
    if (step.step != 0 && step.step <= device->step) {
        tlc_device_say_done(device, TLC_DONE_REPEATED, 0);
        return;
    }
    tlc_status_t status;
    const char *const wrong = objection(model, &step, &status);
    if (wrong) {
        tlc_device_say_error(device, status, wrong);
        return;
    }
    if (device->ctx.samples == 0) {
        tlc_device_say_error(device, TLC_ERR_STATE, "no gradient is accumulated");
        return;
    }
    const char *how;
    status = tlc_device_apply(device, &step, &how);
    if (status != TLC_OK) {
        say_failed(device, status, how, "the update failed");
        return;
    }
    const bool wanted = (device->held.header[TLC_STEP_FLAGS] & TLC_STEP_SAVE) != 0;
    tlc_device_say_done(device, tlc_device_stepped(device, step.step, wanted), device->update_ticks);
}

static void say_trained(tlc_device_t *device, uint8_t flags, uint64_t spent) {
    uint8_t message[TLC_TRAINED_BYTES];
    tlc_device_begin_answer(device, message, sizeof message);
    tlc_put_f32(message + TLC_TRAINED_LOSS, device->verdict.loss);
    tlc_put_u16(message + TLC_TRAINED_PREDICTED, (uint16_t)tlc_min_u32(device->verdict.predicted, UINT16_MAX));
    message[TLC_TRAINED_FLAGS] = flags;
    tlc_put_u64(message + TLC_TRAINED_TICKS, spent);
    (void)!tlc_device_answer(device, TLC_STREAM_CONTROL, TLC_MSG_TRAINED, message, sizeof message, NULL, 0);
}

/* The gradient that was sent, or that of the loss, into its place. What is wrong; NULL: nothing. */
static const char *load_lesson(tlc_device_t *device, tlc_status_t *status) {
    const tlc_model_t *model = device->config.model;
    const tlc_link_message_t *held = &device->held;
    const uint8_t *const value = held->header + TLC_TRAIN_VALUE;
    const uint8_t kind = held->header[TLC_TRAIN_KIND];
    const bool both = kind == TLC_TRAIN_BOTH_F32 || kind == TLC_TRAIN_BOTH_S8;
    if (both && !model->aux) {
        *status = TLC_ERR_STATE;
        return TLC_NO_HEAD;
    }
    if (kind == TLC_TRAIN_F32 || kind == TLC_TRAIN_S8 || both) {
        const bool floats = kind == TLC_TRAIN_F32 || kind == TLC_TRAIN_BOTH_F32;
        const char *const wrong = load_gradient(device, floats ? TLC_F32 : TLC_S8, value, status);
        if (wrong) {
            return wrong;
        }
        device->verdict = (tlc_verdict_t){.loss = 0.0f, .predicted = 0};
        if (!both) {
            return NULL;
        }
    } else if (model->aux) { /* nothing from the host */
        tlc_clear_gradient(&device->ctx, model->gradient);
    }
    *status = TLC_ERR_ARG;
    if (kind != TLC_TRAIN_LABEL && kind != TLC_TRAIN_VALUES && !both) {
        return "no such kind of lesson";
    }
    if (!model->loss || model->tail) {
        *status = TLC_ERR_STATE;
        return model->tail ? "the loss is behind the host's part: send TAIL"
                           : "this model has no loss of its own: compile it with --loss";
    }
    const uint8_t *const beside = held->header + TLC_TRAIN_CLASS;
    tlc_target_t target = {.label = both ? tlc_get_u16(beside) : tlc_get_u32(value), .values = NULL};
    if (kind == TLC_TRAIN_VALUES) {
        if (!held->payload || held->payload_bytes != 4u * model->outputs[0].elements) {
            *status = TLC_ERR_SIZE;
            return "not as many values as the output has";
        }
        target.values = (const float *)(const void *)held->payload;
    }
    *status = model->loss(&device->ctx, &target, &device->verdict);
    return *status == TLC_OK            ? NULL
           : *status == TLC_ERR_NUMERIC ? "the loss is not finite"
           : kind == TLC_TRAIN_VALUES   ? "values, but this model's loss takes a label"
                                        : "there is no such class";
}

void tlc_device_take_train(tlc_device_t *device) {
    const tlc_model_t *model = device->config.model;
    const tlc_link_message_t *held = &device->held;
    const tlc_common_t common = tlc_common_get(held->header);
    const uint32_t of = tlc_get_u32(held->header + TLC_TRAIN_FORWARD);
    const uint8_t flags = held->header[TLC_TRAIN_FLAGS];
    const bool applies = (flags & TLC_STEP_APPLY) != 0;
    const tlc_step_t step = step_told(device, held->header + TLC_TRAIN_TOLD, common.step);
    tlc_status_t status = TLC_ERR_STATE;
    const char *wrong = NULL;
    if (!model->backward || !model->gradient) {
        wrong = TLC_FROZEN;
    } else if (of != 0 && of == device->backward) {
        say_trained(device, TLC_DONE_REPEATED, 0);
        return;
    } else if (!can_go_back(device, of, common.batch)) {
        wrong = NO_SUCH_PASS;
    } else if (!applies && !model->update) {
        wrong = UPDATES_AT_ONCE;
    } else if (applies && step.step != 0 && step.step <= device->step) {
        wrong = "this step was applied before, with another sample";
    } else if (applies) {
        wrong = objection(model, &step, &status);
    }
    if (!wrong) {
        wrong = load_lesson(device, &status);
    }
    if (wrong) {
        tlc_device_say_error(device, status, wrong);
        return;
    }
    const char *how;
    status = tlc_device_go_back(device, &step, &how);
    uint64_t spent = device->backward_ticks;
    if (status == TLC_OK && applies && model->update) {
        status = tlc_device_apply(device, &step, &how);
        spent += device->update_ticks;
    }
    if (status != TLC_OK) {
        say_failed(device, status, how, "the backward pass failed");
        return;
    }
    device->backward = of;
    say_trained(device, applies ? tlc_device_stepped(device, step.step, (flags & TLC_STEP_SAVE) != 0) : 0u, spent);
}
