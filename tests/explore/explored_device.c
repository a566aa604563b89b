/* SPDX-License-Identifier: Apache-2.0
 *
 * explored_device.c: a whole device (with link and journal) as the explorer sees it: memory that can be copied away
 * and back, and flash in it that a reset leaves as it is. Its model is four weights; a step makes of them what tells
 * how many steps there were, in what order, and of which gradients.
 */
#include "explored.h"
#include "tlc/bytes.h"
#include "tlc/device.h"

#define N 4u
#define WINDOW 2u
#define FRAGMENT 128u
#define X_AT 0u
#define Y_AT 16u
#define G_AT 32u
#define ARENA 64u
#define W_AT 0u
#define ACC_AT 16u
#define STATE 32u
#define MESSAGE 64u
#define SLOT 160u
#define WIRE 192u /* bytes of a frame on the wire */
#define FRAMES 16u
#define POLLS 100

enum { RIGHT = 0, OUT_OF_ORDER = 1, ASLEEP = 2, NOT_READY = 3 };

typedef void (*meanwhile_t)(void);

typedef struct {
    uint8_t arena[ARENA], state[STATE], message[MESSAGE], output[N];
    uint32_t link_memory[(TLC_LINK_MEMORY(WINDOW, FRAGMENT) + 3) / 4];
    tlc_device_t device;
    tlc_port_t port;
    tlc_storage_t storage;
    uint32_t boot;
    uint32_t flash_left; /* erasures and writes until the power fails; UINT32_MAX: it does not */
    uint32_t flash_used; /* by what was just done */
    const uint8_t *in;
    uint32_t in_count;
    meanwhile_t meanwhile; /* called once, while the model runs */
    uint32_t journal;      /* it has one */
    uint32_t buffers;      /* messages and outputs do not lie in the arena */
    uint32_t wrong;
    uint8_t flash[2][SLOT];
    uint32_t out_count;
    uint32_t out_bytes[FRAMES];
    uint8_t out[FRAMES][WIRE];
} world_t;

size_t explored_bytes(void) { return sizeof(world_t); }

/* ---- the model ---- */

static const int8_t initial[N] = {1, 20, 33, 50};

static void model_init(tlc_ctx_t *ctx) {
    memset(ctx->state, 0, STATE);
    memcpy(ctx->state + W_AT, initial, N);
    ctx->samples = 0;
}

/* The model is at work. */
static void layer(tlc_ctx_t *ctx) {
    const tlc_device_t *device = ctx->on_layer_arg;
    world_t *world = device->config.app;
    const meanwhile_t meanwhile = world->meanwhile;
    world->meanwhile = NULL;
    if (meanwhile) {
        meanwhile();
    }
    ctx->on_layer(ctx->on_layer_arg, 0);
}

static tlc_status_t model_forward(tlc_ctx_t *ctx) {
    layer(ctx);
    for (uint32_t i = 0; i < N; i++) {
        ctx->arena[Y_AT + i] = (uint8_t)(ctx->arena[X_AT + i] + ctx->state[W_AT + i]);
    }
    return TLC_OK;
}

static tlc_status_t model_backward(tlc_ctx_t *ctx, const tlc_step_t *step) {
    (void)step;
    layer(ctx);
    float *acc = (float *)(void *)(ctx->state + ACC_AT);
    const float *g = (const float *)(const void *)(ctx->arena + G_AT);
    for (uint32_t i = 0; i < N; i++) {
        acc[i] += g[i] * (float)(int8_t)ctx->arena[X_AT + i];
    }
    ctx->samples++;
    return TLC_OK;
}

