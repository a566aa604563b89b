/* SPDX-License-Identifier: Apache-2.0
 *
 * device.c: the device's life: what comes in, whose turn it is, what goes out; see device.h and PROTOCOL.md, section 9.
 *
 * Outputs and parameters are sent from where they lie, so nothing may write there until the host has
 * acknowledged them: a message is looked at only when no payload is on its way.
 */
#include "device_internal.h"

#define READS_PER_POLL 16
#define LONG_MS 1000u          /* work that may take so long is announced to the host */
#define RESULT_MAX_BYTES 4096u /* of float values that it takes */

static bool flush(tlc_device_t *device);

void tlc_device_defaults(tlc_device_config_t *config) {
    memset(config, 0, sizeof *config);
    config->fragment = 256;
    config->window = 8;
    config->peer_window = 8;
    config->board = "";
    config->max_saturated = 25;
    config->exit_bound = TLC_NO_EXIT;
}

uint32_t tlc_device_begin_work(tlc_device_t *device) {
    device->busy = true;
    tlc_link_busy(&device->link, true, device->longest_ms >= LONG_MS);
    (void)flush(device);
    return tlc_device_now_ms(device);
}

void tlc_device_end_work(tlc_device_t *device, uint32_t start) {
    const uint32_t spent = tlc_device_now_ms(device) - start;
    device->longest_ms = device->longest_ms == UINT32_MAX ? spent : tlc_max_u32(device->longest_ms, spent);
    tlc_link_busy(&device->link, false, false);
    device->busy = false;
}

static void on_layer(void *arg, uint16_t layer) {
    tlc_device_t *device = arg;
    const tlc_port_t *port = device->config.port;
    uint32_t *const counts = device->config.layer_ticks;
    if (counts && device->is_first_layer) {
        memset(counts + layer, 0, (device->config.model->layer_count - layer) * sizeof *counts);
        device->is_first_layer = false;
    }
    if (counts) {
        counts[layer] += (uint32_t)(tlc_device_ticks(device) - device->layer_start); /* there may be several strips */
    }
    if (port->yield) {
        port->yield(port->self);
    }
    tlc_device_pump(device);
    if (device->config.layer_ticks) {
        device->layer_start = tlc_device_ticks(device); /* the pump's time is no layer's */
    }
}

static uint32_t total_outputs(const tlc_model_t *model) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < model->output_count; i++) {
        count += model->outputs[i].elements;
    }
    return model->aux ? tlc_max_u32(count, model->aux->output->elements) : count;
}

/* Elements of the first output, at the cut where it has most. */
static uint32_t widest_output(const tlc_model_t *model) {
    uint32_t most = model->outputs[0].elements;
    for (uint32_t i = 0; i < model->cut_count; i++) {
        most = tlc_max_u32(most, model->cuts[i]->outputs[0].elements);
    }
    return most;
}

