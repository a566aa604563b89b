/* SPDX-License-Identifier: Apache-2.0
 *
 * place.c: where messages arrive.
 */
#include "device_internal.h"

/* A message buffer that nothing uses; NULL: none, or this is too large. */
static uint8_t *free_buffer(tlc_device_t *device, uint32_t payload_bytes) {
    if (payload_bytes > device->slot_bytes) {
        return NULL;
    }
    for (uint32_t i = 0; i < device->link.config.messages; i++) {
        uint8_t *buffer = device->config.message + i * device->slot_bytes;
        bool used = false;
        for (uint32_t j = 0; j < device->link.config.messages; j++) {
            used = used || (device->link.incoming[j].used && device->link.incoming[j].payload == buffer);
        }
        if (!used) {
            return buffer;
        }
    }
    return NULL;
}

static uint8_t *place_in_arena(tlc_device_t *device, uint8_t type, uint32_t payload_bytes, uint8_t index) {
    const tlc_model_t *model = device->config.model;
    uint8_t *const arena = device->config.arena;
    switch (type) {
    case TLC_MSG_FORWARD:
        if (index >= model->input_count || payload_bytes != model->inputs[index].elements) {
            return NULL;
        }
        device->ctx.has_forward = 0;
        return arena + model->inputs[index].offset;
    case TLC_MSG_BACKWARD:
    case TLC_MSG_TRAIN: /* bytes go to the tensor's end, so that they can be spread upwards */
        if (!model->gradient ||
            (payload_bytes != model->gradient->elements && payload_bytes != 4u * model->gradient->elements) ||
            payload_bytes > tlc_gradient_room(model)) {
            return NULL;
        }
        return arena + model->gradient->offset + (tlc_gradient_room(model) - payload_bytes);
    case TLC_MSG_TAIL:
        return model->tail && payload_bytes == model->tail->input->elements ? arena + model->tail->input->offset : NULL;
    case TLC_MSG_RESULT:
    case TLC_MSG_SET_PARAMS:
        if (payload_bytes > model->arena_bytes) {
            return NULL;
        }
        device->ctx.has_forward = 0;
        return arena;
    default:
        return NULL;
    }
}

bool tlc_device_place(void *arg, uint8_t type, uint32_t length, uint32_t offset, const uint8_t *bytes, size_t count,
                      tlc_link_place_t *where) {
    tlc_device_t *device = arg;
    const uint32_t header_bytes = tlc_message_header_bytes(type);
    where->header_bytes = tlc_min_u32(header_bytes, TLC_LINK_TAKES_BYTES);
    where->payload = NULL;
    if (length <= header_bytes || header_bytes > TLC_LINK_TAKES_BYTES || type == TLC_MSG_TEST) {
        return true; /* too short, no bulk message, or bytes without meaning: answered when it is whole */
    }
    const uint32_t payload_bytes = length - header_bytes;
    if (device->config.message) {
        where->payload = free_buffer(device, payload_bytes);
        return true;
    }
    if (device->busy || device->outputs_due || tlc_link_payloads(&device->link)) {
        return false;
    }
    uint8_t index = 0;
    if (type == TLC_MSG_FORWARD && device->config.model->input_count > 1) {
        if (offset != 0 || count < TLC_FORWARD_BYTES) {
            return false; /* which input is told in the first fragment only */
        }
        index = bytes[TLC_FORWARD_INDEX];
    }
    where->payload = place_in_arena(device, type, payload_bytes, index);
    return true;
}
