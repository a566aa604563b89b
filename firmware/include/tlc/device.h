/* SPDX-License-Identifier: Apache-2.0
 *
 * device.h: the firmware application: link + model + port + the user's two hooks.
 *
 *     static tlc_device_t device;
 *     static uint32_t link_memory[(TLC_LINK_MEMORY(8, 256) + 3) / 4];
 *
 *     tlc_device_config_t config;
 *     tlc_device_defaults(&config);
 *     config.model = &tlc_model;
 *     config.port = &port;
 *     config.arena = arena;                  16-byte aligned, TLC_MODEL_ARENA_BYTES
 *     config.state = state;                  16-byte aligned, TLC_MODEL_STATE_BYTES; NULL when that is 0
 *     config.link_memory = link_memory;
 *     config.link_memory_bytes = sizeof link_memory;
 *     config.board = "qemu-m4";
 *     config.keeper = &tlc_keeper;           where the model learns
 *     config.storage = storage;              where the port has flash for it
 *     config.sample = tlc_app_sample;
 *     config.result = tlc_app_result;
 *     if (tlc_device_init(&device, &config) != TLC_OK) { ... }
 *     for (;;) {
 *         if (!tlc_device_poll(&device)) { wait for an interrupt or a millisecond }
 *     }
 *
 * Little-endian CPUs only: tensors go over the link as they lie in memory.
 */
#ifndef TLC_DEVICE_H
#define TLC_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tlc/journal.h"
#include "tlc/link.h"
#include "tlc/messages.h"
#include "tlc/model.h"
#include "tlc/port.h"

#ifndef TLC_DEVICE_LOG_BYTES
#define TLC_DEVICE_LOG_BYTES 80 /* longest log line */
#endif

/* A sample that the application's hook is giving, value by value. */
typedef struct {
    tlc_ctx_t *ctx;
    uint32_t next; /* element of ... */
    uint8_t input; /* ... which input */
    bool labelled; /* and what it should give: */
    tlc_target_t target;
} tlc_sample_t;

/* The next value of the sample, a real as the network was trained on; quantized at once into its place, so that no
 * buffer of floats is needed. All inputs, one after another; NaN becomes the zero point, values too many are dropped.
 */
void tlc_sample_put(tlc_sample_t *sample, float value);

/* The sample's class, where it is known: then a device that has a loss learns from it, after the result hook. */
void tlc_sample_label(tlc_sample_t *sample, uint32_t label);

/* The values that the output should have, for a mean squared error: as many as output 0 has; they stay the caller's and
 * must last until the next sample is asked for. */
void tlc_sample_target(tlc_sample_t *sample, const float *values);

typedef struct {
    const tlc_model_t *model;
    const tlc_port_t *port;
    uint8_t *arena; /* (model->arena_bytes), 16-byte aligned */
    uint8_t *state; /* (model->state_bytes), 16-byte aligned; NULL for a frozen model */

    void *link_memory; /* TLC_LINK_MEMORY(window, fragment), 4-byte aligned */
    size_t link_memory_bytes;
    uint16_t fragment;   /* largest payload of a frame; default 256 */
    uint8_t window;      /* our frames on their way; default 8 */
    uint8_t peer_window; /* the host's frames on their way: what the port buffers while nobody reads; default 8 */

    /* Optional: tensors are received here, while the model runs. NULL: straight into the arena, while it does not.
     * 16-byte aligned. With room for more than one message of the largest size, so many may be on their way. */
    uint8_t *message;
    uint32_t message_bytes;
    /* Optional: outputs are copied here and sent from here, so that the next pass need not wait. NULL: sent from
     * the arena. */
    uint8_t *output;
    uint32_t output_bytes; /* at least all the outputs together */
    /* Optional: float values of a whole model's result. NULL: the arena serves, where it is large enough. */
    float *values;
    uint32_t value_count;
    uint32_t *layer_ticks; /* optional (model->layer_count): ticks of each layer of the last forward pass */
    uint32_t (*stack_bytes)(void *port_self); /* optional: most stack ever used */

    /* Where something learns: divergence is watched, and with storage what was learned outlives a reset. NULL: neither.
     */
    const tlc_keeper_t *keeper;
    const tlc_storage_t *storage;
    uint32_t save_every; /* steps after which the journal is written by itself; 0: only when the host says so */
    float max_gradient;  /* bound on the norm of a step's mean gradient, where the host gives none; 0: any finite one */
    const tlc_learning_t *learning; /* how it learns from samples that the hook labels; NULL: it does not */
    uint8_t max_saturated; /* percent of a tensor that training may drive to the end of its range; default 25 */

    uint16_t exit_bound; /* with a head at the cut: as of FORWARD, for samples of its own; default 256, which none is
                            above */

    const char *board;    /* its name, at most 24 bytes are told */
    uint32_t id[2];       /* the board's own number, low half first: its MAC address or the like; 0: it has none */
    uint8_t reset_reason; /* tlc_reset_t */
    bool standalone;      /* the whole model is here (--cut none): results need no host */

    /* The user's hooks; either may be NULL. */
    bool (*sample)(void *app, tlc_sample_t *sample);
    void (*result)(void *app, const float *values, uint32_t count);
    void *app;
} tlc_device_config_t;

