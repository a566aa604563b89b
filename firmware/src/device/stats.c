/* SPDX-License-Identifier: Apache-2.0
 *
 * stats.c: what the device has counted, STATS, LAYERS and JOURNAL; and TEST, bytes for the link's sake.
 */
#include "device_internal.h"

static void say_journal(tlc_device_t *device) {
    const tlc_journal_t *journal = &device->journal;
    uint32_t *const word = device->scratch;
    uint8_t *const message = (uint8_t *)word;
    tlc_device_begin_answer(device, message, TLC_JOURNAL_BYTES);
    word[TLC_JOURNAL_SLOT / 4u] = journal->storage ? journal->storage->slot_bytes : 0u;
    word[TLC_JOURNAL_SEQUENCE / 4u] = journal->sequence;
    word[TLC_JOURNAL_STEP / 4u] = journal->step;
    word[TLC_JOURNAL_LENGTH / 4u] = journal->newest < 2 ? journal->bytes : 0u;
    word[TLC_JOURNAL_WEAR / 4u] = journal->wear[0];
    word[TLC_JOURNAL_WEAR / 4u + 1u] = journal->wear[1];
    word[TLC_JOURNAL_SAVES / 4u] = journal->saves;
    word[TLC_JOURNAL_ROLLBACKS / 4u] = device->rollbacks;
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
    uint32_t *const word = device->scratch;
    uint8_t *const message = (uint8_t *)word;
    tlc_device_begin_answer(device, message, TLC_STATS_BYTES);
    tlc_put_u64(message + TLC_STATS_FORWARD, device->forward_ticks);
    tlc_put_u64(message + TLC_STATS_BACKWARD, device->backward_ticks);
    tlc_put_u64(message + TLC_STATS_UPDATE, device->update_ticks);
    word[TLC_STATS_ARENA / 4u] = model->arena_bytes;
    word[TLC_STATS_STATE / 4u] = model->state_bytes;
    word[TLC_STATS_STACK / 4u] = device->config.stack_bytes ? device->config.stack_bytes(port->self) : 0u;
    word[TLC_STATS_UPTIME / 4u] = tlc_device_now_ms(device) - device->boot_ms;
    word[TLC_STATS_STEP / 4u] = device->step;
    word[TLC_STATS_SAMPLES / 4u] = device->ctx.samples;
    word[TLC_STATS_FORWARDS / 4u] = device->forwards;
    word[TLC_STATS_BACKWARDS / 4u] = device->backwards;
    word[TLC_STATS_SAMPLED / 4u] = device->sample_count;
    word[TLC_STATS_EXITED / 4u] = device->exits;
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