static tlc_status_t model_update(tlc_ctx_t *ctx, const tlc_step_t *step) {
    const tlc_device_t *device = ctx->on_layer_arg;
    world_t *world = device->config.app;
    if (step->step != device->step + 1u) {
        world->wrong = OUT_OF_ORDER;
    }
    float *acc = (float *)(void *)(ctx->state + ACC_AT);
    for (uint32_t i = 0; i < N; i++) {
        const int32_t w = (int8_t)ctx->state[W_AT + i];
        ctx->state[W_AT + i] =
            (uint8_t)((uint32_t)(5 * w + (int32_t)acc[i] + (int32_t)step->step + 7 * (int32_t)ctx->samples) & 63u);
        acc[i] = 0.0f;
    }
    ctx->samples = 0;
    ctx->has_forward = 0;
    return TLC_OK;
}

static const char *const layers[] = {"all"};
static const tlc_tensor_t input = {"x", X_AT, N, 1.0f, 0, {1, N}, 2, TLC_S8};
static const tlc_tensor_t output = {"y", Y_AT, N, 1.0f, 0, {1, N}, 2, TLC_S8};
static const tlc_tensor_t gradient = {"g", G_AT, N, 1.0f, 0, {1, N}, 2, TLC_F32};
static const tlc_param_t params[] = {{"w", W_AT, N, TLC_S8, ACC_AT, initial}};

static const tlc_model_t model = {
    .name = "explored",
    .bundle_hash = {9},
    .arena_bytes = ARENA,
    .state_bytes = STATE,
    .param_bytes = N,
    .layer_count = 1,
    .input_count = 1,
    .output_count = 1,
    .param_count = 1,
    .layer_names = layers,
    .inputs = &input,
    .outputs = &output,
    .gradient = &gradient,
    .params = params,
    .init = model_init,
    .forward = model_forward,
    .backward = model_backward,
    .update = model_update,
};

/* ---- the board ---- */

static size_t port_read(void *self, uint8_t *bytes, size_t capacity) {
    world_t *world = self;
    const size_t count = world->in_count < capacity ? world->in_count : capacity;
    if (count) {
        memcpy(bytes, world->in, count);
        world->in += count;
        world->in_count -= (uint32_t)count;
    }
    return count;
}

static bool has_power(const world_t *world) { return world->flash_left != 0; }

/* flush() hands over whole frames, and all is taken. */
static size_t port_write(void *self, const uint8_t *bytes, size_t count) {
    world_t *world = self;
    if (world->out_count == FRAMES || count > WIRE) {
        world->wrong = ASLEEP;
    } else if (has_power(world)) {
        memcpy(world->out[world->out_count], bytes, count);
        world->out_bytes[world->out_count++] = (uint32_t)count;
    }
    return count;
}

static uint32_t port_millis(void *self) {
    (void)self;
    return NOW;
}

static uint64_t port_ticks(void *self) {
    (void)self;
    return 0;
}

static uint32_t port_entropy(void *self) { return ((const world_t *)self)->boot; }

static bool flash_read(void *self, uint8_t slot, uint32_t offset, uint8_t *bytes, uint32_t count) {
    memcpy(bytes, ((const world_t *)self)->flash[slot] + offset, count);
    return true;
}

/* How much of an operation is done: all, half of it while the power fails, or nothing. */
static uint32_t done_of(world_t *world, uint32_t count) {
    if (!has_power(world)) {
        return 0;
    }
    world->flash_used++;
    if (world->flash_left != UINT32_MAX) {
        world->flash_left--;
    }
    return has_power(world) ? count : count / 2u;
}

static bool flash_erase(void *self, uint8_t slot) {
    world_t *world = self;
    const uint32_t count = done_of(world, SLOT);
    memset(world->flash[slot], 0xFF, count);
    return count == SLOT;
}

static bool flash_write(void *self, uint8_t slot, uint32_t offset, const uint8_t *bytes, uint32_t count) {
    world_t *world = self;
    const uint32_t done = done_of(world, count);
    memcpy(world->flash[slot] + offset, bytes, done);
    return done == count;
}

/* ---- what behaves alike is made equal ---- */

