/* SPDX-License-Identifier: Apache-2.0
 *
 * device.c: answers the host's messages, one at a time; see device.h and PROTOCOL.md, section 9.
 *
 * Outputs and parameters are sent from where they lie, so nothing may write there until the host has
 * acknowledged them: a message is looked at only when no payload is on its way.
 */
#include "tlc/device.h"

#include "tlc/bytes.h"

#define RESULT_WAIT_MS 5000u    /* how long the device waits for the RESULT of its sample */
#define RESULT_MAX_BYTES 4096u  /* of float values that it takes */
#define OWN_REQUEST 0x80000000u /* set in the request numbers that the device chooses */
#define READS_PER_POLL 16
#define LONG_MS 1000u    /* work that may take so long is announced to the host */
#define TLC_NO_EXIT 256u /* no probability is above it */

static uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }
static uint32_t max_u32(uint32_t a, uint32_t b) { return a > b ? a : b; }

static uint32_t now_ms(const tlc_device_t *device) { return device->config.port->millis(device->config.port->self); }
static uint64_t ticks(const tlc_device_t *device) { return device->config.port->ticks(device->config.port->self); }

static bool flush(tlc_device_t *device);

/* Around everything that computes: the host is to bear the silence. Its own request was acknowledged with the word
 * already; a sample of ours is not worth a frame, unless it takes long. */
static uint32_t begin_work(tlc_device_t *device) {
    device->busy = true;
    tlc_link_busy(&device->link, true, device->longest_ms >= LONG_MS);
    (void)flush(device);
    return now_ms(device);
}

static void end_work(tlc_device_t *device, uint32_t start) {
    const uint32_t spent = now_ms(device) - start;
    device->longest_ms = device->longest_ms == UINT32_MAX ? spent : max_u32(device->longest_ms, spent);
    tlc_link_busy(&device->link, false, false);
    device->busy = false;
}

/* ---- where messages arrive ---- */

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

static bool place(void *arg, uint8_t type, uint32_t length, uint32_t offset, const uint8_t *bytes, size_t count,
                  tlc_link_place_t *where) {
    tlc_device_t *device = arg;
    const uint32_t header_bytes = tlc_message_header_bytes(type);
    where->header_bytes = min_u32(header_bytes, TLC_LINK_TAKES_BYTES);
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

/* ---- starting ---- */

void tlc_device_defaults(tlc_device_config_t *config) {
    memset(config, 0, sizeof *config);
    config->fragment = 256;
    config->window = 8;
    config->peer_window = 8;
    config->board = "";
    config->max_saturated = 25;
    config->exit_bound = TLC_NO_EXIT;
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
        counts[layer] += (uint32_t)(ticks(device) - device->layer_start); /* there may be several strips */
    }
    if (port->yield) {
        port->yield(port->self);
    }
    tlc_device_pump(device);
    if (device->config.layer_ticks) {
        device->layer_start = ticks(device); /* the pump's time is no layer's */
    }
}

static uint32_t total_outputs(const tlc_model_t *model) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < model->output_count; i++) {
        count += model->outputs[i].elements;
    }
    return model->aux ? max_u32(count, model->aux->output->elements) : count;
}

/* Elements of the first output, at the cut where it has most. */
static uint32_t widest_output(const tlc_model_t *model) {
    uint32_t most = model->outputs[0].elements;
    for (uint32_t i = 0; i < model->cut_count; i++) {
        most = max_u32(most, model->cuts[i]->outputs[0].elements);
    }
    return most;
}

/* Room for `count` floats: the caller's, or the arena. NULL: neither. */
static float *value_room(tlc_device_t *device, uint32_t count) {
    if (device->config.values) {
        return count <= device->config.value_count ? device->config.values : NULL;
    }
    if (device->config.model->arena_bytes / sizeof(float) < count) {
        return NULL;
    }
    return (float *)(void *)device->config.arena;
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

    if (config->sample && config->standalone && !value_room(device, model->outputs[0].elements)) {
        return TLC_ERR_SIZE;
    }
    const uint32_t widest = widest_output(model);
    uint32_t largest_input = 0;
    for (uint32_t i = 0; i < model->input_count; i++) {
        largest_input = max_u32(largest_input, model->inputs[i].elements);
    }
    if ((config->message && config->message_bytes < largest_input) ||
        (config->output && config->output_bytes < max_u32(total_outputs(model), widest))) {
        return TLC_ERR_SIZE;
    }
    const uint32_t room = config->message ? config->message_bytes : model->arena_bytes;
    uint32_t largest = TLC_FORWARD_BYTES + largest_input;
    if (model->param_count) {
        largest = max_u32(largest, TLC_TRAIN_BYTES + min_u32(4u * widest, room));
    }
    if (model->tail) {
        largest_input = max_u32(largest_input, model->tail->input->elements);
        largest = max_u32(largest, TLC_TAIL_BYTES + largest_input);
    }
    largest = max_u32(largest, TLC_PARAMS_BYTES + min_u32(model->param_bytes, room));
    largest = max_u32(largest, TLC_RESULT_BYTES + min_u32(RESULT_MAX_BYTES, room));
    const uint32_t payload = (largest - TLC_FORWARD_BYTES + 15u) & ~15u; /* FORWARD has the shortest header */
    const uint32_t slots = config->message ? min_u32(config->message_bytes / payload, TLC_LINK_INCOMING) : 1u;
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
    link.messages = (uint8_t)max_u32(slots, 1);
    link.max_message = largest;
    link.boot = device->boot;
    link.place = place;
    link.arg = device;
    return tlc_link_init(&device->link, &link);
}

/* ---- answering ---- */

