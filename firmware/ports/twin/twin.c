/* SPDX-License-Identifier: Apache-2.0
 *
 * twin.c: a compiled model as a shared library. All state lies in memory that the caller gives, so one
 * process can hold as many devices as it has memory. This comment is the contract; every function returns a
 * tlc_status_t (0: done) unless it says otherwise, and none keeps a pointer that it is given, `memory` and `flash`
 * apart.
 *
 *   size_t   tlc_twin_bytes(void)            bytes of `memory`; align it to 16
 *   uint32_t tlc_twin_arena_bytes(void), tlc_twin_state_bytes(void), tlc_twin_param_bytes(void),
 *            tlc_twin_input_bytes(void)      all the inputs together, int8
 *            tlc_twin_output_bytes(void)     all the outputs together, int8, at the cut where they are most
 *            tlc_twin_gradient_elements(void)  of the float32 gradient, likewise; 0 for a frozen model
 *   void     tlc_twin_hash(uint8_t hash[32])
 *   int      tlc_twin_init(void *memory, uint32_t boot, int standalone)
 *                                            a fresh device: values from flash, no session. `boot` must differ from
 *                                            boot to boot of the same device
 *   int      tlc_twin_init_flash(void *memory, uint32_t boot, int standalone, uint8_t *flash, uint32_t slot_bytes)
 *                                            the same with a journal in `flash` (2, slot_bytes), which the caller keeps
 *                                            from boot to boot
 *   void     tlc_twin_cut(void *memory, uint32_t operations)
 *                                            the power fails in the flash operation after so many more: a byte written,
 *                                            or 64 erased; that one is half done, and the device does no more
 *   uint32_t tlc_twin_operations(void *memory)  flash operations since it was started
 *   int      tlc_twin_dead(void *memory)     1: its power has failed; start it again
 *
 * The model, called directly (arrays: one tensor after another, in the model's order):
 *   int tlc_twin_select(void *memory, uint8_t cut)  where it ends from now on; ARG: the bundle has not so many cuts
 *   int tlc_twin_forward(void *memory, const int8_t *inputs, int8_t *outputs)
 *   int tlc_twin_forward_many(void *memory, const int8_t *inputs, int8_t *outputs, size_t count)
 *   int tlc_twin_backward(void *memory, const float *gradient, const tlc_step_t *step)
 *                                            after tlc_twin_forward; step may be NULL unless updates are interleaved
 *   int tlc_twin_learn(void *memory, uint32_t label, const float *values, const float *gradient,
 *                      const tlc_step_t *step, float *loss, uint32_t *predicted)
 *                                            the same with the gradient of the model's loss; values: NULL, or of a mean
 *                                            squared error; gradient: NULL, or beside the loss of a head at the cut
 *                                            that of output 0
 *   int tlc_twin_head(void *memory, int8_t *output)
 *                                            after tlc_twin_forward: what the head at the cut says
 *   int tlc_twin_tail(void *memory, const int8_t *input, int8_t *output, const uint32_t *label, float *loss,
 *                     uint32_t *predicted, float *gradient)
 *                                            the part behind the host's, after tlc_twin_forward; with a label also its
 *                                            backward pass, and then tlc_twin_backward. label: NULL, or the class
 *   int tlc_twin_update(void *memory, const tlc_step_t *step)
 *   int tlc_twin_get_params(void *memory, uint8_t *bytes), tlc_twin_set_params(void *memory, const uint8_t *bytes)
 *   int tlc_twin_reset(void *memory)         learned tensors back to the values in flash; the journal stays
 *   int tlc_twin_save(void *memory)          learned tensors into the journal
 *   int tlc_twin_quantize(void *memory, const float *values, int8_t *inputs)   the device's own quantizer
 *   int tlc_twin_read_arena(void *memory, uint32_t offset, uint8_t *bytes, uint32_t count)   for tests
 *
 * The device's main loop, over byte pipes:
 *   size_t tlc_twin_receive(void *memory, const uint8_t *bytes, size_t count)  host -> device; how many it took
 *   int    tlc_twin_poll(void *memory, uint32_t now_ms)                         1: something was done, call again
 *   size_t tlc_twin_send(void *memory, uint8_t *bytes, size_t capacity)        device -> host; how many
 *   void   tlc_twin_sample(void *memory, const float *values)                  the next sample of its sensor
 *   void   tlc_twin_label(void *memory, uint32_t label, const tlc_learning_t *how)
 *                                                                              its class, and how to learn from it
 *   int    tlc_twin_result(void *memory, float *values, uint32_t capacity)     the last result's count, -1: none;
 *                                                                              taken once
 *
 * Build with the firmware's sources and the generated model; TLC_TWIN_FRAGMENT, TLC_TWIN_WINDOW,
 * TLC_TWIN_PIPE may be set with -D.
 */
