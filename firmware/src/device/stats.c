/* SPDX-License-Identifier: Apache-2.0
 *
 * stats.c: what the device has counted, STATS, LAYERS and JOURNAL; and TEST, bytes for the link's sake.
 */
#include "device_internal.h"

static void say_journal(tlc_device_t *device) {
    const tlc_journal_t *journal = &device->journal;
    uint8_t *message = device->scratch;
    tlc_device_begin_answer(device, message, TLC_JOURNAL_BYTES);
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
    (void)!tlc_device_answer(device, TLC_STREAM_BULK, TLC_MSG_JOURNAL, NULL, 0, message, TLC_JOURNAL_BYTES);
}

void tlc_device_take_get_stats(tlc_device_t *device) {
    const tlc_model_t *model = device->config.model;
    const tlc_port_t *port = device->config.port;
    if (tlc_get_u32(device->held.header + TLC_GET_STATS_WHAT) == 2) {
        say_journal(device);
        return;
    }
    if (tlc_get_u32(device->held.header + TLC_GET_STATS_WHAT) == 1) {
        if (!device->config.layer_ticks) {
            tlc_device_say_error(device, TLC_ERR_STATE, "built without a profile of the layers");
            return;
        }
        (void)!tlc_device_answer(device, TLC_STREAM_BULK, TLC_MSG_LAYERS, device->held.header, TLC_COMMON_BYTES,
                                 (const uint8_t *)device->config.layer_ticks, 4u * model->layer_count);
        return;
    }
    uint8_t *message = device->scratch;
    tlc_device_begin_answer(device, message, TLC_STATS_BYTES);
    tlc_put_u64(message + TLC_STATS_FORWARD, device->forward_ticks);
    tlc_put_u64(message + TLC_STATS_BACKWARD, device->backward_ticks);
    tlc_put_u64(message + TLC_STATS_UPDATE, device->update_ticks);
    tlc_put_u32(message + TLC_STATS_ARENA, model->arena_bytes);
    tlc_put_u32(message + TLC_STATS_STATE, model->state_bytes);
    tlc_put_u32(message + TLC_STATS_STACK, device->config.stack_bytes ? device->config.stack_bytes(port->self) : 0u);
    tlc_put_u32(message + TLC_STATS_UPTIME, tlc_device_now_ms(device) - device->boot_ms);
    tlc_put_u32(message + TLC_STATS_STEP, device->step);
    tlc_put_u32(message + TLC_STATS_SAMPLES, device->ctx.samples);
    tlc_put_u32(message + TLC_STATS_FORWARDS, device->forwards);
    tlc_put_u32(message + TLC_STATS_BACKWARDS, device->backwards);
    tlc_put_u32(message + TLC_STATS_SAMPLED, device->sample_count);
    tlc_put_u32(message + TLC_STATS_EXITED, device->exits);
    memcpy(message + TLC_STATS_LINK, &device->link.counters, sizeof device->link.counters);
    (void)!tlc_device_answer(device, TLC_STREAM_BULK, TLC_MSG_STATS, NULL, 0, message, TLC_STATS_BYTES);
}

/* From the arena, as it is: what the bytes are does not matter, and nothing is disturbed. */
void tlc_device_take_test(tlc_device_t *device) {
    const uint32_t count = tlc_get_u32(device->held.header + TLC_TEST_COUNT);
    if (count > device->config.model->arena_bytes) {
        tlc_device_say_error(device, TLC_ERR_SIZE, "more than the arena has");
        return;
    }
    uint8_t message[TLC_TEST_BYTES];
    memcpy(message, device->held.header, TLC_COMMON_BYTES);
    tlc_put_u32(message + TLC_TEST_COUNT, count);
    const tlc_status_t status =
        tlc_device_answer(device, TLC_STREAM_BULK, TLC_MSG_TEST, message, sizeof message, device->config.arena, count);
    if (status == TLC_ERR_SIZE) {
        tlc_device_say_error(device, status, "more than the host takes at once");
    }
}
