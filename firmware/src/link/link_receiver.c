/* SPDX-License-Identifier: Apache-2.0
 *
 * link_receiver.c: messages of the host's, put together where they are to lie (PROTOCOL.md, sections 6 and 8).
 *
 * A fragment is taken (and then acknowledged) only when it could be put in its place; what is not taken
 * comes again. So there is no reordering buffer, and every fragment is copied once.
 */
#include "link_internal.h"
#include "tlc/bytes.h"

static void scatter(tlc_link_incoming_t *message, uint32_t offset, const uint8_t *bytes, uint32_t count) {
    if (offset < message->header_bytes) {
        const uint32_t room = message->header_bytes - offset;
        const uint32_t part = count < room ? count : room;
        memcpy(message->header + offset, bytes, part);
        offset += part;
        bytes += part;
        count -= part;
    }
    if (count && message->payload) {
        memcpy(message->payload + (offset - message->header_bytes), bytes, count);
    }
}

static bool take_bulk(tlc_link_t *link, uint8_t type, uint16_t number, uint32_t offset, uint32_t length,
                      const uint8_t *bytes, uint32_t count) {
    const int32_t ahead = before16(number, link->take_number[TLC_STREAM_BULK]);
    if (ahead < 0 || ahead >= link->config.messages) {
        return false;
    }
    tlc_link_incoming_t *message = NULL;
    tlc_link_incoming_t *free_one = NULL;
    for (uint32_t i = 0; i < link->config.messages; i++) {
        if (!link->incoming[i].used) {
            free_one = free_one ? free_one : &link->incoming[i];
        } else if (!link->incoming[i].taken && link->incoming[i].number == number) {
            message = &link->incoming[i];
        }
    }
    if (!message) {
        tlc_link_place_t place = {0, NULL};
        if (!free_one || !link->config.place(link->config.arg, type, length, offset, bytes, count, &place) ||
            place.header_bytes > TLC_LINK_TAKES_BYTES) {
            return false;
        }
        message = free_one;
        memset(message, 0, sizeof *message);
        message->used = 1;
        message->type = type;
        message->number = number;
        message->length = length;
        message->payload = place.payload;
        message->header_bytes = place.header_bytes < length ? place.header_bytes : length;
    }
    if (message->type != type || message->length != length || count > length - message->received) {
        link->counters.bad++;
        return false;
    }
    scatter(message, offset, bytes, count);
    message->received += count;
    return true;
}

static bool take_control(tlc_link_t *link, uint8_t type, uint16_t number, uint32_t length, const uint8_t *bytes,
                         uint32_t count) {
    if (number != link->take_number[TLC_STREAM_CONTROL] || link->control_count || count != length ||
        count > TLC_LINK_CONTROL_BYTES) {
        return false;
    }
    memcpy(link->control, bytes, count);
    link->control_type = type;
    link->control_count = (uint8_t)count;
    return true;
}

void tlc_link_take_message(tlc_link_t *link, uint32_t now, const uint8_t *frame, uint32_t count) {
    const uint16_t sequence = tlc_get_u16(frame + 12);
    const int32_t ahead = before16(sequence, link->take_sequence);
    if (ahead < 0 || (ahead > 0 && ahead <= 32 && ((link->take_bitmap >> (ahead - 1)) & 1u))) {
        link->counters.repeated++;
        link->ack_now = 1; /* the acknowledgement was lost */
        return;
    }
    const uint32_t offset = tlc_get_u24(frame + 22);
    const uint32_t length = tlc_get_u24(frame + 25);
    const uint16_t number = tlc_get_u16(frame + 20);
    const uint8_t stream = frame[2] & 0xFu;
    if (ahead > 32 || count == 0 || offset > length || count > length - offset) {
        link->counters.bad++;
        return;
    }
    bool taken = false;
    if (stream == TLC_STREAM_BULK) {
        taken = length <= link->config.max_message &&
                take_bulk(link, frame[1], number, offset, length, frame + TLC_LINK_FRAME_HEADER, count);
    } else if (stream == TLC_STREAM_CONTROL) {
        taken = take_control(link, frame[1], number, length, frame + TLC_LINK_FRAME_HEADER, count);
    }
    if (!taken) {
        link->counters.refused++;
        link->ack_now = 1; /* it will come again: its sender is to know that it was heard */
        return;
    }
    if (ahead > 0) {
        link->take_bitmap |= 1u << (ahead - 1);
    } else {
        uint32_t more;
        do {
            link->take_sequence++;
            more = link->take_bitmap & 1u;
            link->take_bitmap >>= 1;
        } while (more);
    }
    if (!link->ack_pending) {
        link->ack_ms = now + ACK_DELAY_MS;
    }
    link->ack_pending = (uint8_t)(link->ack_pending < 255 ? link->ack_pending + 1 : 255);
    if (link->ack_pending >= 2 || ahead > 0 || link->take_bitmap || offset + count == length) {
        link->ack_now = 1;
    }
}

bool tlc_link_next(tlc_link_t *link, tlc_link_message_t *message) {
    memset(message, 0, sizeof *message);
    message->session = link->peer.session;
    if (link->control_count && !link->control_taken) {
        link->control_taken = 1;
        message->stream = TLC_STREAM_CONTROL;
        message->type = link->control_type;
        message->header = link->control;
        message->header_bytes = link->control_count;
        return true;
    }
    for (uint32_t i = 0; i < link->config.messages; i++) {
        tlc_link_incoming_t *incoming = &link->incoming[i];
        if (incoming->used && !incoming->taken && incoming->received == incoming->length &&
            incoming->number == link->take_number[TLC_STREAM_BULK]) {
            incoming->taken = 1;
            link->take_number[TLC_STREAM_BULK]++;
            message->stream = TLC_STREAM_BULK;
            message->type = incoming->type;
            message->slot = (uint8_t)i;
            message->header = incoming->header;
            message->header_bytes = incoming->header_bytes;
            message->payload = incoming->payload;
            message->payload_bytes = incoming->length - incoming->header_bytes;
            return true;
        }
    }
    return false;
}

void tlc_link_release(tlc_link_t *link, const tlc_link_message_t *message) {
    if (message->session != link->peer.session) {
        return; /* that session's buffers were cleared with it */
    }
    if (message->stream == TLC_STREAM_CONTROL) {
        if (link->control_taken) {
            link->control_count = 0;
            link->control_taken = 0;
            link->take_number[TLC_STREAM_CONTROL]++;
        }
        return;
    }
    tlc_link_incoming_t *incoming = &link->incoming[message->slot];
    if (!incoming->taken) {
        return; /* released before; another message may be arriving there */
    }
    link->grant = (link->grant + charge(incoming->length, own_unit(link))) & 0xFFFFFFu;
    incoming->used = 0;
    incoming->taken = 0;
    for (uint32_t i = 0; i < TLC_LINK_OUTGOING; i++) {
        if (link->outgoing[i].used && link->outgoing[i].next != link->outgoing[i].length) {
            return; /* a frame that is about to go tells of the credit */
        }
    }
    link->ack_now = 1; /* the host may be waiting for it */
}
