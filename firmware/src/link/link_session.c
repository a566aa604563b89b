/* SPDX-License-Identifier: Apache-2.0
 *
 * link_session.c: sessions begin and end (PROTOCOL.md, section 5).
 */
#include "link_internal.h"
#include "tlc/bytes.h"

#define ACCEPT_TRIES 8u
#define FIRST_BYTES 1024u /* a session begins with frames of medium size: large ones have to prove themselves */

static uint32_t mix(uint32_t x) { /* an avalanche, so that neighbouring inputs give unlike session numbers */
    x ^= x >> 16;
    x *= 0x7FEB352Du;
    x ^= x >> 15;
    x *= 0x846CA68Bu;
    x ^= x >> 16;
    return x;
}

void tlc_link_forget(tlc_link_t *link) {
    memset(link->slots, 0, link->config.window * sizeof *link->slots);
    memset(link->outgoing, 0, sizeof link->outgoing);
    memset(link->incoming, 0, sizeof link->incoming);
    memset(link->send_number, 0, sizeof link->send_number);
    memset(link->take_number, 0, sizeof link->take_number);
    link->send_sequence = 0;
    link->counter = 0;
    link->acked_counter = 0;
    link->any_acked = 0;
    link->credit_limit = 0;
    link->credit_used = 0;
    memset(link->arrived, 0xFF, sizeof link->arrived);
    memset(link->seen, 0, sizeof link->seen);
    link->arm = 0;
    link->probe = 0;
    link->rtt_count = 0;
    link->srtt8 = 0;
    link->rttvar4 = 0;
    link->backoff = 0;
    link->lossy = 0;
    link->hail = 0;
    link->is_shut = 0;
    link->epoch_frames = 0;
    link->epoch_bytes = 0;
    link->epoch_shut_ms = 0;
    link->idle_bytes = 0;
    link->least_ms = UINT32_MAX / 2u;
    link->reordered = 0;
    link->blocked = 0;
    link->control_count = 0;
    link->control_taken = 0;
    link->take_sequence = 0;
    link->take_bitmap = 0;
    link->grant = (own_unit(link) * link->config.messages) & 0xFFFFFFu;
    link->ack_pending = 0;
    link->ack_now = 0;
    link->last_session = link->peer.session;
    memset(&link->peer, 0, sizeof link->peer);
    link->announced = 0;
    link->told_busy = 0;
}

void tlc_link_begin(tlc_link_t *link, uint32_t now) {
    tlc_link_forget(link);
    link->peer = link->pending;
    memset(&link->pending, 0, sizeof link->pending);
    link->accept_due = 0;
    link->heard_ms = now;
    link->said_ms = now;
    link->progress_ms = now;
    link->epoch_ms = now;
    while (tlc_link_arm_bytes(link, link->arm) > FIRST_BYTES) {
        link->arm++;
    }
    link->ack_now = 1;
    link->counters.sessions++;
}

void tlc_link_say_end(tlc_link_t *link, uint32_t session, tlc_end_t reason) {
    link->end_session = session;
    link->end_reason = (uint8_t)reason;
    link->end_due = 1;
}

void tlc_link_close(tlc_link_t *link) {
    if (link->peer.session) {
        tlc_link_say_end(link, link->peer.session, TLC_END_CLOSED);
        tlc_link_forget(link);
    }
}

void tlc_link_take_open(tlc_link_t *link, uint32_t now, const uint8_t *body, size_t count) {
    if (count < TLC_LINK_OPEN_BYTES) {
        link->counters.bad++;
        return;
    }
    tlc_link_peer_t offer = {0};
    offer.nonce = tlc_get_u32(body);
    offer.fragment = tlc_get_u16(body + 8);
    offer.window = body[10];
    offer.max_message = tlc_get_u32(body + 12);
    offer.unit = tlc_get_u32(body + 16);
    offer.control = tlc_get_u16(body + 20);
    if (offer.nonce == 0 || offer.fragment < TLC_LINK_MIN_FRAGMENT || offer.window < 1 || offer.window > 32 ||
        offer.unit < 1 || offer.unit > 0x200000u || offer.control > offer.fragment) {
        link->counters.bad++;
        return;
    }
    if (offer.nonce == link->peer.nonce) {
        return; /* a late copy of the OPEN that began this session */
    }
    if (offer.nonce != link->pending.nonce) {
        link->opened++;
        offer.session = mix(link->config.boot ^ mix(offer.nonce + link->opened));
        if (offer.session == 0 || offer.session == link->peer.session) {
            offer.session ^= 0x5DEECE66u;
        }
        link->pending = offer;
        link->accept_tries = 0;
    }
    link->accept_due = 1;
    link->accept_ms = now;
}

size_t tlc_link_send_accept(tlc_link_t *link, uint32_t now) {
    uint8_t body[TLC_LINK_OPEN_BYTES];
    memset(body, 0, sizeof body);
    tlc_put_u32(body, link->pending.nonce);
    tlc_put_u32(body + 4, link->config.boot);
    tlc_put_u16(body + 8, link->config.fragment);
    body[10] = link->config.peer_window;
    tlc_put_u32(body + 12, link->config.max_message);
    tlc_put_u32(body + 16, own_unit(link));
    tlc_put_u16(body + 20, TLC_LINK_CONTROL_BYTES);
    tlc_put_u16(body + 22, link->config.keepalive_ms);
    link->accept_tries++;
    link->accept_due = link->accept_tries < ACCEPT_TRIES;
    link->accept_ms = now + INITIAL_RTO_MS;
    return tlc_link_encode(link, now, TLC_FRAME_ACCEPT, 0, 0, link->pending.session, 0, NULL, 0, body, sizeof body);
}
