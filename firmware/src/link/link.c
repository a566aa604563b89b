/* SPDX-License-Identifier: Apache-2.0
 *
 * link.c: bytes in, bytes out; the frame and what is said next. See PROTOCOL.md; the rooms beside this one are its
 * sections.
 */
#include "link_internal.h"
#include "tlc/bytes.h"

#define ANNOUNCE_MS 1000u
#define GAP_MS 1000u /* not polled for so long: the caller was busy, which is no silence of the host's */

tlc_status_t tlc_link_init(tlc_link_t *link, const tlc_link_config_t *config) {
    if (!config->memory || !config->place || config->window < 2 || config->window > 32 ||
        config->fragment < TLC_LINK_MIN_FRAGMENT || config->fragment > 8192 || config->messages < 1 ||
        config->messages > TLC_LINK_INCOMING || config->max_message > 0x200000u || config->peer_window < 1 ||
        config->peer_window > 32 || ((uintptr_t)config->memory & 3u) != 0) {
        return TLC_ERR_ARG;
    }
    if (config->memory_bytes < TLC_LINK_MEMORY(config->window, config->fragment)) {
        return TLC_ERR_SIZE;
    }
    memset(link, 0, sizeof *link);
    link->config = *config;
    if (link->config.keepalive_ms == 0) {
        link->config.keepalive_ms = 1000;
    }
    if (link->config.dead_ms == 0) {
        link->config.dead_ms = 10000;
    }
    uint8_t *memory = config->memory;
    link->slots = config->memory;
    memory += config->window * sizeof(tlc_link_slot_t);
    tlc_cobs_decoder_init(&link->decoder, memory, TLC_LINK_FRAME_IN(config->fragment));
    memory += (TLC_LINK_FRAME_IN(config->fragment) + 3u) & ~(size_t)3;
    link->frame_out = memory;
    return TLC_OK;
}

uint32_t tlc_link_session(const tlc_link_t *link) { return link->peer.session; }

/* Work is under way, or a whole message is there that will make some. */
static bool is_busy(const tlc_link_t *link) {
    if (link->busy || link->control_count) {
        return true;
    }
    for (uint32_t i = 0; i < link->config.messages; i++) {
        const tlc_link_incoming_t *incoming = &link->incoming[i];
        if (incoming->used && !incoming->taken && incoming->received == incoming->length &&
            incoming->number == link->take_number[TLC_STREAM_BULK]) {
            return true;
        }
    }
    return false;
}

void tlc_link_busy(tlc_link_t *link, bool busy, bool announce) {
    link->busy = busy;
    if (busy && announce && !link->told_busy) {
        link->ack_now = 1;
    }
}

size_t tlc_link_encode(tlc_link_t *link, uint32_t now, uint8_t type, uint8_t stream, uint8_t flags, uint32_t session,
                       uint16_t sequence, const tlc_link_outgoing_t *message, uint32_t offset, const uint8_t *bytes,
                       size_t count) {
    uint8_t header[TLC_LINK_FRAME_HEADER];
    const bool of_session = session && session == link->peer.session;
    if (of_session) {
        link->told_busy = is_busy(link);
        flags = (uint8_t)(flags | (link->told_busy ? (uint32_t)TLC_FLAG_BUSY : 0u));
    }
    header[0] = (uint8_t)TLC_LINK_VERSION;
    header[1] = type;
    header[2] = (uint8_t)(stream | (flags << 4));
    tlc_put_u24(header + 3, link->grant);
    tlc_put_u16(header + 6, link->counter);
    tlc_put_u32(header + 8, session);
    tlc_put_u16(header + 12, sequence);
    tlc_put_u16(header + 14, link->take_sequence);
    tlc_put_u32(header + 16, link->take_bitmap);
    tlc_put_u16(header + 20, message ? message->number : 0u);
    tlc_put_u24(header + 22, offset);
    tlc_put_u24(header + 25, message ? message->length : 0u);
    if (of_session) {
        link->counter++;
        link->ack_pending = 0;
        link->ack_now = 0;
        link->said_ms = now;
    } else {
        memset(header + 3, 0, 5); /* counter, credit, acknowledgements speak of a session */
        memset(header + 12, 0, 8);
    }
    tlc_cobs_encoder_t encoder;
    tlc_cobs_begin(&encoder, link->frame_out, TLC_LINK_FRAME_OUT(link->config.fragment));
    tlc_cobs_put(&encoder, header, sizeof header);
    if (message) {
        const uint32_t end = offset + (uint32_t)count;
        if (offset < message->header_bytes) {
            const uint32_t stop = end < message->header_bytes ? end : message->header_bytes;
            tlc_cobs_put(&encoder, message->header + offset, stop - offset);
            offset = stop;
        }
        if (offset < end) {
            tlc_cobs_put(&encoder, message->payload + (offset - message->header_bytes), end - offset);
        }
    } else if (count) {
        tlc_cobs_put(&encoder, bytes, count);
    }
    link->out_count = (uint32_t)tlc_cobs_end(&encoder);
    link->out_at = 0;
    link->counters.frames_out++;
    return link->out_count;
}