#include <string.h>

#include "tlc/device.h"

#ifndef TLC_TWIN_FRAGMENT
#define TLC_TWIN_FRAGMENT 1024
#endif
#ifndef TLC_TWIN_WINDOW
#define TLC_TWIN_WINDOW 16
#endif
#ifndef TLC_TWIN_PIPE
#define TLC_TWIN_PIPE 4096 /* bytes that each direction holds, as a board's UART buffer does */
#endif
#define TLC_TWIN_RESULTS 1024 /* floats of a result that are kept */

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

extern const tlc_model_t tlc_model;

typedef struct {
    uint32_t first, count;
    uint8_t bytes[TLC_TWIN_PIPE];
} pipe_t;

#define FLASH_PIECE 64u /* bytes erased at once */

typedef struct {
    uint8_t *bytes; /* (2, slot_bytes) */
    uint32_t operations;
    uint32_t cut; /* the operation in which the power fails; UINT32_MAX: none */
    bool dead;
    tlc_storage_t storage;
} flash_t;

typedef struct {
    tlc_device_t device;
    tlc_port_t port;
    uint32_t now_ms;
    uint32_t boot;
    pipe_t in, out;
    uint32_t link[(TLC_LINK_MEMORY(TLC_TWIN_WINDOW, TLC_TWIN_FRAGMENT) + 3) / 4];
    uint64_t ticks;
    float results[TLC_TWIN_RESULTS];
    int32_t result_count;
    uint8_t has_sample, has_label;
    uint32_t label;
    tlc_learning_t learning;
    flash_t flash;
} twin_t;

/* Laid out behind the twin, each aligned to 16: arena, state, message buffer, output buffer, values, sample. */
enum { ARENA, STATE, MESSAGE, OUTPUT, VALUES, SAMPLE, PARTS };

static size_t align(size_t bytes) { return (bytes + 15u) & ~(size_t)15; }

static uint32_t sum(const tlc_tensor_t *tensors, uint32_t count) {
    uint32_t total = 0;
    for (uint32_t i = 0; i < count; i++) {
        total += tensors[i].elements;
    }
    return total;
}

static uint32_t input_bytes(void) { return sum(tlc_model.inputs, tlc_model.input_count); }
static uint32_t gradient_at(const tlc_model_t *model) { return model->gradient ? model->gradient->elements : 0; }
static uint32_t max_u32(uint32_t a, uint32_t b) { return a > b ? a : b; }

static uint32_t output_bytes(void) {
    uint32_t most = sum(tlc_model.outputs, tlc_model.output_count);
    for (uint32_t i = 0; i < tlc_model.cut_count; i++) {
        most = max_u32(most, sum(tlc_model.cuts[i]->outputs, tlc_model.cuts[i]->output_count));
    }
    return most;
}

static uint32_t sent_bytes(void) { /* at once: the outputs, or that of the head at the cut */
    return max_u32(tlc_model.aux ? tlc_model.aux->output->elements : 0, output_bytes());
}