/* The answer to the message held; a session that ended meanwhile wants none. */
static tlc_status_t answer(tlc_device_t *device, tlc_stream_t stream, uint8_t type, const uint8_t *header,
                           uint32_t header_bytes, const uint8_t *payload, uint32_t payload_bytes) {
    if (device->held.session != tlc_link_session(&device->link)) {
        return TLC_ERR_STATE;
    }
    return tlc_link_send(&device->link, stream, type, header, header_bytes, payload, payload_bytes);
}

static void say_done(tlc_device_t *device, uint8_t flags, uint64_t spent) {
    uint8_t message[TLC_DONE_BYTES];
    memset(message, 0, sizeof message);
    memcpy(message, device->held.header, TLC_COMMON_BYTES);
    message[TLC_DONE_OF] = device->held.type;
    message[TLC_DONE_FLAGS] = flags;
    tlc_put_u32(message + TLC_DONE_SAMPLES, device->ctx.samples);
    tlc_put_u64(message + TLC_DONE_TICKS, spent);
    (void)!answer(device, TLC_STREAM_CONTROL, TLC_MSG_DONE, message, sizeof message, NULL, 0);
}

static void say_error(tlc_device_t *device, tlc_status_t status, const char *text) {
    uint8_t message[TLC_ERROR_BYTES];
    memset(message, 0, sizeof message);
    memcpy(message, device->held.header, min_u32(TLC_COMMON_BYTES, device->held.header_bytes));
    message[TLC_ERROR_OF] = device->held.type;
    message[TLC_ERROR_STATUS] = (uint8_t)status;
    (void)!answer(device, TLC_STREAM_CONTROL, TLC_MSG_ERROR, message, sizeof message, (const uint8_t *)text,
                  (uint32_t)strlen(text));
}

static bool say_hello(tlc_device_t *device) {
    const tlc_device_config_t *config = &device->config;
    const tlc_model_t *model = config->model;
    uint8_t *message = device->scratch;
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
    tlc_put_u32(message + TLC_HELLO_CAPABILITIES, capabilities);
    tlc_put_u32(message + TLC_HELLO_BOOT, device->boot);
    tlc_put_u32(message + TLC_HELLO_TOKEN, device->token);
    tlc_put_u32(message + TLC_HELLO_STEP, device->step);
    tlc_put_u32(message + TLC_HELLO_SAMPLES, device->ctx.samples);
    tlc_put_u32(message + TLC_HELLO_FORWARD, device->ctx.has_forward ? device->forward.request : 0u);
    tlc_put_u32(message + TLC_HELLO_BACKWARD, device->backward);
    tlc_put_u32(message + TLC_HELLO_UPTIME, now_ms(device) - device->boot_ms);
    tlc_put_u32(message + TLC_HELLO_PARAMS, model->param_bytes);
    memcpy(message + TLC_HELLO_HASH, model->bundle_hash, TLC_HASH_BYTES);
    tlc_put_u32(message + TLC_HELLO_ID, config->id[0]);
    tlc_put_u32(message + TLC_HELLO_ID + 4, config->id[1]);
    const uint32_t name = min_u32((uint32_t)strlen(config->board), TLC_HELLO_MAX_NAME);
    memcpy(message + TLC_HELLO_BYTES, config->board, name);
    return tlc_link_send(&device->link, TLC_STREAM_CONTROL, TLC_MSG_HELLO, NULL, 0, message, TLC_HELLO_BYTES + name) ==
           TLC_OK;
}

static void say_journal(tlc_device_t *device) {
    const tlc_journal_t *journal = &device->journal;
    uint8_t *message = device->scratch;
    memset(message, 0, TLC_JOURNAL_BYTES);
    memcpy(message, device->held.header, TLC_COMMON_BYTES);
    tlc_put_u32(message + TLC_JOURNAL_SLOT, journal->storage ? journal->storage->slot_bytes : 0u);
    tlc_put_u32(message + TLC_JOURNAL_SEQUENCE, journal->sequence);
    tlc_put_u32(message + TLC_JOURNAL_STEP, journal->step);
    tlc_put_u32(message + TLC_JOURNAL_LENGTH, journal->newest < 2 ? journal->bytes : 0u);
    tlc_put_u32(message + TLC_JOURNAL_WEAR, journal->wear[0]);
    tlc_put_u32(message + TLC_JOURNAL_WEAR + 4, journal->wear[1]);
    tlc_put_u32(message + TLC_JOURNAL_SAVES, journal->saves);
    tlc_put_u32(message + TLC_JOURNAL_ROLLBACKS, device->rollbacks);
    message[TLC_JOURNAL_STATUS] = journal->storage ? journal->status : (uint8_t)TLC_ERR_STATE;
    memcpy(message + TLC_JOURNAL_SLOTS, journal->slots, sizeof journal->slots);
    (void)!answer(device, TLC_STREAM_BULK, TLC_MSG_JOURNAL, NULL, 0, message, TLC_JOURNAL_BYTES);
}

