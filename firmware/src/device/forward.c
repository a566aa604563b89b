/* SPDX-License-Identifier: Apache-2.0
 *
 * forward.c: forward passes that the host asks for, FORWARD, and how sure the head at the cut must be, EXIT.
 */
#include "device_internal.h"

tlc_status_t tlc_device_run_forward(tlc_device_t *device) {
    const uint32_t began = tlc_device_begin_work(device);
    const uint64_t start = tlc_device_ticks(device);
    device->layer_start = start;
    device->is_first_layer = true;
    const tlc_status_t status = tlc_run_forward(&device->ctx);
    device->forward_ticks = tlc_device_ticks(device) - start;
    device->forwards++;
    tlc_device_end_work(device, began);
    return status;
}

bool tlc_device_holds_pass(const tlc_device_t *device, uint32_t of, uint32_t batch) {
    return device->ctx.has_forward && of != 0 && of == device->forward.request && batch == device->forward.batch;
}

bool tlc_device_is_sure(const tlc_device_t *device, uint32_t bound) {
    const tlc_aux_t *aux = device->config.model->aux;
    if (!aux) {
        return false;
    }
    const int8_t *q = (const int8_t *)(device->config.arena + aux->output->offset);
    int32_t most = INT8_MIN;
    for (uint32_t i = 0; i < aux->output->elements; i++) {
        most = q[i] > most ? q[i] : most;
    }
    return bound == 0 || (uint32_t)(most - aux->output->zero_point) > bound;
}

/* A forward pass that the host asked for, with its inputs in their place. */
static void run_for_host(tlc_device_t *device) {
    const tlc_link_message_t *held = &device->held;
    const uint8_t flags = held->header[TLC_FORWARD_FLAGS];
    device->forward = tlc_common_get(held->header);
    device->keep = (flags & TLC_FORWARD_KEEP) != 0;
    const tlc_status_t status = tlc_device_run_forward(device);
    if (status != TLC_OK) {
        tlc_device_say_error(device, status, "the forward pass failed");
        return;
    }
    const bool exits =
        (flags & TLC_FORWARD_EXIT) && tlc_device_is_sure(device, tlc_get_u16(held->header + TLC_FORWARD_BOUND));
    device->forward_flags = exits ? (uint8_t)TLC_SMASHED_EXIT : 0u;
    if (held->session == tlc_link_session(&device->link)) {
        tlc_device_queue_outputs(device, device->forward_flags);
    }
}

bool tlc_device_ask_hook(tlc_device_t *device, tlc_sample_t *sample) {
    *sample = (tlc_sample_t){.ctx = &device->ctx};
    device->busy = true; /* the hook may take long and pump: nothing may come into the arena */
    const bool taken = device->config.sample(device->config.app, sample);
    device->busy = false;
    return taken;
}

/* FORWARD with OWN: the pass of a sample that the device takes now. Asked again, it takes no other. */
static void take_own(tlc_device_t *device) {
    const uint32_t request = tlc_common_get(device->held.header).request;
    if (device->has_own && device->ctx.has_forward == TLC_HAS_HEAD && request == device->forward.request) {
        tlc_device_queue_outputs(device, device->forward_flags);
        return;
    }
    if (!device->config.sample) {
        tlc_device_say_error(device, TLC_ERR_STATE, "this device has no samples of its own");
        return;
    }
    tlc_sample_t sample;
    device->has_own = false;
    if (!tlc_device_ask_hook(device, &sample)) {
        tlc_device_say_error(device, TLC_ERR_STATE, "the sample hook has no sample now");
        return;
    }
    if (sample.input < device->config.model->input_count) {
        tlc_device_say_error(device, TLC_ERR_SIZE, "the sample hook put too few values");
        return;
    }
    device->has_own = true;
    device->own_labelled = sample.labelled;
    device->own = sample.target;
    run_for_host(device);
}

void tlc_device_take_forward(tlc_device_t *device) {
    const tlc_model_t *model = device->config.model;
    tlc_link_message_t *held = &device->held;
    const uint8_t index = held->header[TLC_FORWARD_INDEX];
    const uint8_t flags = held->header[TLC_FORWARD_FLAGS];
    if ((flags & TLC_FORWARD_EXIT) && !model->aux) {
        tlc_device_say_error(device, TLC_ERR_STATE, TLC_NO_HEAD);
        return;
    }
    if (flags & TLC_FORWARD_OWN) {
        take_own(device);
        return;
    }
    if (index >= model->input_count || !held->payload || held->payload_bytes != model->inputs[index].elements) {
        tlc_device_say_error(device, TLC_ERR_SIZE, "no input tensor of this index and size");
        return;
    }
    uint8_t *to = device->config.arena + model->inputs[index].offset;
    device->ctx.has_forward = 0;
    if (held->payload != to) {
        memcpy(to, held->payload, held->payload_bytes);
        tlc_link_release(&device->link, held); /* the next message may come in while this one is worked on */
    }
    device->has_own = false;
    if (flags & TLC_FORWARD_RUN) {
        run_for_host(device);
    }
}

void tlc_device_take_exit(tlc_device_t *device) {
    if (!device->config.model->aux) {
        tlc_device_say_error(device, TLC_ERR_STATE, TLC_NO_HEAD);
        return;
    }
    device->config.exit_bound = tlc_get_u16(device->held.header + TLC_EXIT_BOUND);
    tlc_device_say_done(device, 0, 0);
}