static uint32_t gradient_elements(void) {
    uint32_t most = gradient_at(&tlc_model);
    for (uint32_t i = 0; i < tlc_model.cut_count; i++) {
        most = max_u32(most, gradient_at(tlc_model.cuts[i]));
    }
    return most;
}

static size_t part_bytes(int part) {
    size_t message = input_bytes();
    const size_t behind = tlc_model.tail ? tlc_model.tail->input->elements : 0;
    switch (part) {
    case ARENA:
        return tlc_model.arena_bytes;
    case STATE:
        return tlc_model.state_bytes;
    case MESSAGE:
        message = message > 4u * (size_t)gradient_elements() ? message : 4u * (size_t)gradient_elements();
        message = message > tlc_model.param_bytes ? message : tlc_model.param_bytes;
        message = message > behind ? message : behind;
        message = message > 4096 ? message : 4096;
        return 2u * align(message + 16u); /* two on their way */
    case OUTPUT:
        return sent_bytes();
    case VALUES:
        return sizeof(float) * (size_t)(tlc_model.tail ? tlc_model.tail->output->elements : sent_bytes());
    default:
        return sizeof(float) * (size_t)input_bytes();
    }
}

static uint8_t *part(void *memory, int wanted) {
    uint8_t *at = (uint8_t *)memory + align(sizeof(twin_t));
    for (int i = 0; i < wanted; i++) {
        at += align(part_bytes(i));
    }
    return at;
}

static size_t pipe_put(pipe_t *pipe, const uint8_t *bytes, size_t count) {
    size_t done = 0;
    while (done < count && pipe->count < TLC_TWIN_PIPE) {
        const uint32_t at = (pipe->first + pipe->count) % TLC_TWIN_PIPE;
        size_t run = at < pipe->first ? pipe->first - at : TLC_TWIN_PIPE - at; /* free bytes in one piece */
        run = run < count - done ? run : count - done;
        memcpy(pipe->bytes + at, bytes + done, run);
        pipe->count += (uint32_t)run;
        done += run;
    }
    return done;
}

static size_t pipe_get(pipe_t *pipe, uint8_t *bytes, size_t capacity) {
    size_t done = 0;
    while (done < capacity && pipe->count) {
        size_t run = TLC_TWIN_PIPE - pipe->first;
        run = run < pipe->count ? run : pipe->count;
        run = run < capacity - done ? run : capacity - done;
        memcpy(bytes + done, pipe->bytes + pipe->first, run);
        pipe->first = (uint32_t)((pipe->first + run) % TLC_TWIN_PIPE);
        pipe->count -= (uint32_t)run;
        done += run;
    }
    return done;
}

static size_t port_read(void *self, uint8_t *bytes, size_t capacity) {
    return pipe_get(&((twin_t *)self)->in, bytes, capacity);
}

static size_t port_write(void *self, const uint8_t *bytes, size_t count) {
    return pipe_put(&((twin_t *)self)->out, bytes, count);
}

static uint32_t port_millis(void *self) { return ((twin_t *)self)->now_ms; }

/* A twin has no instruction counter; calls are counted, so that figures repeat exactly. */
static uint64_t port_ticks(void *self) { return ((twin_t *)self)->ticks++; }

static uint32_t port_entropy(void *self) { return ((twin_t *)self)->boot; }

static void put(tlc_sample_t *sample, const float *values) {
    for (uint32_t i = 0; i < input_bytes(); i++) {
        tlc_sample_put(sample, values[i]);
    }
}

static bool app_sample(void *app, tlc_sample_t *sample) {
    twin_t *twin = app;
    if (!twin->has_sample) {
        return false;
    }
    put(sample, (const float *)(const void *)part(twin, SAMPLE));
    if (twin->has_label) {
        tlc_sample_label(sample, twin->label);
    }
    twin->has_label = 0;
    twin->has_sample = 0;
    return true;
}