typedef struct tlc_device {
    tlc_device_config_t config;
    tlc_ctx_t ctx;
    tlc_link_t link;
    uint32_t boot;
    uint32_t boot_ms;

    uint32_t session; /* that HELLO was sent in */
    bool hello_due;
    bool welcomed;
    bool busy;           /* the model runs */
    uint32_t longest_ms; /* that it has run; UINT32_MAX: not yet */
    uint32_t slot_bytes; /* of each message buffer */
    uint32_t token;

    tlc_link_message_t held; /* the message being answered */
    bool holding;
    bool answered; /* ... and only to be released */

    tlc_common_t forward;  /* whose pass the arena holds */
    bool keep;             /* a BACKWARD was promised */
    uint8_t forward_flags; /* of its SMASHED */
    uint32_t backward;     /* request of the pass whose gradient was accumulated last; 0: none */
    tlc_verdict_t verdict; /* of the loss of that pass */
    uint32_t step;         /* last step applied */
    uint32_t params_at;    /* bytes of the learned tensors that SET_PARAMS has written; fewer than all: half a set */
    tlc_journal_t journal;
    uint32_t rollbacks; /* times that training diverged */
    uint64_t forward_ticks, backward_ticks, update_ticks;
    uint32_t forwards, backwards;

    bool outputs_due; /* SMASHED messages to be queued: */
    bool outputs_copied;
    bool output_in_use; /* all payloads on their way lie in config.output */
    uint8_t output_next;
    uint8_t output_flags;
    uint32_t output_session;
    uint32_t sample_count, exits; /* samples of its own, and those that the head at the cut answered */
    uint32_t sample_request;      /* RESULT awaited; 0: none */
    uint32_t sample_ms;

    bool has_own;      /* the pass that the arena holds is of a sample of its own, which the host asked for, ... */
    bool own_labelled; /* ... and the hook said what it should give: */
    tlc_target_t own;
    uint32_t tail; /* request of the pass that TAIL was last answered for; 0: none */
    bool tail_right;

    bool is_first_layer; /* of this pass, so the ticks of it and the ones behind are not counted yet */
    uint64_t layer_start;
    uint32_t log_dropped;
    uint32_t scratch[(TLC_HELLO_BYTES + TLC_HELLO_MAX_NAME) / 4u]; /* a message in words, as the wire has them */
    uint8_t log[TLC_DEVICE_LOG_BYTES];
} tlc_device_t;

/* Everything 0 but fragment, window, peer_window, max_saturated and exit_bound. */
void tlc_device_defaults(tlc_device_config_t *config);

/* Copies *config; the memory it points to stays the caller's and in use. The learned tensors get their values from the
 * journal, or else those in flash. */
TLC_MUST_CHECK tlc_status_t tlc_device_init(tlc_device_t *device, const tlc_device_config_t *config);

/* Does what there is to do: reads the port, answers at most one message, takes a sample, writes to the port.
 * False: nothing happened, so the caller may sleep until the next interrupt or millisecond. */
bool tlc_device_poll(tlc_device_t *device);

/* Sends a line to the host's log: 10 debug, 20 info, 30 warning, 40 error. False: no host, or one line is still on
 * its way; the line is dropped. */
bool tlc_device_log(tlc_device_t *device, uint8_t level, const char *text);

/* Takes a step off the port: reads, acknowledges, writes, answers nothing. For a port's own long waits. */
void tlc_device_pump(tlc_device_t *device);

/* Forward with the context's bookkeeping. */
TLC_MUST_CHECK tlc_status_t tlc_run_forward(tlc_ctx_t *ctx);

/* Zeros for a gradient with which the backward pass begins. */
void tlc_clear_gradient(tlc_ctx_t *ctx, const tlc_tensor_t *gradient);

/* Ends the model at another of its cuts from now on: the forward pass that the arena holds, and the gradients
 * accumulated, are forgotten, unless it ends there already. ARG: it has not so many. */
TLC_MUST_CHECK tlc_status_t tlc_select_cut(tlc_ctx_t *ctx, uint8_t cut);

/* Bytes of the arena that the gradient at the cut takes: 4 an element, or in integers 2 and the scale. */
uint32_t tlc_gradient_room(const tlc_model_t *model);

/* Writes the gradient (scale * q, or float32 when dtype is TLC_F32) into the arena; `from` may lie in the arena where
 * the tensor ends. NUMERIC: not finite. */
TLC_MUST_CHECK tlc_status_t tlc_load_gradient(tlc_ctx_t *ctx, uint8_t dtype, float scale, const uint8_t *from,
                                              uint32_t bytes);

#endif /* TLC_DEVICE_H */
