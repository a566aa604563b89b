/* SPDX-License-Identifier: Apache-2.0
 *
 * outputs.c: the tensors at the cut on their way to the host, SMASHED.
 */
#include "device_internal.h"

void tlc_device_queue_outputs(tlc_device_t *device, uint8_t flags) {
    device->outputs_due = true;
    device->outputs_copied = false;
    device->output_next = 0;
    device->output_flags = flags;
    device->output_session = tlc_link_session(&device->link);
}

bool tlc_device_send_outputs(tlc_device_t *device) {
    const tlc_model_t *model = device->config.model;
    const bool exits = (device->output_flags & TLC_SMASHED_EXIT) != 0;
    const tlc_tensor_t *const outputs = exits ? model->aux->output : model->outputs;
    const uint8_t output_count = exits ? 1u : model->output_count;
    uint8_t *copy = device->config.output;
    if (device->output_session != tlc_link_session(&device->link)) {
        device->outputs_due = false;
        return false;
    }
    if (copy && !device->outputs_copied) {
        if (tlc_link_payloads(&device->link)) {
            return false; /* the outputs before these are still on their way */
        }
        uint32_t at = 0;
        for (uint32_t i = 0; i < output_count; i++) {
            memcpy(copy + at, device->config.arena + outputs[i].offset, outputs[i].elements);
            at += outputs[i].elements;
        }
        device->outputs_copied = true;
        device->output_in_use = true;
    }
    uint32_t at = 0;
    for (uint32_t i = 0; i < device->output_next; i++) {
        at += outputs[i].elements;
    }
    bool sent = false;
    while (device->output_next < output_count && tlc_link_room(&device->link)) {
        const tlc_tensor_t *tensor = &outputs[device->output_next];
        uint8_t message[TLC_SMASHED_BYTES];
        memset(message, 0, sizeof message);
        tlc_common_put(message, &device->forward);
        message[TLC_SMASHED_INDEX] = device->output_next;
        message[TLC_SMASHED_COUNT] = output_count;
        message[TLC_SMASHED_FLAGS] = device->output_flags;
        tlc_put_u64(message + TLC_SMASHED_TICKS, device->forward_ticks);
        const uint8_t *from = copy ? copy + at : device->config.arena + tensor->offset;
        if (tlc_link_send(&device->link, TLC_STREAM_BULK, TLC_MSG_SMASHED, message, sizeof message, from,
                          tensor->elements) != TLC_OK) {
            break;
        }
        at += tensor->elements;
        device->output_next++;
        sent = true;
    }
    device->outputs_due = device->output_next < output_count;
    return sent;
}