static void app_result(void *app, const float *values, uint32_t count) {
    twin_t *twin = app;
    const uint32_t kept = count < TLC_TWIN_RESULTS ? count : TLC_TWIN_RESULTS;
    memcpy(twin->results, values, sizeof(float) * kept);
    twin->result_count = (int32_t)kept;
}

EXPORT size_t tlc_twin_bytes(void) {
    size_t total = align(sizeof(twin_t));
    for (int i = 0; i < PARTS; i++) {
        total += align(part_bytes(i));
    }
    return total;
}

EXPORT uint32_t tlc_twin_arena_bytes(void) { return tlc_model.arena_bytes; }
EXPORT uint32_t tlc_twin_state_bytes(void) { return tlc_model.state_bytes; }
EXPORT uint32_t tlc_twin_param_bytes(void) { return tlc_model.param_bytes; }
EXPORT uint32_t tlc_twin_input_bytes(void) { return input_bytes(); }
EXPORT uint32_t tlc_twin_output_bytes(void) { return output_bytes(); }
EXPORT uint32_t tlc_twin_gradient_elements(void) { return gradient_elements(); }
EXPORT void tlc_twin_hash(uint8_t *hash) { memcpy(hash, tlc_model.bundle_hash, TLC_HASH_BYTES); }

/* ---- flash: writing clears bits, erasing sets them, and the power may fail between ---- */

static bool powered(flash_t *flash) {
    flash->dead = flash->dead || flash->operations == flash->cut;
    flash->operations++;
    return !flash->dead;
}

static bool flash_read(void *self, uint8_t slot, uint32_t offset, uint8_t *bytes, uint32_t count) {
    const flash_t *flash = self;
    memcpy(bytes, flash->bytes + (size_t)slot * flash->storage.slot_bytes + offset, count);
    return !flash->dead;
}

static bool flash_erase(void *self, uint8_t slot) {
    flash_t *flash = self;
    uint8_t *at = flash->bytes + (size_t)slot * flash->storage.slot_bytes;
    for (uint32_t offset = 0; offset < flash->storage.slot_bytes && !flash->dead; offset += FLASH_PIECE) {
        const bool whole = powered(flash);
        for (uint32_t i = offset; i < offset + FLASH_PIECE && i < flash->storage.slot_bytes; i++) {
            at[i] = whole ? 0xFFu : (uint8_t)(at[i] | 0x5Au);
        }
    }
    return !flash->dead;
}

static bool flash_write(void *self, uint8_t slot, uint32_t offset, const uint8_t *bytes, uint32_t count) {
    flash_t *flash = self;
    uint8_t *at = flash->bytes + (size_t)slot * flash->storage.slot_bytes + offset;
    for (uint32_t i = 0; i < count && !flash->dead; i++) {
        const unsigned still_set = powered(flash) ? 0u : 0x5Au;
        at[i] = (uint8_t)(at[i] & (bytes[i] | still_set));
    }
    return !flash->dead;
}

EXPORT void tlc_twin_cut(void *memory, uint32_t operations) {
    flash_t *flash = &((twin_t *)memory)->flash;
    flash->cut = flash->operations + operations;
}

EXPORT uint32_t tlc_twin_operations(void *memory) { return ((twin_t *)memory)->flash.operations; }
EXPORT int tlc_twin_dead(void *memory) { return ((twin_t *)memory)->flash.dead ? 1 : 0; }