static bool sends(const tlc_device_t *device, const void *bytes) {
    for (uint32_t i = 0; i < TLC_LINK_OUTGOING; i++) {
        if (device->link.outgoing[i].used && device->link.outgoing[i].payload == bytes) {
            return true;
        }
    }
    return false;
}

static void settle(world_t *world) {
    tlc_device_t *device = &world->device;
    normalize(&device->link);
    if (!device->holding) {
        memset(&device->held, 0, sizeof device->held);
        device->answered = false;
    }
    if (!sends(device, device->scratch)) {
        memset(device->scratch, 0, sizeof device->scratch);
    }
    if (!sends(device, device->log)) {
        memset(device->log, 0, sizeof device->log);
    }
    if (!device->outputs_due) {
        device->output_session = 0;
        device->output_next = 0;
        device->outputs_copied = false;
    }
    device->forwards = device->backwards = device->log_dropped = 0;
    device->journal.saves = 0;
    world->in = NULL;
    world->in_count = 0;
    world->meanwhile = NULL;
    world->flash_left = UINT32_MAX;
}

static void poll(world_t *world) {
    int polls = 0;
    while (tlc_device_poll(&world->device) && polls < POLLS) {
        polls++;
    }
    if (polls == POLLS) {
        world->wrong = ASLEEP;
    }
}

/* ---- for the explorer ---- */

/* Flash that nothing was written to. */
void explored_new(world_t *world, int journal, int buffers) {
    memset(world, 0, sizeof *world);
    memset(world->flash, 0xFF, sizeof world->flash);
    world->journal = journal != 0;
    world->buffers = buffers != 0;
}

/* The power comes on. */
void explored_start(world_t *world, uint32_t boot) {
    const uint32_t wrong = world->wrong;
    memset(world, 0, offsetof(world_t, journal));
    memset(world->arena, 0x5A, sizeof world->arena);
    world->out_count = 0;
    world->boot = boot;
    world->wrong = wrong;
    world->flash_left = UINT32_MAX;
    world->port = (tlc_port_t){.read = port_read,
                               .write = port_write,
                               .millis = port_millis,
                               .ticks = port_ticks,
                               .entropy = port_entropy,
                               .self = world};
    world->storage = (tlc_storage_t){flash_read, flash_erase, flash_write, SLOT, world};
    tlc_device_config_t config;
    tlc_device_defaults(&config);
    config.model = &model;
    config.port = &world->port;
    config.arena = world->arena;
    config.state = world->state;
    config.link_memory = world->link_memory;
    config.link_memory_bytes = sizeof world->link_memory;
    config.fragment = FRAGMENT;
    config.window = WINDOW;
    config.peer_window = WINDOW;
    config.keeper = &tlc_keeper;
    config.storage = world->journal ? &world->storage : NULL;
    config.app = world;
    if (world->buffers) {
        config.message = world->message;
        config.message_bytes = sizeof world->message;
        config.output = world->output;
        config.output_bytes = sizeof world->output;
    }
    if (tlc_device_init(&world->device, &config) != TLC_OK) {
        world->wrong = NOT_READY;
        return;
    }
    world->device.link.announce_ms = NOW;
    poll(world);
    settle(world);
}

/* A frame arrives; `operations` of the flash later the power fails, UINT32_MAX: it does not. How many there were. If
 * the model runs for it, `meanwhile` is called then; NULL: nothing is. */
uint32_t explored_receive(world_t *world, const uint8_t *bytes, uint32_t count, uint32_t operations,
                          meanwhile_t meanwhile) {
    world->out_count = 0;
    world->meanwhile = meanwhile;
    world->in = bytes;
    world->in_count = count;
    world->flash_left = operations;
    world->flash_used = 0;
    poll(world);
    const uint32_t used = world->flash_used;
    world->flash_used = 0;
    settle(world);
    return used;
}

