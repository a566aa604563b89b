/* SPDX-License-Identifier: Apache-2.0
 *
 * answers.c: DONE, ERROR and the log.
 */
#include "device_internal.h"

tlc_status_t tlc_device_answer(tlc_device_t *device, tlc_stream_t stream, uint8_t type, const uint8_t *header,
                               uint32_t header_bytes, const uint8_t *payload, uint32_t payload_bytes) {
    if (device->held.session != tlc_link_session(&device->link)) {
        return TLC_ERR_STATE;
    }
    return tlc_link_send(&device->link, stream, type, header, header_bytes, payload, payload_bytes);
}

void tlc_device_begin_answer(const tlc_device_t *device, void *message, uint32_t bytes) {
    memset(message, 0, bytes);
    memcpy(message, device->held.header, TLC_COMMON_BYTES);
}

void tlc_device_say_done(tlc_device_t *device, uint8_t flags, uint64_t spent) {
    uint8_t message[TLC_DONE_BYTES];
    tlc_device_begin_answer(device, message, sizeof message);
    message[TLC_DONE_OF] = device->held.type;
    message[TLC_DONE_FLAGS] = flags;
    tlc_put_u32(message + TLC_DONE_SAMPLES, device->ctx.samples);
    tlc_put_u64(message + TLC_DONE_TICKS, spent);
    (void)!tlc_device_answer(device, TLC_STREAM_CONTROL, TLC_MSG_DONE, message, sizeof message, NULL, 0);
}

void tlc_device_say_error(tlc_device_t *device, tlc_status_t status, const char *text) {
    uint8_t message[TLC_ERROR_BYTES];
    tlc_device_begin_answer(device, message, sizeof message);
    message[TLC_ERROR_OF] = device->held.type;
    message[TLC_ERROR_STATUS] = (uint8_t)status;
    (void)!tlc_device_answer(device, TLC_STREAM_CONTROL, TLC_MSG_ERROR, message, sizeof message, (const uint8_t *)text,
                             (uint32_t)strlen(text));
}

bool tlc_device_log(tlc_device_t *device, uint8_t level, const char *text) {
    if (!tlc_link_session(&device->link) || tlc_link_queued(&device->link, TLC_STREAM_LOG) ||
        tlc_link_room(&device->link) < 2) {
        device->log_dropped++;
        return false;
    }
    const uint32_t count = tlc_min_u32((uint32_t)strlen(text), TLC_DEVICE_LOG_BYTES);
    memcpy(device->log, text, count);
    uint8_t header[TLC_LOG_BYTES];
    memset(header, 0, sizeof header);
    header[TLC_LOG_LEVEL] = level;
    return tlc_link_send(&device->link, TLC_STREAM_LOG, TLC_MSG_LOG, header, sizeof header, device->log, count) ==
           TLC_OK;
}