static int start(void *memory, uint32_t boot, int standalone, uint8_t *flash, uint32_t slot_bytes) {
    if (!memory || ((uintptr_t)memory & 15u) != 0) {
        return TLC_ERR_ARG;
    }
    memset(memory, 0, tlc_twin_bytes());
    twin_t *twin = memory;
    twin->boot = boot;
    twin->result_count = -1;
    twin->port.read = port_read;
    twin->port.write = port_write;
    twin->port.millis = port_millis;
    twin->port.ticks = port_ticks;
    twin->port.entropy = port_entropy;
    twin->port.self = twin;
    tlc_device_config_t config;
    tlc_device_defaults(&config);
    config.model = &tlc_model;
    config.port = &twin->port;
    config.arena = part(memory, ARENA);
    config.state = tlc_model.state_bytes ? part(memory, STATE) : NULL;
    config.link_memory = twin->link;
    config.link_memory_bytes = sizeof twin->link;
    config.fragment = TLC_TWIN_FRAGMENT;
    config.window = TLC_TWIN_WINDOW;
    config.peer_window = TLC_TWIN_WINDOW;
    config.message = part(memory, MESSAGE);
    config.message_bytes = (uint32_t)part_bytes(MESSAGE);
    config.output = part(memory, OUTPUT);
    config.output_bytes = sent_bytes();
    config.values = (float *)(void *)part(memory, VALUES);
    config.value_count = (uint32_t)(part_bytes(VALUES) / sizeof(float));
    config.board = "twin";
    config.reset_reason = TLC_RESET_POWER;
    config.standalone = standalone != 0;
    if (tlc_model.backward) {
        config.keeper = &tlc_keeper;
    }
    twin->flash.cut = UINT32_MAX;
    if (flash) {
        twin->flash.bytes = flash;
        twin->flash.storage.flash_read = flash_read;
        twin->flash.storage.flash_erase = flash_erase;
        twin->flash.storage.flash_write = flash_write;
        twin->flash.storage.slot_bytes = slot_bytes;
        twin->flash.storage.self = &twin->flash;
        config.storage = &twin->flash.storage;
    }
    config.learning = &twin->learning;
    config.sample = app_sample;
    config.result = app_result;
    config.app = twin;
    return (int)tlc_device_init(&twin->device, &config);
}

EXPORT int tlc_twin_init(void *memory, uint32_t boot, int standalone) {
    return start(memory, boot, standalone, NULL, 0);
}

EXPORT int tlc_twin_init_flash(void *memory, uint32_t boot, int standalone, uint8_t *flash, uint32_t slot_bytes) {
    return start(memory, boot, standalone, flash, slot_bytes);
}

EXPORT int tlc_twin_select(void *memory, uint8_t cut) {
    tlc_device_t *device = &((twin_t *)memory)->device;
    const tlc_status_t status = tlc_select_cut(&device->ctx, cut);
    device->config.model = device->ctx.model;
    return (int)status;
}

EXPORT int tlc_twin_forward(void *memory, const int8_t *inputs, int8_t *outputs) {
    tlc_ctx_t *ctx = &((twin_t *)memory)->device.ctx;
    for (uint32_t i = 0; i < tlc_model.input_count; i++) {
        memcpy(ctx->arena + tlc_model.inputs[i].offset, inputs, tlc_model.inputs[i].elements);
        inputs += tlc_model.inputs[i].elements;
    }
    void (*const on_layer)(void *arg, uint16_t layer) = ctx->on_layer;
    ctx->on_layer = NULL; /* the device's loop is not running */
    const tlc_status_t status = tlc_run_forward(ctx);
    ctx->on_layer = on_layer;
    for (uint32_t i = 0; i < ctx->model->output_count; i++) {
        memcpy(outputs, ctx->arena + ctx->model->outputs[i].offset, ctx->model->outputs[i].elements);
        outputs += ctx->model->outputs[i].elements;
    }
    return (int)status;
}

EXPORT int tlc_twin_forward_many(void *memory, const int8_t *inputs, int8_t *outputs, size_t count) {
    const tlc_model_t *model = ((twin_t *)memory)->device.ctx.model;
    const uint32_t ends = sum(model->outputs, model->output_count);
    int status = TLC_OK;
    for (size_t i = 0; i < count && status == TLC_OK; i++) {
        status = tlc_twin_forward(memory, inputs + i * input_bytes(), outputs + i * ends);
    }
    return status;
}