static size_t build(tlc_link_t *link, uint32_t now) {
    if (link->end_due) {
        const uint8_t body[3] = {link->end_reason, (uint8_t)TLC_LINK_VERSION, (uint8_t)TLC_LINK_VERSION};
        link->end_due = 0;
        return tlc_link_encode(link, now, TLC_FRAME_END, 0, 0, link->end_session, 0, NULL, 0, body, sizeof body);
    }
    if (link->accept_due && is_due(now, link->accept_ms)) {
        return tlc_link_send_accept(link, now);
    }
    if (!link->peer.session) {
        if (!link->announced || is_due(now, link->announce_ms)) {
            uint8_t body[4];
            tlc_put_u32(body, link->config.boot);
            link->announced = 1;
            link->announce_ms = now + ANNOUNCE_MS;
            return tlc_link_encode(link, now, TLC_FRAME_ANNOUNCE, 0, 0, 0, 0, NULL, 0, body, sizeof body);
        }
        return 0;
    }
    if (now - link->heard_ms >= link->config.dead_ms) {
        tlc_link_forget(link);
        return 0;
    }
    const uint32_t in_flight = tlc_link_find_lost(link, now);
    if (link->hail) {
        link->hail = 0;
        return tlc_link_encode(link, now, TLC_FRAME_ACK, 0, TLC_FLAG_ACK_NOW, link->peer.session, link->send_sequence,
                               NULL, 0, NULL, 0);
    }
    for (uint32_t i = 0; i < link->config.window; i++) {
        if (link->slots[i].tries && link->slots[i].lost) {
            tlc_link_note_sent(link, now, &link->slots[i]);
            return tlc_link_send_slot(link, now, &link->slots[i]);
        }
    }
    const size_t count = tlc_link_send_new(link, now, in_flight);
    if (count) {
        return count;
    }
    tlc_link_slot_t *again = tlc_link_overdue(link, now, in_flight);
    if (again) {
        return tlc_link_send_slot(link, now, again);
    }
    if (link->ack_now || (link->ack_pending && is_due(now, link->ack_ms))) {
        return tlc_link_encode(link, now, TLC_FRAME_ACK, 0, 0, link->peer.session, link->send_sequence, NULL, 0, NULL,
                               0);
    }
    /* Waiting for credit with nothing under way, the word that there is credit again may be lost: ask. */
    const bool ask = link->blocked && in_flight == 0 && now - link->said_ms >= tlc_link_rto(link, 0);
    if (ask || now - link->said_ms >= link->config.keepalive_ms) {
        if (ask && link->backoff < MAX_BACKOFF) {
            link->backoff++;
        }
        return tlc_link_encode(link, now, TLC_FRAME_ACK, 0, TLC_FLAG_ACK_NOW, link->peer.session, link->send_sequence,
                               NULL, 0, NULL, 0);
    }
    return 0;
}

