/* SPDX-License-Identifier: Apache-2.0
 *
 * explored.h: brings a link to a form in which two states that behave alike are equal byte for byte. Time stands still
 * at NOW; it passes when a tick makes every timer due. What only measures (round trips, shares of frames, totals) is
 * forgotten, so every timer is either due or not, in any order.
 */
#ifndef TLC_EXPLORED_H
#define TLC_EXPLORED_H

#include <string.h>

#include "tlc/link.h"

#define NOW 1000000u
#define TICK 1100u /* more than every timer but that of a dead link */
#define DEAD 10000u

static inline uint32_t past(uint32_t at) { return NOW - at < TICK ? NOW : NOW - at < DEAD ? NOW - TICK : NOW - DEAD; }

static inline uint32_t future(uint32_t at) { return (int32_t)(NOW - at) >= 0 ? NOW : NOW + 1u; }

/* Counters of frames: their order, and gaps up to the one at which a frame counts as lost. */
static inline void close_gaps(tlc_link_t *link) {
    uint16_t *all[33];
    uint32_t count = 0;
    for (uint32_t i = 0; i < link->config.window; i++) {
        if (link->slots[i].tries) {
            all[count++] = &link->slots[i].counter;
        }
    }
    if (link->any_acked) {
        all[count++] = &link->acked_counter;
    }
    uint16_t from = link->counter, to = 1000; /* the newest first */
    for (;;) {
        uint32_t best = UINT32_MAX;
        for (uint32_t i = 0; i < count; i++) {
            const uint32_t gap = (uint16_t)(from - *all[i]);
            const uint32_t least = best == UINT32_MAX ? UINT32_MAX : (uint16_t)(from - *all[best]);
            best = all[i] != NULL && gap < least ? i : best;
        }
        if (best == UINT32_MAX) {
            break;
        }
        const uint16_t value = *all[best], gap = (uint16_t)(from - value);
        from = value;
        to = (uint16_t)(to - (gap < 3u ? gap : 3u));
        *all[best] = to;
        all[best] = all[--count];
    }
    link->counter = 1000;
}

static inline void normalize(tlc_link_t *link) {
    memset(&link->counters, 0, sizeof link->counters);
    memset(link->frame_out, 0, TLC_LINK_FRAME_OUT(link->config.fragment));
    memset(link->decoder.out, 0, link->decoder.capacity);
    link->out_count = link->out_at = 0;
    link->polled_ms = NOW;
    link->heard_ms = NOW - link->heard_ms < DEAD ? NOW : NOW - DEAD;
    link->said_ms = past(link->said_ms);
    link->progress_ms = past(link->progress_ms);
    if (!link->peer.session) {
        link->heard_ms = link->said_ms = link->progress_ms = NOW;
    }
    link->accept_ms = link->accept_due ? future(link->accept_ms) : 0;
    link->announce_ms = link->peer.session ? 0 : future(link->announce_ms);
    link->ack_ms = link->ack_pending ? future(link->ack_ms) : 0;
    if (link->accept_tries > 2) { /* as if all had been made: one more, and then one for each OPEN */
        link->accept_tries = 8;
    }
    link->end_session = link->end_due ? link->end_session : 0;
    link->end_reason = link->end_due ? link->end_reason : 0;
    link->ack_pending = link->ack_pending > 2 ? 2 : link->ack_pending;
    memset(link->arrived, 0xFF, sizeof link->arrived);
    memset(link->seen, 0, sizeof link->seen);
    link->arm = link->probe = link->rtt_count = link->backoff = 0;
    link->lossy = link->reordered = 64; /* the line counts as one that loses frames and brings them in any order */
    link->hail = link->is_shut = link->epoch_frames = 0;
    link->shut_ms = link->epoch_ms = link->epoch_shut_ms = link->epoch_bytes = link->idle_bytes = link->least_ms = 0;
    link->srtt8 = link->rttvar4 = 0;
    bool waiting = false;
    for (uint32_t i = 0; i < link->config.window; i++) {
        tlc_link_slot_t *slot = &link->slots[i];
        if (!slot->tries) {
            memset(slot, 0, sizeof *slot);
            continue;
        }
        slot->tries = slot->tries > 2 ? 2 : slot->tries;
        slot->sent_ms = past(slot->sent_ms);
        waiting = true;
    }
    link->progress_ms = waiting ? link->progress_ms : NOW;
    for (uint32_t i = 0; i < TLC_LINK_OUTGOING; i++) {
        if (!link->outgoing[i].used) {
            memset(&link->outgoing[i], 0, sizeof link->outgoing[i]);
        }
    }
    for (uint32_t i = 0; i < TLC_LINK_INCOMING; i++) {
        if (!link->incoming[i].used) {
            memset(&link->incoming[i], 0, sizeof link->incoming[i]);
        }
    }
    if (!link->control_count) {
        memset(link->control, 0, sizeof link->control);
        link->control_type = 0;
    }
    close_gaps(link);
}

/* Every timer is due now; `dead`: that of silence, too. */
static inline void let_pass(tlc_link_t *link, bool dead) {
    const uint32_t ms = dead ? DEAD : TICK;
    link->heard_ms -= ms;
    link->said_ms -= ms;
    link->progress_ms -= ms;
    link->accept_ms -= ms;
    link->announce_ms -= ms;
    link->ack_ms -= ms;
    for (uint32_t i = 0; i < link->config.window; i++) {
        link->slots[i].sent_ms -= ms;
    }
}

#endif /* TLC_EXPLORED_H */
