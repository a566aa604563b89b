/* SPDX-License-Identifier: Apache-2.0
 *
 * session.c: who the device is, HELLO, and what the host makes of it: WELCOME, CUT.
 */
#include "device_internal.h"

bool tlc_device_say_hello(tlc_device_t *device) {
    const tlc_device_config_t *config = &device->config;
    const tlc_model_t *model = config->model;
    uint32_t *const word = device->scratch;
    uint8_t *const message = (uint8_t *)word;
    memset(message, 0, TLC_HELLO_BYTES);
    tlc_put_u16(message + TLC_HELLO_VERSION, TLC_MESSAGES_VERSION);
    message[TLC_HELLO_RESET] = config->reset_reason;
    uint32_t capabilities = model->backward ? (uint32_t)TLC_CAN_TRAIN : 0u;
    capabilities |= config->sample ? (uint32_t)TLC_CAN_SAMPLE : 0u;
    capabilities |= config->layer_ticks ? (uint32_t)TLC_CAN_PROFILE : 0u;
    capabilities |= config->standalone ? (uint32_t)TLC_STANDALONE : 0u;
    capabilities |= device->journal.storage ? (uint32_t)TLC_CAN_SAVE : 0u;
    capabilities |= model->loss && !model->tail ? (uint32_t)TLC_CAN_JUDGE : 0u;
    capabilities |= model->aux ? (uint32_t)TLC_CAN_EXIT : 0u;
    capabilities |= model->tail ? (uint32_t)TLC_CAN_TAIL : 0u;
    capabilities |= model->backward && !model->update ? (uint32_t)TLC_AT_ONCE : 0u;
    word[TLC_HELLO_CAPABILITIES / 4u] = capabilities;
    word[TLC_HELLO_BOOT / 4u] = device->boot;
    word[TLC_HELLO_TOKEN / 4u] = device->token;
    word[TLC_HELLO_STEP / 4u] = device->step;
    word[TLC_HELLO_SAMPLES / 4u] = device->ctx.samples;
    word[TLC_HELLO_FORWARD / 4u] = device->ctx.has_forward ? device->forward.request : 0u;
    word[TLC_HELLO_BACKWARD / 4u] = device->backward;
    word[TLC_HELLO_UPTIME / 4u] = tlc_device_now_ms(device) - device->boot_ms;
    word[TLC_HELLO_PARAMS / 4u] = model->param_bytes;
    memcpy(message + TLC_HELLO_HASH, model->bundle_hash, TLC_HASH_BYTES);
    word[TLC_HELLO_ID / 4u] = config->id[0];
    word[TLC_HELLO_ID / 4u + 1u] = config->id[1];
    const uint32_t name = tlc_min_u32((uint32_t)strlen(config->board), TLC_HELLO_MAX_NAME);
    memcpy(message + TLC_HELLO_BYTES, config->board, name);
    return tlc_link_send(&device->link, TLC_STREAM_CONTROL, TLC_MSG_HELLO, NULL, 0, message, TLC_HELLO_BYTES + name) ==
           TLC_OK;
}

void tlc_device_take_welcome(tlc_device_t *device) {
    if (memcmp(device->held.header + TLC_WELCOME_HASH, device->config.model->bundle_hash, TLC_HASH_BYTES) != 0) {
        tlc_device_say_error(device, TLC_ERR_BUNDLE, "welcomed with another bundle's hash");
        return;
    }
    device->token = tlc_get_u32(device->held.header + TLC_WELCOME_TOKEN);
    device->welcomed = true;
    if (device->journal.storage && device->journal.status == TLC_ERR_BUNDLE) {
        (void)tlc_device_log(device, 30, "the journal is another bundle's: ignored, and kept until the next save");
    } else if (device->journal.storage && device->journal.status == TLC_ERR_CORRUPT) {
        (void)tlc_device_log(device, 30, "the journal is damaged: the learned tensors are the values in flash");
    }
    tlc_device_say_done(device, 0, 0);
}

void tlc_device_take_cut(tlc_device_t *device) {
    const uint8_t cut = device->held.header[TLC_CUT_INDEX];
    if (cut == device->config.model->cut) {
        tlc_device_say_done(device, TLC_DONE_REPEATED, 0);
        return;
    }
    if (tlc_select_cut(&device->ctx, cut) != TLC_OK) {
        tlc_device_say_error(device, TLC_ERR_ARG, "this bundle has not so many cuts");
        return;
    }
    device->config.model = device->ctx.model;
    device->keep = false;
    device->backward = 0;
    device->sample_request = 0;
    tlc_device_say_done(device, 0, 0);
}
