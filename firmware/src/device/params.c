/* SPDX-License-Identifier: Apache-2.0
 *
 * params.c: the learned tensors on the link, GET_PARAMS and SET_PARAMS.
 */
#include "device_internal.h"

void tlc_device_take_get_params(tlc_device_t *device) {
    const uint32_t total = device->config.model->param_bytes;
    const uint32_t offset = tlc_get_u32(device->held.header + TLC_PARAMS_OFFSET);
    uint32_t count = tlc_get_u32(device->held.header + TLC_PARAMS_TOTAL);
    if (offset > total || count > total - offset) {
        tlc_device_say_error(device, TLC_ERR_SIZE, "beyond the learned tensors");
        return;
    }
    const uint8_t coding = device->held.header[TLC_PARAMS_CODING];
    const uint8_t *from = device->config.state ? device->config.state + offset : NULL;
    if (coding == TLC_PARAMS_DELTA && device->config.keeper && offset == 0 && count == 0) { /* coded into the arena */
        device->ctx.has_forward = 0;
        from = device->config.arena;
        if (device->config.keeper->delta_encode(&device->ctx, device->config.arena, device->config.model->arena_bytes,
                                                &count) != TLC_OK) {
            tlc_device_say_error(device, TLC_ERR_FULL, "the arena has no room for the differences");
            return;
        }
    } else if (coding != TLC_PARAMS_PLAIN) {
        tlc_device_say_error(device, TLC_ERR_ARG, "no such coding of learned tensors, or not of a part of them");
        return;
    } else {
        count = count ? count : total - offset;
    }
    uint8_t message[TLC_PARAMS_BYTES];
    memcpy(message, device->held.header, sizeof message);
    tlc_put_u32(message + TLC_PARAMS_TOTAL, total);
    const tlc_status_t status =
        tlc_device_answer(device, TLC_STREAM_BULK, TLC_MSG_PARAMS, message, sizeof message, from, count);
    if (status == TLC_ERR_SIZE) {
        tlc_device_say_error(device, status, "more than the host takes at once");
    }
}

void tlc_device_take_set_params(tlc_device_t *device) {
    const tlc_link_message_t *held = &device->held;
    const uint32_t total = device->config.model->param_bytes;
    const uint32_t offset = tlc_get_u32(held->header + TLC_PARAMS_OFFSET);
    const uint8_t coding = held->header[TLC_PARAMS_CODING];
    const bool coded = coding == TLC_PARAMS_DELTA && device->config.keeper && offset == 0;
    if (coding != TLC_PARAMS_PLAIN && !coded) {
        tlc_device_say_error(device, TLC_ERR_ARG, "no such coding of learned tensors, or not of a part of them");
        return;
    }
    if (tlc_get_u32(held->header + TLC_PARAMS_TOTAL) != total || offset > total ||
        (!coded && held->payload_bytes > total - offset) || (held->payload_bytes && !held->payload)) {
        tlc_device_say_error(device, TLC_ERR_SIZE, "not the size of the learned tensors");
        return;
    }
    if (coded) {
        const tlc_status_t status =
            device->config.keeper->delta_decode(&device->ctx, held->payload, held->payload_bytes);
        device->step = 0; /* what no code makes is the values in flash */
        device->ctx.has_forward = 0;
        device->params_at = total;
        if (status != TLC_OK) {
            tlc_device_say_error(device, status,
                                 "no differences of these learned tensors: they are the values in flash now");
            return;
        }
        device->step = tlc_common_get(held->header).step;
        tlc_device_say_done(device, 0, 0);
        return;
    }
    if (offset > device->params_at) { /* a set begins at 0 and leaves out no piece; each may come twice */
        tlc_device_say_error(device, TLC_ERR_STATE, "a piece of the learned tensors before this one is missing");
        return;
    }
    if (held->payload_bytes) {
        memcpy(device->config.state + offset, held->payload, held->payload_bytes);
        const uint32_t end = offset + held->payload_bytes;
        device->params_at = offset ? tlc_max_u32(device->params_at, end) : end;
        if (device->params_at == total) {
            device->step = tlc_common_get(held->header).step;
            if (device->config.model->refresh) {
                device->config.model->refresh(&device->ctx);
            }
        }
    }
    device->ctx.has_forward = 0;
    tlc_device_say_done(device, 0, 0);
}