/* A frame arrives meanwhile. */
void explored_pump(world_t *world, const uint8_t *bytes, uint32_t count) {
    world->in = bytes;
    world->in_count = count;
    tlc_device_pump(&world->device);
}

void explored_pass(world_t *world, int dead) {
    world->out_count = 0;
    let_pass(&world->device.link, dead != 0);
    poll(world);
    settle(world);
}

/* A frame that it has just sent; 0: there are no more, and they are forgotten. */
uint32_t explored_sent(world_t *world, uint32_t which, uint8_t *bytes) {
    if (which >= world->out_count) {
        world->out_count = 0;
        memset(world->out, 0, sizeof world->out);
        memset(world->out_bytes, 0, sizeof world->out_bytes);
        return 0;
    }
    memcpy(bytes, world->out[which], world->out_bytes[which]);
    return world->out_bytes[which];
}

/* Step, samples, weights (4), accumulators (16): 28 bytes. */
void explored_learned(const world_t *world, uint8_t *bytes) {
    tlc_put_u32(bytes, world->device.step);
    tlc_put_u32(bytes + 4, world->device.ctx.samples);
    memcpy(bytes + 8, world->state + W_AT, N);
    memcpy(bytes + 12, world->state + ACC_AT, 4u * N);
}

uint32_t explored_wrong(const world_t *world) { return world->wrong; }
uint32_t explored_session(const world_t *world) { return tlc_link_session(&world->device.link); }

static uint32_t offset_of(const world_t *world, const void *field) {
    return (uint32_t)((const uint8_t *)field - (const uint8_t *)world);
}

/* Offsets of all that is now the number of a session, a nonce, a request or a token: what matters is only which are
 * equal. How many. */
uint32_t explored_names(const world_t *world, uint32_t *at) {
    const tlc_device_t *device = &world->device;
    const tlc_link_t *link = &device->link;
    uint32_t count = 0;
    at[count++] = offset_of(world, &link->peer.session);
    at[count++] = offset_of(world, &link->peer.nonce);
    at[count++] = offset_of(world, &link->pending.session);
    at[count++] = offset_of(world, &link->pending.nonce);
    at[count++] = offset_of(world, &link->last_session);
    at[count++] = offset_of(world, &link->end_session);
    at[count++] = offset_of(world, &device->session);
    at[count++] = offset_of(world, &device->output_session);
    at[count++] = offset_of(world, &device->held.session);
    at[count++] = offset_of(world, &device->token);
    at[count++] = offset_of(world, &device->forward.request);
    at[count++] = offset_of(world, &device->backward);
    at[count++] = offset_of(world, (const uint8_t *)device->scratch + TLC_HELLO_TOKEN);
    at[count++] = offset_of(world, (const uint8_t *)device->scratch + TLC_HELLO_FORWARD);
    at[count++] = offset_of(world, (const uint8_t *)device->scratch + TLC_HELLO_BACKWARD);
    at[count++] = offset_of(world, link->control);
    if (link->control_count && link->control_type == TLC_MSG_WELCOME) {
        at[count++] = offset_of(world, link->control + TLC_WELCOME_TOKEN);
    }
    for (uint32_t i = 0; i < TLC_LINK_OUTGOING; i++) {
        at[count++] = offset_of(world, link->outgoing[i].header);
    }
    for (uint32_t i = 0; i < TLC_LINK_INCOMING; i++) {
        at[count++] = offset_of(world, link->incoming[i].header);
        if (link->incoming[i].used &&
            (link->incoming[i].type == TLC_MSG_BACKWARD || link->incoming[i].type == TLC_MSG_TRAIN)) { /* both at 16 */
            at[count++] = offset_of(world, link->incoming[i].header + TLC_TRAIN_FORWARD);
        }
    }
    return count;
}

/* Offsets of what only makes session numbers that were not used before. */
uint32_t explored_seeds(const world_t *world, uint32_t *at) {
    at[0] = offset_of(world, &world->device.link.opened);
    return 1;
}