tlc_status_t tlc_device_init(tlc_device_t *device, const tlc_device_config_t *config) {
    const tlc_model_t *model = config->model;
    if (!model || !config->port || !config->board || model->input_count == 0 || model->output_count == 0) {
        return TLC_ERR_ARG;
    }
    memset(device, 0, sizeof *device);
    device->config = *config;
    const tlc_port_t *port = config->port;
    device->boot = port->entropy ? port->entropy(port->self) : 0;
    device->boot_ms = port->millis(port->self);
    tlc_status_t status = tlc_ctx_init(&device->ctx, model, config->arena, config->state);
    if (status != TLC_OK) {
        return status;
    }
    device->ctx.on_layer = on_layer;
    device->ctx.on_layer_arg = device;
    if (config->keeper && config->storage) {
        device->journal.storage = config->storage;
        (void)!config->keeper->journal_load(&device->journal, &device->ctx, &device->step); /* told in JOURNAL */
    }
    if (config->sample && config->standalone && !tlc_device_value_room(device, model->outputs[0].elements)) {
        return TLC_ERR_SIZE;
    }
    const uint32_t widest = widest_output(model);
    uint32_t largest_input = 0;
    for (uint32_t i = 0; i < model->input_count; i++) {
        largest_input = tlc_max_u32(largest_input, model->inputs[i].elements);
    }
    if ((config->message && config->message_bytes < largest_input) ||
        (config->output && config->output_bytes < tlc_max_u32(total_outputs(model), widest))) {
        return TLC_ERR_SIZE;
    }
    const uint32_t room = config->message ? config->message_bytes : model->arena_bytes;
    uint32_t largest = TLC_FORWARD_BYTES + largest_input;
    if (model->param_count) {
        largest = tlc_max_u32(largest, TLC_TRAIN_BYTES + tlc_min_u32(4u * widest, room));
    }
    if (model->tail) {
        largest_input = tlc_max_u32(largest_input, model->tail->input->elements);
        largest = tlc_max_u32(largest, TLC_TAIL_BYTES + largest_input);
    }
    largest = tlc_max_u32(largest, TLC_PARAMS_BYTES + tlc_min_u32(model->param_bytes, room));
    largest = tlc_max_u32(largest, TLC_RESULT_BYTES + tlc_min_u32(RESULT_MAX_BYTES, room));
    const uint32_t payload = (largest - TLC_FORWARD_BYTES + 15u) & ~15u; /* FORWARD has the shortest header */
    const uint32_t slots = config->message ? tlc_min_u32(config->message_bytes / payload, TLC_LINK_INCOMING) : 1u;
    device->slot_bytes = slots > 1 ? payload : config->message_bytes;
    device->longest_ms = UINT32_MAX;
    device->params_at = model->param_bytes;
    tlc_link_config_t link;
    memset(&link, 0, sizeof link);
    link.memory = config->link_memory;
    link.memory_bytes = config->link_memory_bytes;
    link.fragment = config->fragment;
    link.window = config->window;
    link.peer_window = config->peer_window;
    link.messages = (uint8_t)tlc_max_u32(slots, 1);
    link.max_message = largest;
    link.boot = device->boot;
    link.place = tlc_device_place;
    link.arg = device;
    return tlc_link_init(&device->link, &link);
}

/* Between the pieces of SET_PARAMS the tensors are half the old and half the new: nobody is to see or use them. */
static bool wants_params(uint8_t type) {
    return type == TLC_MSG_FORWARD || type == TLC_MSG_BACKWARD || type == TLC_MSG_STEP || type == TLC_MSG_GET_PARAMS ||
           type == TLC_MSG_SAVE || type == TLC_MSG_TRAIN || type == TLC_MSG_TAIL;
}

static void handle(tlc_device_t *device) {
    const tlc_link_message_t *held = &device->held;
    if (held->header_bytes < tlc_message_header_bytes(held->type)) {
        if (held->header_bytes >= TLC_COMMON_BYTES) {
            tlc_device_say_error(device, TLC_ERR_SIZE, "shorter than its header");
        }
        return;
    }
    if (!device->welcomed && held->type != TLC_MSG_WELCOME && held->type != TLC_MSG_REFUSE &&
        held->type != TLC_MSG_CUT) {
        tlc_device_say_error(device, TLC_ERR_STATE, "not welcomed yet");
        return;
    }
    if (device->params_at < device->config.model->param_bytes && wants_params(held->type)) {
        tlc_device_say_error(device, TLC_ERR_STATE,
                             "the learned tensors are half written: send the other pieces, or RESET_STATE");
        return;
    }
    switch (held->type) {
    case TLC_MSG_WELCOME:
        tlc_device_take_welcome(device);
        break;
    case TLC_MSG_REFUSE:
        device->welcomed = false;
        break;
    case TLC_MSG_FORWARD:
        tlc_device_take_forward(device);
        break;
    case TLC_MSG_RESULT:
        tlc_device_take_result(device);
        break;
    case TLC_MSG_BACKWARD:
        tlc_device_take_backward(device);
        break;
    case TLC_MSG_STEP:
        tlc_device_take_step(device);
        break;
    case TLC_MSG_TRAIN:
        tlc_device_take_train(device);
        break;
    case TLC_MSG_TAIL:
        tlc_device_take_tail(device);
        break;
    case TLC_MSG_EXIT:
        tlc_device_take_exit(device);
        break;
    case TLC_MSG_CUT:
        tlc_device_take_cut(device);
        break;
    case TLC_MSG_GET_PARAMS:
        tlc_device_take_get_params(device);
        break;
    case TLC_MSG_SET_PARAMS:
        tlc_device_take_set_params(device);
        break;
    case TLC_MSG_GET_STATS:
        tlc_device_take_get_stats(device);
        break;
    case TLC_MSG_RESET_STATE:
        tlc_device_take_reset_state(device);
        break;
    case TLC_MSG_SAVE:
        tlc_device_take_save(device);
        break;
    case TLC_MSG_TEST:
        tlc_device_take_test(device);
        break;
    default:
        tlc_device_say_error(device, TLC_ERR_ARG, "no such message type");
        break;
    }
}

