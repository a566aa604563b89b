/* SPDX-License-Identifier: Apache-2.0
 *
 * tail.c: the part of the model behind the host's, TAIL, answered by GRADIENT, SMASHED or DONE.
 */
#include "device_internal.h"

static void say_gradient(tlc_device_t *device, uint8_t flags, uint64_t spent) {
    const tlc_tensor_t *gradient = device->config.model->tail->gradient;
    uint8_t message[TLC_GRADIENT_BYTES];
    tlc_device_begin_answer(device, message, sizeof message);
    tlc_put_f32(message + TLC_GRADIENT_LOSS, device->verdict.loss);
    message[TLC_GRADIENT_FLAGS] = (uint8_t)(flags | (device->tail_right ? (uint8_t)TLC_GRADIENT_RIGHT : 0u));
    tlc_put_u64(message + TLC_GRADIENT_TICKS, spent);
    (void)!tlc_device_answer(device, TLC_STREAM_BULK, TLC_MSG_GRADIENT, message, sizeof message,
                             device->config.arena + gradient->offset, 4u * gradient->elements);
}

/* The network's output, from the arena. */
static void say_output(tlc_device_t *device) {
    const tlc_tensor_t *output = device->config.model->tail->output;
    uint8_t message[TLC_SMASHED_BYTES];
    tlc_device_begin_answer(device, message, sizeof message);
    message[TLC_SMASHED_COUNT] = 1;
    tlc_put_u64(message + TLC_SMASHED_TICKS, device->forward_ticks);
    (void)!tlc_device_answer(device, TLC_STREAM_BULK, TLC_MSG_SMASHED, message, sizeof message,
                             device->config.arena + output->offset, output->elements);
}

/* What is wrong with a TAIL; NULL: nothing. */
static const char *tail_objection(const tlc_device_t *device, uint8_t kind, tlc_status_t *status) {
    const tlc_model_t *model = device->config.model;
    const tlc_link_message_t *held = &device->held;
    *status = TLC_ERR_ARG;
    if (kind > TLC_TAIL_OWN) {
        return "no such kind of TAIL";
    }
    *status = TLC_ERR_STATE;
    if (kind >= TLC_TAIL_LABEL && !model->loss) {
        return TLC_FROZEN;
    }
    if (!tlc_device_holds_pass(device, tlc_get_u32(held->header + TLC_TAIL_FORWARD),
                               tlc_common_get(held->header).batch) ||
        device->ctx.has_forward == TLC_HAS_TAIL_GRADIENT) {
        return "of a forward pass that the arena does not hold";
    }
    if (kind == TLC_TAIL_OWN && !(device->has_own && device->own_labelled)) {
        return "the sample came without a label";
    }
    *status = TLC_ERR_SIZE;
    return held->payload && held->payload_bytes == model->tail->input->elements ? NULL : "no tensor of this size";
}

/* The second part's forward pass, and for a label its loss and backward pass. What went wrong; NULL: nothing. */
static const char *run_tail(tlc_device_t *device, const tlc_target_t *target, tlc_status_t *status) {
    const tlc_model_t *model = device->config.model;
    *status = model->tail->tail_forward(&device->ctx);
    if (*status != TLC_OK) {
        return "the forward pass failed";
    }
    if (!target) {
        return NULL;
    }
    *status = model->loss(&device->ctx, target, &device->verdict);
    if (*status != TLC_OK) {
        return *status == TLC_ERR_NUMERIC ? "the loss is not finite" : "there is no such class";
    }
    device->tail_right = !target->values && device->verdict.predicted == target->label;
    *status = model->tail->tail_backward(&device->ctx);
    return *status == TLC_OK ? NULL : "the backward pass failed";
}

void tlc_device_take_tail(tlc_device_t *device) {
    const tlc_model_t *model = device->config.model;
    tlc_link_message_t *held = &device->held;
    const uint8_t kind = held->header[TLC_TAIL_KIND];
    const uint32_t of = tlc_get_u32(held->header + TLC_TAIL_FORWARD);
    if (!model->tail) {
        tlc_device_say_error(device, TLC_ERR_STATE,
                             "this model has nothing behind the host's part: compile it with --tail");
        return;
    }
    if (of != 0 && of == device->tail && kind == TLC_TAIL_RESULT) {
        tlc_device_say_done(device, TLC_DONE_REPEATED, 0);
        return;
    }
    if (of != 0 && of == device->tail && kind >= TLC_TAIL_LABEL && device->ctx.has_forward == TLC_HAS_TAIL_GRADIENT &&
        of == device->forward.request) {
        say_gradient(device, TLC_GRADIENT_REPEATED, 0);
        return;
    }
    tlc_status_t status;
    const char *wrong = tail_objection(device, kind, &status);
    if (wrong) {
        tlc_device_say_error(device, status, wrong);
        return;
    }
    uint8_t *const to = device->config.arena + model->tail->input->offset;
    if (held->payload != to) {
        memcpy(to, held->payload, held->payload_bytes);
        tlc_link_release(&device->link, held);
    }
    const tlc_target_t told = {.label = tlc_get_u32(held->header + TLC_TAIL_VALUE), .values = NULL};
    const uint32_t began = tlc_device_begin_work(device);
    const uint64_t start = tlc_device_ticks(device);
    device->layer_start = start;
    device->is_first_layer = true;
    wrong = run_tail(device, kind == TLC_TAIL_LABEL ? &told : kind == TLC_TAIL_OWN ? &device->own : NULL, &status);
    const uint64_t spent = tlc_device_ticks(device) - start;
    tlc_device_end_work(device, began);
    if (wrong) {
        tlc_device_say_error(device, status, wrong);
        return;
    }
    if (kind == TLC_TAIL_OUTPUT) {
        say_output(device);
        return;
    }
    device->tail = of;
    if (kind == TLC_TAIL_RESULT) {
        tlc_device_local_result(device, model->tail->output);
        tlc_device_say_done(device, 0, spent);
        return;
    }
    say_gradient(device, 0, spent);
}
