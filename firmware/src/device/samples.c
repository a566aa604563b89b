/* SPDX-License-Identifier: Apache-2.0
 *
 * samples.c: samples of the device's own, and what becomes of their results: RESULT, or the head at the cut.
 */
#include "device_internal.h"

#define RESULT_WAIT_MS 5000u    /* how long the device waits for the RESULT of its sample */
#define OWN_REQUEST 0x80000000u /* set in the request numbers that the device chooses */

float *tlc_device_value_room(tlc_device_t *device, uint32_t count) {
    if (device->config.values) {
        return count <= device->config.value_count ? device->config.values : NULL;
    }
    if (device->config.model->arena_bytes / sizeof(float) < count) {
        return NULL;
    }
    return (float *)(void *)device->config.arena;
}

void tlc_device_local_result(tlc_device_t *device, const tlc_tensor_t *tensor) {
    const int8_t *q = (const int8_t *)(device->config.arena + tensor->offset);
    float *values = tlc_device_value_room(device, tensor->elements);
    if (!values || !device->config.result) {
        return;
    }
    if (!device->config.values) { /* spread upwards from the end of the floats' own room */
        uint8_t *tail = device->config.arena + 3u * tensor->elements;
        memmove(tail, q, tensor->elements);
        q = (const int8_t *)tail;
        device->ctx.has_forward = 0;
    }
    for (uint32_t i = 0; i < tensor->elements; i++) {
        const float value = tensor->scale * (float)((int32_t)q[i] - tensor->zero_point);
        memcpy(&values[i], &value, sizeof value);
    }
    device->config.result(device->config.app, values, tensor->elements);
}

void tlc_device_take_result(tlc_device_t *device) {
    const tlc_link_message_t *held = &device->held;
    const uint32_t count = tlc_get_u32(held->header + TLC_RESULT_COUNT);
    if (!held->payload || count != held->payload_bytes / 4u || held->payload_bytes % 4u) {
        tlc_device_say_error(device, TLC_ERR_SIZE, "no room for a result of this size");
        return;
    }
    if (tlc_get_u32(held->header) != device->sample_request) {
        return; /* of a sample that was given up */
    }
    device->sample_request = 0;
    if (device->config.result) {
        device->config.result(device->config.app, (const float *)(const void *)held->payload, count);
    }
}

bool tlc_device_take_sample(tlc_device_t *device) {
    const tlc_device_config_t *config = &device->config;
    const tlc_model_t *model = config->model;
    if (!config->sample || config->model->tail || device->holding || device->outputs_due || device->keep ||
        device->params_at < config->model->param_bytes || tlc_link_payloads(&device->link)) {
        return false;
    }
    if (!config->standalone && (!device->welcomed || tlc_link_room(&device->link) < 2)) {
        return false;
    }
    if (device->sample_request) {
        if (tlc_device_now_ms(device) - device->sample_ms < RESULT_WAIT_MS) {
            return false;
        }
        device->sample_request = 0;
    }
    if (!config->message && device->link.incoming[0].used) {
        return false; /* a tensor is coming into the arena */
    }
    tlc_sample_t sample;
    device->has_own = false;
    if (!tlc_device_ask_hook(device, &sample)) {
        return false;
    }
    if (sample.input < config->model->input_count) {
        (void)tlc_device_log(device, 40, "the sample hook put too few values");
        return true;
    }
    if (tlc_device_run_forward(device) != TLC_OK) {
        (void)tlc_device_log(device, 40, "the forward pass of a sample failed");
        return true;
    }
    if (config->standalone) {
        tlc_device_local_result(device, &config->model->outputs[0]);
        if (sample.labelled) {
            tlc_device_learn_alone(device, &sample.target);
        }
        return true;
    }
    if (!device->welcomed) {
        return true;
    }
    device->sample_count++;
    memset(&device->forward, 0, sizeof device->forward);
    if (tlc_device_is_sure(device, config->exit_bound)) {
        device->exits++;
        tlc_device_local_result(device, model->aux->output);
        return true;
    }
    device->forward.request = OWN_REQUEST | device->sample_count;
    device->sample_request = device->forward.request;
    device->sample_ms = tlc_device_now_ms(device);
    tlc_device_queue_outputs(device, TLC_SMASHED_SAMPLE);
    return true;
}