EXPORT int tlc_twin_backward(void *memory, const float *gradient, const tlc_step_t *step) {
    tlc_ctx_t *ctx = &((twin_t *)memory)->device.ctx;
    const tlc_model_t *model = ctx->model;
    if (!model->backward || !ctx->has_forward || (!step && !model->update)) {
        return TLC_ERR_STATE;
    }
    const tlc_status_t status =
        tlc_load_gradient(ctx, TLC_F32, 1.0f, (const uint8_t *)gradient, 4u * gradient_at(model));
    if (model->aux) {
        tlc_clear_gradient(ctx, model->aux->gradient);
    }
    return (int)(status == TLC_OK ? model->backward(ctx, step) : status);
}

EXPORT int tlc_twin_head(void *memory, int8_t *output) {
    const tlc_ctx_t *ctx = &((const twin_t *)memory)->device.ctx;
    if (!tlc_model.aux) {
        return TLC_ERR_STATE;
    }
    memcpy(output, ctx->arena + tlc_model.aux->output->offset, tlc_model.aux->output->elements);
    return TLC_OK;
}

EXPORT int tlc_twin_learn(void *memory, uint32_t label, const float *values, const float *gradient,
                          const tlc_step_t *step, float *loss, uint32_t *predicted) {
    tlc_ctx_t *ctx = &((twin_t *)memory)->device.ctx;
    if (!tlc_model.loss || tlc_model.tail || (!step && !tlc_model.update) || (gradient && !tlc_model.aux)) {
        return TLC_ERR_STATE;
    }
    const tlc_target_t target = {.label = label, .values = values};
    tlc_verdict_t verdict;
    tlc_status_t status = tlc_model.loss(ctx, &target, &verdict);
    if (gradient && status == TLC_OK) {
        status = tlc_load_gradient(ctx, TLC_F32, 1.0f, (const uint8_t *)gradient, 4u * gradient_elements());
    } else if (tlc_model.aux) {
        tlc_clear_gradient(ctx, tlc_model.gradient);
    }
    if (status == TLC_OK) {
        *loss = verdict.loss;
        *predicted = verdict.predicted;
        status = tlc_model.backward(ctx, step);
    }
    return (int)status;
}

EXPORT int tlc_twin_tail(void *memory, const int8_t *input, int8_t *output, const uint32_t *label, float *loss,
                         uint32_t *predicted, float *gradient) {
    tlc_ctx_t *ctx = &((twin_t *)memory)->device.ctx;
    const tlc_tail_t *tail = tlc_model.tail;
    if (!tail || (label && !tlc_model.loss)) {
        return TLC_ERR_STATE;
    }
    memcpy(ctx->arena + tail->input->offset, input, tail->input->elements);
    void (*const on_layer)(void *arg, uint16_t layer) = ctx->on_layer;
    ctx->on_layer = NULL; /* the device's loop is not running */
    tlc_status_t status = tail->tail_forward(ctx);
    ctx->on_layer = on_layer;
    memcpy(output, ctx->arena + tail->output->offset, tail->output->elements);
    if (!label || status != TLC_OK) {
        return (int)status;
    }
    const tlc_target_t target = {.label = *label, .values = NULL};
    tlc_verdict_t verdict;
    status = tlc_model.loss(ctx, &target, &verdict);
    if (status == TLC_OK) {
        *loss = verdict.loss;
        *predicted = verdict.predicted;
        status = tail->tail_backward(ctx);
    }
    if (status == TLC_OK) {
        memcpy(gradient, ctx->arena + tail->gradient->offset, sizeof(float) * (size_t)tail->gradient->elements);
    }
    return (int)status;
}