static void say_stats(tlc_device_t *device) {
    const tlc_model_t *model = device->config.model;
    const tlc_port_t *port = device->config.port;
    if (tlc_get_u32(device->held.header + TLC_GET_STATS_WHAT) == 2) {
        say_journal(device);
        return;
    }
    if (tlc_get_u32(device->held.header + TLC_GET_STATS_WHAT) == 1) {
        if (!device->config.layer_ticks) {
            say_error(device, TLC_ERR_STATE, "built without a profile of the layers");
            return;
        }
        (void)!answer(device, TLC_STREAM_BULK, TLC_MSG_LAYERS, device->held.header, TLC_COMMON_BYTES,
                      (const uint8_t *)device->config.layer_ticks, 4u * model->layer_count);
        return;
    }
    uint8_t *message = device->scratch;
    memcpy(message, device->held.header, TLC_COMMON_BYTES);
    tlc_put_u64(message + TLC_STATS_FORWARD, device->forward_ticks);
    tlc_put_u64(message + TLC_STATS_BACKWARD, device->backward_ticks);
    tlc_put_u64(message + TLC_STATS_UPDATE, device->update_ticks);
    tlc_put_u32(message + TLC_STATS_ARENA, model->arena_bytes);
    tlc_put_u32(message + TLC_STATS_STATE, model->state_bytes);
    tlc_put_u32(message + TLC_STATS_STACK, device->config.stack_bytes ? device->config.stack_bytes(port->self) : 0u);
    tlc_put_u32(message + TLC_STATS_UPTIME, now_ms(device) - device->boot_ms);
    tlc_put_u32(message + TLC_STATS_STEP, device->step);
    tlc_put_u32(message + TLC_STATS_SAMPLES, device->ctx.samples);
    tlc_put_u32(message + TLC_STATS_FORWARDS, device->forwards);
    tlc_put_u32(message + TLC_STATS_BACKWARDS, device->backwards);
    tlc_put_u32(message + TLC_STATS_SAMPLED, device->sample_count);
    tlc_put_u32(message + TLC_STATS_EXITED, device->exits);
    const tlc_link_counters_t *c = &device->link.counters;
    const uint32_t counters[9] = {c->frames_in, c->frames_out, c->bytes_in, c->bytes_out, c->bad,
                                  c->repeated,  c->refused,    c->resent,   c->sessions};
    for (uint32_t i = 0; i < 9; i++) {
        tlc_put_u32(message + TLC_STATS_LINK + 4u * i, counters[i]);
    }
    (void)!answer(device, TLC_STREAM_BULK, TLC_MSG_STATS, NULL, 0, message, TLC_STATS_BYTES);
}

static tlc_status_t run(tlc_device_t *device) {
    const uint32_t began = begin_work(device);
    const uint64_t start = ticks(device);
    device->layer_start = start;
    device->is_first_layer = true;
    const tlc_status_t status = tlc_run_forward(&device->ctx);
    device->forward_ticks = ticks(device) - start;
    device->forwards++;
    end_work(device, began);
    return status;
}

static void queue_outputs(tlc_device_t *device, uint8_t flags) {
    device->outputs_due = true;
    device->outputs_copied = false;
    device->output_next = 0;
    device->output_flags = flags;
    device->output_session = tlc_link_session(&device->link);
}

/* Queues as many SMASHED messages as there is room for. */
static bool send_outputs(tlc_device_t *device) {
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

static const char NO_HEAD[] = "this model has no head at the cut: compile it with --aux-head";
static const char FROZEN[] = "this model is frozen";
static const char UPDATES_AT_ONCE[] = "this model updates while it goes back: send TRAIN with a step";
static const char NO_SUCH_PASS[] = "the gradient of a forward pass that the arena does not hold";
static const char NOT_FINITE[] = "the gradient is not finite";
static const char BAD_GRADIENT[] = "the gradient is not finite, or its norm is above the bound";
static const char AT_THE_END[] = "too many weights reach the end of their range";

/* Whether the head at the cut is surer of the pass in the arena than `bound` / 256. */
static bool is_sure(const tlc_device_t *device, uint32_t bound) {
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
    const tlc_status_t status = run(device);
    if (status != TLC_OK) {
        say_error(device, status, "the forward pass failed");
        return;
    }
    const bool exits = (flags & TLC_FORWARD_EXIT) && is_sure(device, tlc_get_u16(held->header + TLC_FORWARD_BOUND));
    device->forward_flags = exits ? (uint8_t)TLC_SMASHED_EXIT : 0u;
    if (held->session == tlc_link_session(&device->link)) {
        queue_outputs(device, device->forward_flags);
    }
}

/* Whether the application's hook gave a sample; its values are in the arena. */
static bool ask_hook(tlc_device_t *device, tlc_sample_t *sample) {
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
        queue_outputs(device, device->forward_flags);
        return;
    }
    if (!device->config.sample) {
        say_error(device, TLC_ERR_STATE, "this device has no samples of its own");
        return;
    }
    tlc_sample_t sample;
    device->has_own = false;
    if (!ask_hook(device, &sample)) {
        say_error(device, TLC_ERR_STATE, "the sample hook has no sample now");
        return;
    }
    if (sample.input < device->config.model->input_count) {
        say_error(device, TLC_ERR_SIZE, "the sample hook put too few values");
        return;
    }
    device->has_own = true;
    device->own_labelled = sample.labelled;
    device->own = sample.target;
    run_for_host(device);
}