size_t tlc_link_output(tlc_link_t *link, uint32_t now_ms, const uint8_t **bytes) {
    const uint32_t gap = now_ms - link->polled_ms;
    if (gap > GAP_MS) {
        link->heard_ms = now_ms - link->heard_ms > gap ? link->heard_ms + gap : now_ms;
    }
    link->polled_ms = now_ms;
    if (link->out_at == link->out_count && build(link, now_ms) == 0) {
        *bytes = NULL;
        return 0;
    }
    *bytes = link->frame_out + link->out_at;
    return link->out_count - link->out_at;
}

void tlc_link_sent(tlc_link_t *link, size_t count) {
    const uint32_t left = link->out_count - link->out_at;
    const uint32_t taken = count < left ? (uint32_t)count : left;
    link->out_at += taken;
    link->counters.bytes_out += taken;
}

static void take_frame(tlc_link_t *link, uint32_t now, const uint8_t *frame, size_t count) {
    link->counters.frames_in++;
    if (count < TLC_LINK_FRAME_HEADER) {
        link->counters.bad++;
        return;
    }
    const uint8_t type = frame[1];
    const uint32_t session = tlc_get_u32(frame + 8);
    if (frame[0] != TLC_LINK_VERSION) {
        link->counters.bad++;
        if (type == TLC_FRAME_OPEN) { /* byte 0 and 1 mean the same in every version */
            tlc_link_say_end(link, 0, TLC_END_VERSION);
        }
        return;
    }
    const uint8_t flags = (uint8_t)(frame[2] >> 4);
    const uint8_t *body = frame + TLC_LINK_FRAME_HEADER;
    const size_t body_count = count - TLC_LINK_FRAME_HEADER;
    if (flags & ~(uint32_t)(TLC_FLAG_ACK_NOW | TLC_FLAG_BUSY)) {
        link->counters.bad++; /* a flag that we do not know changes what the frame means */
        return;
    }
    if (type == TLC_FRAME_OPEN) {
        tlc_link_take_open(link, now, body, body_count);
        return;
    }
    if (session == 0 || type == TLC_FRAME_ANNOUNCE || type == TLC_FRAME_ACCEPT) {
        return;
    }
    if (session == link->pending.session && type != TLC_FRAME_END) {
        tlc_link_begin(link, now);
    }
    if (session != link->peer.session) {
        if (type != TLC_FRAME_END) {
            /* One that ended in silence was not taken over by anybody: its host may open another. */
            const bool superseded = link->peer.session != 0 && session == link->last_session;
            tlc_link_say_end(link, session, superseded ? TLC_END_SUPERSEDED : TLC_END_UNKNOWN);
        }
        return;
    }
    if (type == TLC_FRAME_END) {
        tlc_link_forget(link);
        return;
    }
    const uint16_t next = tlc_get_u16(frame + 14);
    if (before16(next, link->send_sequence) > 0) {
        link->counters.bad++; /* acknowledges what was never sent */
        return;
    }
    link->heard_ms = now;
    const uint32_t credit = tlc_get_u24(frame + 3);
    if (sub24(credit, link->credit_limit) < 0x800000u) {
        link->credit_limit = credit;
    }
    tlc_link_take_ack(link, now, next, tlc_get_u32(frame + 16));
    if (flags & TLC_FLAG_ACK_NOW) {
        link->ack_now = 1;
    }
    if (type >= TLC_FRAME_MESSAGE) {
        tlc_link_take_message(link, now, frame, (uint32_t)body_count);
    }
}

void tlc_link_receive(tlc_link_t *link, uint32_t now_ms, const uint8_t *bytes, size_t count) {
    link->counters.bytes_in += (uint32_t)count;
    while (count) {
        size_t used = 0;
        size_t length = 0;
        const tlc_cobs_result_t result = tlc_cobs_decode(&link->decoder, bytes, count, &used, &length);
        bytes += used;
        count -= used;
        if (result == TLC_COBS_FRAME) {
            take_frame(link, now_ms, link->decoder.out, length);
        } else if (result == TLC_COBS_BAD) {
            link->counters.bad++;
        }
    }
}