/* Takes and answers a message. A message waits while the tensors of an answer before it are on their way. */
static bool serve(tlc_device_t *device) {
    if (!device->holding) {
        if (device->outputs_due || !tlc_link_next(&device->link, &device->held)) {
            return false;
        }
        device->holding = true;
        device->answered = false;
    }
    if (device->held.session != tlc_link_session(&device->link)) {
        device->holding = false;
        return true;
    }
    const uint32_t payloads = tlc_link_payloads(&device->link);
    device->output_in_use = device->output_in_use && payloads;
    if (!device->answered) {
        const bool overlap =
            (device->held.type == TLC_MSG_FORWARD && device->output_in_use) || device->held.type == TLC_MSG_TEST;
        if (tlc_link_room(&device->link) < 2 || (payloads && !overlap)) {
            return false;
        }
        handle(device);
        device->answered = true;
    }
    if (!device->config.message && device->held.stream == TLC_STREAM_BULK &&
        (device->outputs_due || tlc_link_payloads(&device->link))) {
        return false; /* the arena is where the next message would go: keep its credit back */
    }
    tlc_link_release(&device->link, &device->held);
    device->holding = false;
    return true;
}

static bool flush(tlc_device_t *device) {
    const tlc_port_t *port = device->config.port;
    bool active = false;
    for (;;) {
        const uint8_t *bytes = NULL;
        const size_t count = tlc_link_output(&device->link, tlc_device_now_ms(device), &bytes);
        if (count == 0) {
            return active;
        }
        const size_t taken = port->write(port->self, bytes, count);
        tlc_link_sent(&device->link, taken);
        active = active || taken;
        if (taken < count) {
            return active;
        }
    }
}

static bool hear(tlc_device_t *device) {
    const tlc_port_t *port = device->config.port;
    bool active = false;
    for (int i = 0; i < READS_PER_POLL; i++) {
        uint8_t bytes[64];
        const size_t count = port->read(port->self, bytes, sizeof bytes);
        if (count == 0) {
            break;
        }
        tlc_link_receive(&device->link, tlc_device_now_ms(device), bytes, count);
        active = true;
    }
    const uint32_t session = tlc_link_session(&device->link);
    if (session != device->session) {
        device->session = session;
        device->welcomed = false;
        device->keep = false;
        device->sample_request = 0;
        device->hello_due = session != 0;
    }
    return active;
}

void tlc_device_pump(tlc_device_t *device) {
    (void)hear(device);
    (void)flush(device);
}

/* What is heard is acknowledged by the answer, where it takes no work: nothing is said before (begin_work does). */
bool tlc_device_poll(tlc_device_t *device) {
    bool active = hear(device);
    if (device->hello_due && !device->outputs_due && tlc_link_payloads(&device->link) == 0) {
        device->hello_due = !tlc_device_say_hello(device);
        active = true;
    }
    if (device->outputs_due) {
        active = tlc_device_send_outputs(device) || active;
    }
    active = serve(device) || active;
    if (device->outputs_due) {
        active = tlc_device_send_outputs(device) || active;
    }
    active = tlc_device_take_sample(device) || active;
    return flush(device) || active;
}