static void take_forward(tlc_device_t *device) {
    const tlc_model_t *model = device->config.model;
    tlc_link_message_t *held = &device->held;
    const uint8_t index = held->header[TLC_FORWARD_INDEX];
    const uint8_t flags = held->header[TLC_FORWARD_FLAGS];
    if ((flags & TLC_FORWARD_EXIT) && !model->aux) {
        say_error(device, TLC_ERR_STATE, NO_HEAD);
        return;
    }
    if (flags & TLC_FORWARD_OWN) {
        take_own(device);
        return;
    }
    if (index >= model->input_count || !held->payload || held->payload_bytes != model->inputs[index].elements) {
        say_error(device, TLC_ERR_SIZE, "no input tensor of this index and size");
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

/* Whether the arena holds what a gradient of forward pass `of` needs. */
static bool holds_pass(const tlc_device_t *device, uint32_t of, uint32_t batch) {
    return device->ctx.has_forward && of != 0 && of == device->forward.request && batch == device->forward.batch;
}

/* The same for the gradient of output 0: behind the host's part, the second backward pass must have been. */
static bool can_go_back(const tlc_device_t *device, uint32_t of, uint32_t batch) {
    return holds_pass(device, of, batch) &&
           (!device->config.model->tail || device->ctx.has_forward == TLC_HAS_TAIL_GRADIENT);
}

/* From the gradient in its place to the accumulators; where updates are interleaved, *step and all. *how: of NUMERIC.
 */
static tlc_status_t go_back(tlc_device_t *device, const tlc_step_t *step, const char **how) {
    const tlc_model_t *model = device->config.model;
    const uint32_t began = begin_work(device);
    const uint64_t start = ticks(device);
    tlc_status_t status = model->backward(&device->ctx, step);
    *how = BAD_GRADIENT;
    if (status == TLC_OK && !model->update && device->config.keeper) {
        *how = AT_THE_END;
        status = device->config.keeper->check_weights(&device->ctx, device->config.max_saturated);
    }
    device->backward_ticks = ticks(device) - start;
    end_work(device, began);
    device->keep = false;
    device->ctx.has_forward = 0;
    device->backwards += status == TLC_OK ? 1u : 0u;
    return status;
}

static void take_backward(tlc_device_t *device) {
    const tlc_model_t *model = device->config.model;
    const tlc_link_message_t *held = &device->held;
    const tlc_common_t common = tlc_common_get(held->header);
    const uint32_t of = tlc_get_u32(held->header + TLC_BACKWARD_FORWARD);
    if (!model->update || !model->gradient) {
        say_error(device, TLC_ERR_STATE, model->backward ? UPDATES_AT_ONCE : FROZEN);
        return;
    }
    if (of != 0 && of == device->backward) {
        say_done(device, TLC_DONE_REPEATED, 0);
        return;
    }
    if (!can_go_back(device, of, common.batch)) {
        say_error(device, TLC_ERR_STATE, NO_SUCH_PASS);
        return;
    }
    if (!held->payload) {
        say_error(device, TLC_ERR_SIZE, "no gradient of this size");
        return;
    }
    tlc_status_t status =
        tlc_load_gradient(&device->ctx, held->header[TLC_BACKWARD_DTYPE],
                          tlc_get_f32(held->header + TLC_BACKWARD_SCALE), held->payload, held->payload_bytes);
    if (status != TLC_OK) {
        say_error(device, status, status == TLC_ERR_NUMERIC ? NOT_FINITE : "no gradient of this size and type");
        return;
    }
    if (model->aux) { /* nothing from its head */
        tlc_clear_gradient(&device->ctx, model->aux->gradient);
    }
    const char *how;
    status = go_back(device, NULL, &how);
    if (status != TLC_OK) {
        say_error(device, status, "the backward pass failed");
        return;
    }
    device->backward = of;
    say_done(device, 0, device->backward_ticks);
}

/* ---- what outlives a reset ---- */

/* The journal's newest entry, or the values in flash; gradients since are forgotten. */
static void roll_back(tlc_device_t *device) {
    const tlc_model_t *model = device->config.model;
    device->step = 0;
    if (device->journal.storage) {
        (void)!device->config.keeper->journal_load(&device->journal, &device->ctx, &device->step);
    } else if (model->init) {
        model->init(&device->ctx);
    }
    device->ctx.samples = 0;
    device->ctx.has_forward = 0;
    device->params_at = model->param_bytes;
}

/* TLC_DONE_SAVED: an entry was written; 0: none was needed, or it failed, which is logged. */
static uint8_t save(tlc_device_t *device, tlc_status_t *status) {
    const uint32_t saves = device->journal.saves;
    const uint32_t began = begin_work(device);
    *status = device->journal.storage
                  ? device->config.keeper->journal_save(&device->journal, &device->ctx, device->step)
                  : TLC_ERR_STATE;
    end_work(device, began);
    return device->journal.saves != saves ? (uint8_t)TLC_DONE_SAVED : 0u;
}

static const char *why_not_saved(tlc_status_t status) {
    return status == TLC_ERR_STATE  ? "this device has no flash to keep what it learns"
           : status == TLC_ERR_SIZE ? "what was learned takes more than a slot of the journal has"
                                    : "the journal's flash does not hold what is written";
}

static void take_save(tlc_device_t *device) {
    tlc_status_t status;
    const uint8_t flags = save(device, &status);
    if (status != TLC_OK) {
        say_error(device, status, why_not_saved(status));
        return;
    }
    say_done(device, flags ? flags : (uint8_t)TLC_DONE_REPEATED, 0);
}

static void diverged(tlc_device_t *device) {
    device->rollbacks++;
    roll_back(device);
    (void)tlc_device_log(device, 40,
                         device->step ? "training diverged: back to the journal's last entry"
                                      : "training diverged: back to the values in flash");
}

/* ---- steps ---- */

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

/* Applies the accumulated gradient. *how: of NUMERIC. */
static tlc_status_t apply(tlc_device_t *device, const tlc_step_t *step, const char **how) {
    const tlc_keeper_t *keeper = device->config.keeper;
    const uint32_t began = begin_work(device);
    const uint64_t start = ticks(device);
    tlc_status_t status = keeper ? keeper->check_gradient(&device->ctx, step->max_norm) : TLC_OK;
    *how = BAD_GRADIENT;
    if (status == TLC_OK) {
        status = device->config.model->update(&device->ctx, step);
    }
    if (keeper && status == TLC_OK) {
        *how = AT_THE_END;
        status = keeper->check_weights(&device->ctx, device->config.max_saturated);
    }
    device->update_ticks = ticks(device) - start;
    end_work(device, began);
    return status;
}

/* After a step: into the journal, where it is time. TLC_DONE_SAVED or 0. */
static uint8_t stepped(tlc_device_t *device, uint32_t step, bool wanted) {
    const uint32_t every = device->config.save_every;
    device->step = step;
    if (!wanted && !(every && step % every == 0)) {
        return 0;
    }
    tlc_status_t status;
    const uint8_t flags = save(device, &status);
    if (status != TLC_OK) {
        (void)tlc_device_log(device, 30, why_not_saved(status));
    }
    return flags;
}

static void take_step(tlc_device_t *device) {
    const tlc_model_t *model = device->config.model;
    const tlc_common_t common = tlc_common_get(device->held.header);
    const tlc_step_t step = step_told(device, device->held.header + TLC_STEP_TOLD, common.step);
    if (!model->update) {
        say_error(device, TLC_ERR_STATE, model->backward ? UPDATES_AT_ONCE : FROZEN);
        return;
    }
    if (step.step != 0 && step.step <= device->step) {
        say_done(device, TLC_DONE_REPEATED, 0);
        return;
    }
    tlc_status_t status;
    const char *const wrong = objection(model, &step, &status);
    if (wrong) {
        say_error(device, status, wrong);
        return;
    }
    if (device->ctx.samples == 0) {
        say_error(device, TLC_ERR_STATE, "no gradient is accumulated");
        return;
    }
    const char *how;
    status = apply(device, &step, &how);
    if (status != TLC_OK) {
        if (status == TLC_ERR_NUMERIC) {
            diverged(device);
        }
        say_error(device, status, status == TLC_ERR_NUMERIC ? how : "the update failed");
        return;
    }
    const bool wanted = (device->held.header[TLC_STEP_FLAGS] & TLC_STEP_SAVE) != 0;
    say_done(device, stepped(device, step.step, wanted), device->update_ticks);
}

/* ---- TRAIN ---- */

static void say_trained(tlc_device_t *device, uint8_t flags, uint64_t spent) {
    uint8_t message[TLC_TRAINED_BYTES];
    memset(message, 0, sizeof message);
    memcpy(message, device->held.header, TLC_COMMON_BYTES);
    tlc_put_f32(message + TLC_TRAINED_LOSS, device->verdict.loss);
    tlc_put_u16(message + TLC_TRAINED_PREDICTED, (uint16_t)min_u32(device->verdict.predicted, UINT16_MAX));
    message[TLC_TRAINED_FLAGS] = flags;
    tlc_put_u64(message + TLC_TRAINED_TICKS, spent);
    (void)!answer(device, TLC_STREAM_CONTROL, TLC_MSG_TRAINED, message, sizeof message, NULL, 0);
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
        return NO_HEAD;
    }
    if (kind == TLC_TRAIN_F32 || kind == TLC_TRAIN_S8 || both) {
        *status = TLC_ERR_SIZE;
        if (!held->payload) {
            return "no gradient of this size";
        }
        const bool floats = kind == TLC_TRAIN_F32 || kind == TLC_TRAIN_BOTH_F32;
        *status = tlc_load_gradient(&device->ctx, floats ? TLC_F32 : TLC_S8, tlc_get_f32(value), held->payload,
                                    held->payload_bytes);
        device->verdict = (tlc_verdict_t){.loss = 0.0f, .predicted = 0};
        if (*status != TLC_OK) {
            return *status == TLC_ERR_NUMERIC ? NOT_FINITE : "no gradient of this size and type";
        }
        if (!both) {
            if (model->aux) {
                tlc_clear_gradient(&device->ctx, model->aux->gradient);
            }
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

static void take_train(tlc_device_t *device) {
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
        wrong = FROZEN;
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
        say_error(device, status, wrong);
        return;
    }
    const char *how;
    status = go_back(device, &step, &how);
    uint64_t spent = device->backward_ticks;
    if (status == TLC_OK && applies && model->update) {
        status = apply(device, &step, &how);
        spent += device->update_ticks;
    }
    if (status != TLC_OK) {
        if (status == TLC_ERR_NUMERIC) {
            diverged(device);
        }
        say_error(device, status, status == TLC_ERR_NUMERIC ? how : "the backward pass failed");
        return;
    }
    device->backward = of;
    say_trained(device, applies ? stepped(device, step.step, (flags & TLC_STEP_SAVE) != 0) : 0u, spent);
}

/* A result that the host has no part in, to the application. */
static void local_result(tlc_device_t *device, const tlc_tensor_t *tensor) {
    const int8_t *q = (const int8_t *)(device->config.arena + tensor->offset);
    float *values = value_room(device, tensor->elements);
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

/* ---- TAIL ---- */

static void say_gradient(tlc_device_t *device, uint8_t flags, uint64_t spent) {
    const tlc_tensor_t *gradient = device->config.model->tail->gradient;
    uint8_t message[TLC_GRADIENT_BYTES];
    memset(message, 0, sizeof message);
    memcpy(message, device->held.header, TLC_COMMON_BYTES);
    tlc_put_f32(message + TLC_GRADIENT_LOSS, device->verdict.loss);
    message[TLC_GRADIENT_FLAGS] = (uint8_t)(flags | (device->tail_right ? (uint8_t)TLC_GRADIENT_RIGHT : 0u));
    tlc_put_u64(message + TLC_GRADIENT_TICKS, spent);
    (void)!answer(device, TLC_STREAM_BULK, TLC_MSG_GRADIENT, message, sizeof message,
                  device->config.arena + gradient->offset, 4u * gradient->elements);
}

/* The network's output, from the arena. */
static void say_output(tlc_device_t *device) {
    const tlc_tensor_t *output = device->config.model->tail->output;
    uint8_t message[TLC_SMASHED_BYTES];
    memset(message, 0, sizeof message);
    memcpy(message, device->held.header, TLC_COMMON_BYTES);
    message[TLC_SMASHED_COUNT] = 1;
    tlc_put_u64(message + TLC_SMASHED_TICKS, device->forward_ticks);
    (void)!answer(device, TLC_STREAM_BULK, TLC_MSG_SMASHED, message, sizeof message,
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
        return FROZEN;
    }
    if (!holds_pass(device, tlc_get_u32(held->header + TLC_TAIL_FORWARD), tlc_common_get(held->header).batch) ||
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

static void take_tail(tlc_device_t *device) {
    const tlc_model_t *model = device->config.model;
    tlc_link_message_t *held = &device->held;
    const uint8_t kind = held->header[TLC_TAIL_KIND];
    const uint32_t of = tlc_get_u32(held->header + TLC_TAIL_FORWARD);
    if (!model->tail) {
        say_error(device, TLC_ERR_STATE, "this model has nothing behind the host's part: compile it with --tail");
        return;
    }
    if (of != 0 && of == device->tail && kind == TLC_TAIL_RESULT) {
        say_done(device, TLC_DONE_REPEATED, 0);
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
        say_error(device, status, wrong);
        return;
    }
    uint8_t *const to = device->config.arena + model->tail->input->offset;
    if (held->payload != to) {
        memcpy(to, held->payload, held->payload_bytes);
        tlc_link_release(&device->link, held);
    }
    const tlc_target_t told = {.label = tlc_get_u32(held->header + TLC_TAIL_VALUE), .values = NULL};
    const uint32_t began = begin_work(device);
    const uint64_t start = ticks(device);
    device->layer_start = start;
    device->is_first_layer = true;
    wrong = run_tail(device, kind == TLC_TAIL_LABEL ? &told : kind == TLC_TAIL_OWN ? &device->own : NULL, &status);
    const uint64_t spent = ticks(device) - start;
    end_work(device, began);
    if (wrong) {
        say_error(device, status, wrong);
        return;
    }
    if (kind == TLC_TAIL_OUTPUT) {
        say_output(device);
        return;
    }
    device->tail = of;
    if (kind == TLC_TAIL_RESULT) {
        local_result(device, model->tail->output);
        say_done(device, 0, spent);
        return;
    }
    say_gradient(device, 0, spent);
}

static void take_get_params(tlc_device_t *device) {
    const uint32_t total = device->config.model->param_bytes;
    const uint32_t offset = tlc_get_u32(device->held.header + TLC_PARAMS_OFFSET);
    uint32_t count = tlc_get_u32(device->held.header + TLC_PARAMS_TOTAL);
    if (offset > total || count > total - offset) {
        say_error(device, TLC_ERR_SIZE, "beyond the learned tensors");
        return;
    }
    const uint8_t coding = device->held.header[TLC_PARAMS_CODING];
    const uint8_t *from = device->config.state ? device->config.state + offset : NULL;
    if (coding == TLC_PARAMS_DELTA && device->config.keeper && offset == 0 && count == 0) { /* coded into the arena */
        device->ctx.has_forward = 0;
        from = device->config.arena;
        if (device->config.keeper->delta_encode(&device->ctx, device->config.arena, device->config.model->arena_bytes,
                                                &count) != TLC_OK) {
            say_error(device, TLC_ERR_FULL, "the arena has no room for the differences");
            return;
        }
    } else if (coding != TLC_PARAMS_PLAIN) {
        say_error(device, TLC_ERR_ARG, "no such coding of learned tensors, or not of a part of them");
        return;
    } else {
        count = count ? count : total - offset;
    }
    uint8_t message[TLC_PARAMS_BYTES];
    memcpy(message, device->held.header, sizeof message);
    tlc_put_u32(message + TLC_PARAMS_TOTAL, total);
    const tlc_status_t status = answer(device, TLC_STREAM_BULK, TLC_MSG_PARAMS, message, sizeof message, from, count);
    if (status == TLC_ERR_SIZE) {
        say_error(device, status, "more than the host takes at once");
    }
}

static void take_set_params(tlc_device_t *device) {
    const tlc_link_message_t *held = &device->held;
    const uint32_t total = device->config.model->param_bytes;
    const uint32_t offset = tlc_get_u32(held->header + TLC_PARAMS_OFFSET);
    const uint8_t coding = held->header[TLC_PARAMS_CODING];
    const bool coded = coding == TLC_PARAMS_DELTA && device->config.keeper && offset == 0;
    if (coding != TLC_PARAMS_PLAIN && !coded) {
        say_error(device, TLC_ERR_ARG, "no such coding of learned tensors, or not of a part of them");
        return;
    }
    if (tlc_get_u32(held->header + TLC_PARAMS_TOTAL) != total || offset > total ||
        (!coded && held->payload_bytes > total - offset) || (held->payload_bytes && !held->payload)) {
        say_error(device, TLC_ERR_SIZE, "not the size of the learned tensors");
        return;
    }
    if (coded) {
        const tlc_status_t status =
            device->config.keeper->delta_decode(&device->ctx, held->payload, held->payload_bytes);
        device->step = 0; /* what no code makes is the values in flash */
        device->ctx.has_forward = 0;
        device->params_at = total;
        if (status != TLC_OK) {
            say_error(device, status, "no differences of these learned tensors: they are the values in flash now");
            return;
        }
        device->step = tlc_common_get(held->header).step;
        say_done(device, 0, 0);
        return;
    }
    if (offset > device->params_at) { /* a set begins at 0 and leaves out no piece; each may come twice */
        say_error(device, TLC_ERR_STATE, "a piece of the learned tensors before this one is missing");
        return;
    }
    if (held->payload_bytes) {
        memcpy(device->config.state + offset, held->payload, held->payload_bytes);
        const uint32_t end = offset + held->payload_bytes;
        device->params_at = offset ? max_u32(device->params_at, end) : end;
        if (device->params_at == total) {
            device->step = tlc_common_get(held->header).step;
            if (device->config.model->refresh) {
                device->config.model->refresh(&device->ctx);
            }
        }
    }
    device->ctx.has_forward = 0;
    say_done(device, 0, 0);
}

/* Between the pieces of SET_PARAMS the tensors are half the old and half the new: nobody is to see or use them. */
static bool wants_params(uint8_t type) {
    return type == TLC_MSG_FORWARD || type == TLC_MSG_BACKWARD || type == TLC_MSG_STEP || type == TLC_MSG_GET_PARAMS ||
           type == TLC_MSG_SAVE || type == TLC_MSG_TRAIN || type == TLC_MSG_TAIL;
}

/* From the arena, as it is: what the bytes are does not matter, and nothing is disturbed. */
static void take_test(tlc_device_t *device) {
    const uint32_t count = tlc_get_u32(device->held.header + TLC_TEST_COUNT);
    if (count > device->config.model->arena_bytes) {
        say_error(device, TLC_ERR_SIZE, "more than the arena has");
        return;
    }
    uint8_t message[TLC_TEST_BYTES];
    memcpy(message, device->held.header, TLC_COMMON_BYTES);
    tlc_put_u32(message + TLC_TEST_COUNT, count);
    const tlc_status_t status =
        answer(device, TLC_STREAM_BULK, TLC_MSG_TEST, message, sizeof message, device->config.arena, count);
    if (status == TLC_ERR_SIZE) {
        say_error(device, status, "more than the host takes at once");
    }
}

static void take_welcome(tlc_device_t *device) {
    if (memcmp(device->held.header + TLC_WELCOME_HASH, device->config.model->bundle_hash, TLC_HASH_BYTES) != 0) {
        say_error(device, TLC_ERR_BUNDLE, "welcomed with another bundle's hash");
        return;
    }
    device->token = tlc_get_u32(device->held.header + TLC_WELCOME_TOKEN);
    device->welcomed = true;
    if (device->journal.storage && device->journal.status == TLC_ERR_BUNDLE) {
        (void)tlc_device_log(device, 30, "the journal is another bundle's: ignored, and kept until the next save");
    } else if (device->journal.storage && device->journal.status == TLC_ERR_CORRUPT) {
        (void)tlc_device_log(device, 30, "the journal is damaged: the learned tensors are the values in flash");
    }
    say_done(device, 0, 0);
}

static void take_cut(tlc_device_t *device) {
    const uint8_t cut = device->held.header[TLC_CUT_INDEX];
    if (cut == device->config.model->cut) {
        say_done(device, TLC_DONE_REPEATED, 0);
        return;
    }
    if (tlc_select_cut(&device->ctx, cut) != TLC_OK) {
        say_error(device, TLC_ERR_ARG, "this bundle has not so many cuts");
        return;
    }
    device->config.model = device->ctx.model;
    device->keep = false;
    device->backward = 0;
    device->sample_request = 0;
    say_done(device, 0, 0);
}

static void take_result(tlc_device_t *device) {
    const tlc_link_message_t *held = &device->held;
    const uint32_t count = tlc_get_u32(held->header + TLC_RESULT_COUNT);
    if (!held->payload || count != held->payload_bytes / 4u || held->payload_bytes % 4u) {
        say_error(device, TLC_ERR_SIZE, "no room for a result of this size");
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

static void take_exit(tlc_device_t *device) {
    if (!device->config.model->aux) {
        say_error(device, TLC_ERR_STATE, NO_HEAD);
        return;
    }
    device->config.exit_bound = tlc_get_u16(device->held.header + TLC_EXIT_BOUND);
    say_done(device, 0, 0);
}

static void take_reset_state(tlc_device_t *device) {
    tlc_status_t status = TLC_OK;
    if (device->journal.storage) {
        const uint32_t began = begin_work(device);
        status = device->config.keeper->journal_clear(&device->journal);
        end_work(device, began);
    }
    if (device->config.model->init) {
        device->config.model->init(&device->ctx);
    }
    device->ctx.samples = 0;
    device->ctx.has_forward = 0;
    device->step = 0;
    device->backward = 0;
    device->params_at = device->config.model->param_bytes;
    if (status != TLC_OK) {
        say_error(device, status, "the journal cannot be erased: what was learned will be back after a reset");
        return;
    }
    say_done(device, 0, 0);
}

static void handle(tlc_device_t *device) {
    const tlc_link_message_t *held = &device->held;
    if (held->header_bytes < tlc_message_header_bytes(held->type)) {
        if (held->header_bytes >= TLC_COMMON_BYTES) {
            say_error(device, TLC_ERR_SIZE, "shorter than its header");
        }
        return;
    }
    if (!device->welcomed && held->type != TLC_MSG_WELCOME && held->type != TLC_MSG_REFUSE &&
        held->type != TLC_MSG_CUT) {
        say_error(device, TLC_ERR_STATE, "not welcomed yet");
        return;
    }
    if (device->params_at < device->config.model->param_bytes && wants_params(held->type)) {
        say_error(device, TLC_ERR_STATE, "the learned tensors are half written: send the other pieces, or RESET_STATE");
        return;
    }
    switch (held->type) {
    case TLC_MSG_WELCOME:
        take_welcome(device);
        break;
    case TLC_MSG_REFUSE:
        device->welcomed = false;
        break;
    case TLC_MSG_FORWARD:
        take_forward(device);
        break;
    case TLC_MSG_RESULT:
        take_result(device);
        break;
    case TLC_MSG_BACKWARD:
        take_backward(device);
        break;
    case TLC_MSG_STEP:
        take_step(device);
        break;
    case TLC_MSG_TRAIN:
        take_train(device);
        break;
    case TLC_MSG_TAIL:
        take_tail(device);
        break;
    case TLC_MSG_EXIT:
        take_exit(device);
        break;
    case TLC_MSG_CUT:
        take_cut(device);
        break;
    case TLC_MSG_GET_PARAMS:
        take_get_params(device);
        break;
    case TLC_MSG_SET_PARAMS:
        take_set_params(device);
        break;
    case TLC_MSG_GET_STATS:
        say_stats(device);
        break;
    case TLC_MSG_RESET_STATE:
        take_reset_state(device);
        break;
    case TLC_MSG_SAVE:
        take_save(device);
        break;
    case TLC_MSG_TEST:
        take_test(device);
        break;
    default:
        say_error(device, TLC_ERR_ARG, "no such message type");
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

/* ---- samples of its own ---- */

/* From a sample that the hook has labelled, after its forward pass. */
static void learn_alone(tlc_device_t *device, const tlc_target_t *target) {
    const tlc_device_config_t *config = &device->config;
    const tlc_model_t *model = config->model;
    const tlc_learning_t *own = config->learning;
    if (!own || !model->loss || !config->keeper) {
        return;
    }
    if (!device->ctx.has_forward) {
        (void)tlc_device_log(device, 40, "no learning from own samples: their results took the arena (config.values)");
        return;
    }
    tlc_status_t status = model->loss(&device->ctx, target, &device->verdict);
    if (status != TLC_OK) {
        (void)tlc_device_log(device, 30,
                             status == TLC_ERR_ARG ? "a sample's label is no class: not learned from"
                                                   : "a sample's loss is not finite: not learned from");
        return;
    }
    tlc_step_t step = own->step;
    step.step = device->step + 1u;
    step.learning_rate = config->keeper->rate(&own->schedule, step.learning_rate, step.step);
    step.max_norm = step.max_norm > 0.0f ? step.max_norm : config->max_gradient;
    const char *how;
    status = go_back(device, &step, &how);
    if (status == TLC_OK && model->update) {
        if (device->ctx.samples < own->batch) {
            return;
        }
        status = apply(device, &step, &how);
    }
    if (status == TLC_ERR_NUMERIC) {
        diverged(device);
    } else if (status == TLC_OK) {
        (void)stepped(device, step.step, false);
    }
}

static bool take_sample(tlc_device_t *device) {
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
        if (now_ms(device) - device->sample_ms < RESULT_WAIT_MS) {
            return false;
        }
        device->sample_request = 0;
    }
    if (!config->message && device->link.incoming[0].used) {
        return false; /* a tensor is coming into the arena */
    }
    tlc_sample_t sample;
    device->has_own = false;
    if (!ask_hook(device, &sample)) {
        return false;
    }
    if (sample.input < config->model->input_count) {
        (void)tlc_device_log(device, 40, "the sample hook put too few values");
        return true;
    }
    if (run(device) != TLC_OK) {
        (void)tlc_device_log(device, 40, "the forward pass of a sample failed");
        return true;
    }
    if (config->standalone) {
        local_result(device, &config->model->outputs[0]);
        if (sample.labelled) {
            learn_alone(device, &sample.target);
        }
        return true;
    }
    if (!device->welcomed) {
        return true;
    }
    device->sample_count++;
    memset(&device->forward, 0, sizeof device->forward);
    if (is_sure(device, config->exit_bound)) {
        device->exits++;
        local_result(device, model->aux->output);
        return true;
    }
    device->forward.request = OWN_REQUEST | device->sample_count;
    device->sample_request = device->forward.request;
    device->sample_ms = now_ms(device);
    queue_outputs(device, TLC_SMASHED_SAMPLE);
    return true;
}

/* ---- the loop ---- */

static bool flush(tlc_device_t *device) {
    const tlc_port_t *port = device->config.port;
    bool active = false;
    for (;;) {
        const uint8_t *bytes = NULL;
        const size_t count = tlc_link_output(&device->link, now_ms(device), &bytes);
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
        tlc_link_receive(&device->link, now_ms(device), bytes, count);
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
        device->hello_due = !say_hello(device);
        active = true;
    }
    if (device->outputs_due) {
        active = send_outputs(device) || active;
    }
    active = serve(device) || active;
    if (device->outputs_due) {
        active = send_outputs(device) || active;
    }
    active = take_sample(device) || active;
    return flush(device) || active;
}

bool tlc_device_log(tlc_device_t *device, uint8_t level, const char *text) {
    if (!tlc_link_session(&device->link) || tlc_link_queued(&device->link, TLC_STREAM_LOG) ||
        tlc_link_room(&device->link) < 2) {
        device->log_dropped++;
        return false;
    }
    const uint32_t count = min_u32((uint32_t)strlen(text), TLC_DEVICE_LOG_BYTES);
    memcpy(device->log, text, count);
    uint8_t header[TLC_LOG_BYTES];
    memset(header, 0, sizeof header);
    header[TLC_LOG_LEVEL] = level;
    return tlc_link_send(&device->link, TLC_STREAM_LOG, TLC_MSG_LOG, header, sizeof header, device->log, count) ==
           TLC_OK;
}