EXPORT int tlc_twin_update(void *memory, const tlc_step_t *step) {
    tlc_ctx_t *ctx = &((twin_t *)memory)->device.ctx;
    return (int)(ctx->model->update ? ctx->model->update(ctx, step) : TLC_ERR_STATE);
}

EXPORT int tlc_twin_get_params(void *memory, uint8_t *bytes) {
    if (tlc_model.param_bytes) {
        memcpy(bytes, ((twin_t *)memory)->device.ctx.state, tlc_model.param_bytes);
    }
    return TLC_OK;
}

EXPORT int tlc_twin_set_params(void *memory, const uint8_t *bytes) {
    tlc_ctx_t *ctx = &((twin_t *)memory)->device.ctx;
    if (tlc_model.param_bytes) {
        memcpy(ctx->state, bytes, tlc_model.param_bytes);
        if (tlc_model.refresh) {
            tlc_model.refresh(ctx);
        }
    }
    ctx->has_forward = 0;
    return TLC_OK;
}

EXPORT int tlc_twin_reset(void *memory) {
    tlc_ctx_t *ctx = &((twin_t *)memory)->device.ctx;
    if (tlc_model.init) {
        tlc_model.init(ctx);
    }
    ctx->samples = 0;
    ctx->has_forward = 0;
    return TLC_OK;
}

EXPORT int tlc_twin_save(void *memory) {
    tlc_device_t *device = &((twin_t *)memory)->device;
    return (int)tlc_journal_save(&device->journal, &device->ctx, device->step);
}

EXPORT int tlc_twin_quantize(void *memory, const float *values, int8_t *inputs) {
    tlc_ctx_t *ctx = &((twin_t *)memory)->device.ctx;
    tlc_sample_t sample = {.ctx = ctx};
    put(&sample, values);
    for (uint32_t i = 0; i < tlc_model.input_count; i++) {
        memcpy(inputs, ctx->arena + tlc_model.inputs[i].offset, tlc_model.inputs[i].elements);
        inputs += tlc_model.inputs[i].elements;
    }
    return TLC_OK;
}

EXPORT int tlc_twin_read_arena(void *memory, uint32_t offset, uint8_t *bytes, uint32_t count) {
    if (offset > tlc_model.arena_bytes || count > tlc_model.arena_bytes - offset) {
        return TLC_ERR_ARG;
    }
    memcpy(bytes, ((twin_t *)memory)->device.ctx.arena + offset, count);
    return TLC_OK;
}

EXPORT size_t tlc_twin_receive(void *memory, const uint8_t *bytes, size_t count) {
    return pipe_put(&((twin_t *)memory)->in, bytes, count);
}

EXPORT int tlc_twin_poll(void *memory, uint32_t now_ms) {
    twin_t *twin = memory;
    twin->now_ms = now_ms;
    return !twin->flash.dead && tlc_device_poll(&twin->device) ? 1 : 0;
}

EXPORT size_t tlc_twin_send(void *memory, uint8_t *bytes, size_t capacity) {
    twin_t *twin = memory;
    return twin->flash.dead ? 0 : pipe_get(&twin->out, bytes, capacity);
}

EXPORT void tlc_twin_sample(void *memory, const float *values) {
    memcpy(part(memory, SAMPLE), values, part_bytes(SAMPLE));
    ((twin_t *)memory)->has_sample = 1;
}

EXPORT void tlc_twin_label(void *memory, uint32_t label, const tlc_learning_t *how) {
    twin_t *twin = memory;
    twin->label = label;
    twin->has_label = 1;
    twin->learning = *how;
}

EXPORT int tlc_twin_result(void *memory, float *values, uint32_t capacity) {
    twin_t *twin = memory;
    const int32_t count = twin->result_count;
    if (count < 0 || (uint32_t)count > capacity) {
        return -1;
    }
    memcpy(values, twin->results, sizeof(float) * (size_t)count);
    twin->result_count = -1;
    return count;
}
