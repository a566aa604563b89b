/* SPDX-License-Identifier: Apache-2.0
 *
 * device_internal.h: what the parts of the device have of each other.
 *
 * device.c hands the message that is held to the take_ function of its type, which answers it: once, or not at all.
 */
#ifndef TLC_DEVICE_INTERNAL_H
#define TLC_DEVICE_INTERNAL_H

#include "tlc/bytes.h"
#include "tlc/device.h"

#define TLC_NO_EXIT 256u /* no probability is above it */

/* Said in several places; the linker keeps one of each. */
#define TLC_NO_HEAD "this model has no head at the cut: compile it with --aux-head"
#define TLC_FROZEN "this model is frozen"

static inline uint32_t tlc_min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }
static inline uint32_t tlc_max_u32(uint32_t a, uint32_t b) { return a > b ? a : b; }

static inline uint32_t tlc_device_now_ms(const tlc_device_t *device) {
    return device->config.port->millis(device->config.port->self);
}

static inline uint64_t tlc_device_ticks(const tlc_device_t *device) {
    return device->config.port->ticks(device->config.port->self);
}

/* ---- device.c ---- */

/* Around everything that computes: the host is to bear the silence. Its own request was acknowledged with the word
 * already; a sample of ours is not worth a frame, unless it takes long. */
uint32_t tlc_device_begin_work(tlc_device_t *device);
void tlc_device_end_work(tlc_device_t *device, uint32_t start); /* what begin_work returned */

/* ---- place.c ---- */

/* The link's hook: where a message goes as it comes in. */
bool tlc_device_place(void *arg, uint8_t type, uint32_t length, uint32_t offset, const uint8_t *bytes, size_t count,
                      tlc_link_place_t *where);

/* ---- answers.c ---- */

/* The answer to the message held; a session that ended meanwhile wants none. */
tlc_status_t tlc_device_answer(tlc_device_t *device, tlc_stream_t stream, uint8_t type, const uint8_t *header,
                               uint32_t header_bytes, const uint8_t *payload, uint32_t payload_bytes);

/* Begins an answer of so many bytes: with what it repeats of the message held, and then zeros. */
void tlc_device_begin_answer(const tlc_device_t *device, void *message, uint32_t bytes);
void tlc_device_say_done(tlc_device_t *device, uint8_t flags, uint64_t spent);
void tlc_device_say_error(tlc_device_t *device, tlc_status_t status, const char *text);

/* ---- session.c ---- */

bool tlc_device_say_hello(tlc_device_t *device); /* false: no room now */
void tlc_device_take_welcome(tlc_device_t *device);
void tlc_device_take_cut(tlc_device_t *device);

/* ---- stats.c ---- */

void tlc_device_take_get_stats(tlc_device_t *device);
void tlc_device_take_test(tlc_device_t *device);

/* ---- forward.c ---- */

tlc_status_t tlc_device_run_forward(tlc_device_t *device);

/* Whether the arena holds what a gradient of forward pass `of` needs. */
bool tlc_device_holds_pass(const tlc_device_t *device, uint32_t of, uint32_t batch);

/* Whether the head at the cut is surer of the pass in the arena than `bound` / 256. */
bool tlc_device_is_sure(const tlc_device_t *device, uint32_t bound);

/* Whether the application's hook gave a sample; its values are in the arena. */
bool tlc_device_ask_hook(tlc_device_t *device, tlc_sample_t *sample);
void tlc_device_take_forward(tlc_device_t *device);
void tlc_device_take_exit(tlc_device_t *device);

/* ---- outputs.c ---- */

void tlc_device_queue_outputs(tlc_device_t *device, uint8_t flags);

/* Queues as many SMASHED messages as there is room for. */
bool tlc_device_send_outputs(tlc_device_t *device);

/* ---- samples.c ---- */

/* Room for `count` floats: the caller's, or the arena. NULL: neither. */
float *tlc_device_value_room(tlc_device_t *device, uint32_t count);

/* A result that the host has no part in, to the application. */
void tlc_device_local_result(tlc_device_t *device, const tlc_tensor_t *tensor);
void tlc_device_take_result(tlc_device_t *device);

/* Takes one, if it is time for it. */
bool tlc_device_take_sample(tlc_device_t *device);

/* ---- learn.c ---- */

/* From the gradient in its place to the accumulators; where updates are interleaved, *step and all. *how: of NUMERIC.
 */
tlc_status_t tlc_device_go_back(tlc_device_t *device, const tlc_step_t *step, const char **how);

/* Applies the accumulated gradient. *how: of NUMERIC. */
tlc_status_t tlc_device_apply(tlc_device_t *device, const tlc_step_t *step, const char **how);

/* After a step: into the journal, where it is time. TLC_DONE_SAVED or 0. */
uint8_t tlc_device_stepped(tlc_device_t *device, uint32_t step, bool wanted);

/* From a sample that the hook has labelled, after its forward pass. */
void tlc_device_learn_alone(tlc_device_t *device, const tlc_target_t *target);

/* ---- train.c ---- */

void tlc_device_take_backward(tlc_device_t *device);
void tlc_device_take_step(tlc_device_t *device);
void tlc_device_take_train(tlc_device_t *device);

/* ---- keep.c ---- */

/* TLC_DONE_SAVED: an entry was written; 0: none was needed, or it failed, which *status tells. */
uint8_t tlc_device_save(tlc_device_t *device, tlc_status_t *status);
const char *tlc_device_why_not_saved(tlc_status_t status);

/* Back to what was kept; the host is told in the log. */
void tlc_device_diverged(tlc_device_t *device);
void tlc_device_take_save(tlc_device_t *device);
void tlc_device_take_reset_state(tlc_device_t *device);

/* ---- tail.c ---- */

void tlc_device_take_tail(tlc_device_t *device);

/* ---- params.c ---- */

void tlc_device_take_get_params(tlc_device_t *device);
void tlc_device_take_set_params(tlc_device_t *device);

#endif /* TLC_DEVICE_INTERNAL_H */
