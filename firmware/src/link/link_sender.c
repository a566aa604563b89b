/* SPDX-License-Identifier: Apache-2.0
 *
 * link_sender.c: messages of ours, cut into frames (PROTOCOL.md, sections 6 and 8).
 */
#include <string.h>

#include "link_internal.h"

#define SPAN 32 /* sequence numbers between the oldest unacknowledged frame and the newest */

size_t tlc_link_send_slot(tlc_link_t *link, uint32_t now, tlc_link_slot_t *slot) {
    const tlc_link_outgoing_t *message = &link->outgoing[slot->outgoing];
    if (slot->tries) {
        link->counters.resent++;
    }
    slot->tries = (uint8_t)(slot->tries < 255 ? slot->tries + 1 : 255);
    slot->lost = 0;
    slot->sent_ms = now;
    slot->counter = link->counter;
    return tlc_link_encode(link, now, message->type, message->stream, 0, link->peer.session, slot->sequence, message,
                           slot->offset, NULL, slot->bytes);
}

static tlc_link_outgoing_t *next_message(tlc_link_t *link, uint32_t now, uint32_t in_flight) {
    static const uint8_t rank[TLC_STREAM_COUNT] = {0, 2, 1};
    tlc_link_outgoing_t *best = NULL;
    for (uint32_t i = 0; i < TLC_LINK_OUTGOING; i++) {
        tlc_link_outgoing_t *message = &link->outgoing[i];
        if (!message->used || message->next == message->length) {
            continue;
        }
        if (!best || rank[message->stream] < rank[best->stream] ||
            (message->stream == best->stream && before16(message->number, best->number) < 0)) {
            best = message;
        }
    }
    link->blocked = 0;
    if (!best || best->stream != TLC_STREAM_BULK) {
        return best;
    }
    const uint32_t reserved = link->config.window >= WIDE ? 2u : link->config.window > 2; /* for the other streams */
    if (in_flight + reserved >= link->config.window) {
        tlc_link_note_full(link, now);
        return NULL;
    }
    if (best->next == 0) {
        const uint32_t room = sub24(link->credit_limit, link->credit_used);
        if (room >= 0x800000u || room < charge(best->length, link->peer.unit)) {
            link->blocked = 1;
            return NULL;
        }
    }
    return best;
}

size_t tlc_link_send_new(tlc_link_t *link, uint32_t now, uint32_t in_flight) {
    const uint32_t window = link->config.window < link->peer.window ? link->config.window : link->peer.window;
    if (in_flight >= window) {
        return 0;
    }
    tlc_link_slot_t *free_slot = NULL;
    for (uint32_t i = 0; i < link->config.window; i++) {
        tlc_link_slot_t *slot = &link->slots[i];
        if (!slot->tries) {
            free_slot = slot;
        } else if (before16(link->send_sequence, slot->sequence) >= SPAN) {
            tlc_link_note_full(link, now);
            return 0; /* the host could not name it in its bitmap */
        }
    }
    tlc_link_outgoing_t *message = next_message(link, now, in_flight);
    if (!message || !free_slot) {
        return 0;
    }
    if (message->next == 0 && message->stream == TLC_STREAM_BULK) {
        link->credit_used = (link->credit_used + charge(message->length, link->peer.unit)) & 0xFFFFFFu;
    }
    uint32_t count = message->length - message->next;
    free_slot->arm = link->arm;
    if (message->stream == TLC_STREAM_BULK) { /* the others are one frame, whatever it costs */
        free_slot->arm = tlc_link_next_arm(link, count);
        count = min_u32(count, tlc_link_arm_bytes(link, free_slot->arm));
    }
    free_slot->offset = message->next;
    free_slot->bytes = (uint16_t)count;
    free_slot->sequence = link->send_sequence++;
    free_slot->outgoing = (uint8_t)(message - link->outgoing);
    message->next += count;
    message->in_flight++;
    tlc_link_note_sent(link, now, free_slot);
    return tlc_link_send_slot(link, now, free_slot);
}

tlc_status_t tlc_link_send(tlc_link_t *link, tlc_stream_t stream, uint8_t type, const uint8_t *header,
                           uint32_t header_bytes, const uint8_t *payload, uint32_t payload_bytes) {
    if (!link->peer.session) {
        return TLC_ERR_STATE;
    }
    if (type < TLC_FRAME_MESSAGE || (unsigned)stream >= TLC_STREAM_COUNT || header_bytes > TLC_LINK_HEADER_BYTES ||
        header_bytes + payload_bytes == 0) {
        return TLC_ERR_ARG;
    }
    uint32_t limit = link->peer.max_message;
    if (stream != TLC_STREAM_BULK) { /* one frame */
        limit = link->peer.control < link->config.fragment ? link->peer.control : link->config.fragment;
    }
    if (payload_bytes > limit || header_bytes + payload_bytes > limit) {
        return TLC_ERR_SIZE;
    }
    for (uint32_t i = 0; i < TLC_LINK_OUTGOING; i++) {
        tlc_link_outgoing_t *message = &link->outgoing[i];
        if (message->used) {
            continue;
        }
        message->used = 1;
        message->type = type;
        message->stream = (uint8_t)stream;
        message->number = link->send_number[stream]++;
        message->header_bytes = (uint8_t)header_bytes;
        if (header_bytes) {
            memcpy(message->header, header, header_bytes);
        }
        message->payload = payload_bytes ? payload : NULL;
        message->length = header_bytes + payload_bytes;
        message->next = 0;
        message->in_flight = 0;
        return TLC_OK;
    }
    return TLC_ERR_FULL;
}

uint32_t tlc_link_room(const tlc_link_t *link) {
    uint32_t room = 0;
    for (uint32_t i = 0; i < TLC_LINK_OUTGOING; i++) {
        room += !link->outgoing[i].used;
    }
    return link->peer.session ? room : 0;
}

uint32_t tlc_link_payloads(const tlc_link_t *link) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < TLC_LINK_OUTGOING; i++) {
        count += link->outgoing[i].used && link->outgoing[i].payload && link->outgoing[i].stream != TLC_STREAM_LOG;
    }
    return count;
}

uint32_t tlc_link_queued(const tlc_link_t *link, tlc_stream_t stream) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < TLC_LINK_OUTGOING; i++) {
        count += link->outgoing[i].used && link->outgoing[i].stream == (uint8_t)stream;
    }
    return count;
}
