/* SPDX-License-Identifier: Apache-2.0
 *
 * link_loss.c: which frames are lost: round trips, time-outs, acknowledgements (PROTOCOL.md, section 7).
 */
#include "link_internal.h"

#define MIN_RTO_MS 20u
#define HEARD_BACKOFF 1 /* on a line that loses frames, while the host is heard */
#define SURE 8u         /* round trips measured before a time-out may be shorter than the first */
#define STUBBORN 4u     /* a frame sent so often is lost, not late */
#define REORDER 3       /* frames sent later that must be acknowledged before one counts as lost */
#define REMEMBER 64u    /* frames acknowledged for which a loss, or that frames overtook another, is remembered */

uint32_t tlc_link_rto(const tlc_link_t *link, uint32_t in_flight) {
    const uint32_t ms = (link->srtt8 >> 3) + max_u32(link->rttvar4, 10u) + ACK_DELAY_MS;
    /* Of more than one frame the first are short, and no queue is before them. */
    const uint32_t least = link->rtt_count < (in_flight > 1 ? SURE : 1u) ? INITIAL_RTO_MS : MIN_RTO_MS;
    return min_u32(max_u32(ms, least) << link->backoff, MAX_RTO_MS);
}

/* A time-out may be a pause of the line's or the host's, for which the fragment size is not to pay: then nothing was
 * `heard`. But in a small window few lost frames are overtaken. Or the round trip has grown. */
static void time_out(tlc_link_t *link, tlc_link_slot_t *slot, bool heard) {
    if ((link->lossy || slot->tries >= STUBBORN) && (heard || link->config.window < WIDE)) {
        tlc_link_note_outcome(link, slot, false);
    }
    slot->lost = 1;
    slot->late = 1;
}

/* Milliseconds after which a frame's acknowledgement is overdue. */
static uint32_t patience_of(const tlc_link_t *link) { return (link->srtt8 >> 3) + (link->srtt8 >> 6) + 2u; }

/* Marks what is lost (section 7): overtaken by later frames, or too old. Returns the frames unacknowledged. */
uint32_t tlc_link_find_lost(tlc_link_t *link, uint32_t now) {
    tlc_link_slot_t *oldest[2] = {NULL, NULL};
    uint32_t count = 0;
    const uint32_t patience = patience_of(link);
    for (uint32_t i = 0; i < link->config.window; i++) {
        tlc_link_slot_t *slot = &link->slots[i];
        if (!slot->tries) {
            continue;
        }
        count++;
        if (slot->lost) {
            continue;
        }
        if (link->any_acked) {
            const int32_t overtaken = before16(link->acked_counter, slot->counter);
            if (overtaken >= REORDER || (overtaken > 0 && (!link->reordered || now - slot->sent_ms >= patience))) {
                slot->lost = 1;
                link->lossy = REMEMBER;
                tlc_link_note_outcome(link, slot, false);
                continue;
            }
        }
        if (!oldest[0] || before16(slot->counter, oldest[0]->counter) < 0) {
            oldest[1] = oldest[0];
            oldest[0] = slot;
        } else if (!oldest[1] || before16(slot->counter, oldest[1]->counter) < 0) {
            oldest[1] = slot;
        }
    }
    if (oldest[0]) {
        uint32_t base = oldest[0]->sent_ms;
        if ((int32_t)(link->progress_ms - base) > 0) {
            base = link->progress_ms;
        }
        if (is_due(now, base + tlc_link_rto(link, count))) {
            const bool heard = (int32_t)(link->heard_ms - base) > 0;
            time_out(link, oldest[0], heard && link->backoff);
            if (oldest[1] && !link->lossy) {
                time_out(link, oldest[1], heard && link->backoff); /* two probes: one may be lost again */
            }
            /* A line that loses frames, but on which the host is heard, is neither dead nor stalled. */
            const uint8_t most = link->lossy && heard ? HEARD_BACKOFF : MAX_BACKOFF;
            link->progress_ms = now;
            link->hail = link->backoff > HEARD_BACKOFF; /* by frames that are shorter, if these cannot come through */
            link->backoff = (uint8_t)(link->backoff < most ? link->backoff + 1 : most);
        }
    }
    return count;
}

/* A tensor waits because the window is full: on a line that loses frames better the oldest once more than nothing.
 * NULL: it is not due. */
tlc_link_slot_t *tlc_link_overdue(tlc_link_t *link, uint32_t now, uint32_t in_flight) {
    if (!link->lossy || !link->is_shut || now - link->heard_ms > tlc_link_rto(link, in_flight)) {
        return NULL;
    }
    tlc_link_slot_t *oldest = NULL;
    for (uint32_t i = 0; i < link->config.window; i++) {
        tlc_link_slot_t *slot = &link->slots[i];
        if (slot->tries && (!oldest || before16(slot->counter, oldest->counter) < 0)) {
            oldest = slot;
        }
    }
    if (!oldest) {
        return NULL;
    }
    const uint32_t patience = patience_of(link);
    /* A line that is idle for more than an empty frame's time with each frame loses nothing by another copy. */
    const bool idles = link->idle_bytes > FRAME_OVERHEAD;
    if ((int32_t)(link->heard_ms - oldest->sent_ms) >= (int32_t)patience) { /* the host would have told of it */
        tlc_link_note_outcome(link, oldest, false);
    } else if (now - oldest->sent_ms < (idles ? link->srtt8 >> 4 : patience + link->rttvar4 / 4u)) {
        return NULL;
    }
    oldest->late = 1;
    return oldest;
}

static void sample_rtt(tlc_link_t *link, uint32_t ms) { /* RFC 6298 */
    link->rtt_count = (uint8_t)min_u32(link->rtt_count + 1u, SURE);
    if (link->rtt_count == 1) {
        link->srtt8 = ms << 3;
        link->rttvar4 = ms << 1;
        return;
    }
    if (link->lossy) { /* a late one may have waited for the host's time-out, which ours is not to follow */
        ms = min_u32(ms, (link->srtt8 >> 3) + (link->srtt8 >> 4) + 10u);
    }
    const int32_t error = (int32_t)ms - (int32_t)(link->srtt8 >> 3);
    link->srtt8 = (uint32_t)((int32_t)link->srtt8 + error);
    const uint32_t size = (uint32_t)(error < 0 ? -error : error);
    link->rttvar4 = link->rttvar4 - (link->rttvar4 >> 2) + size;
}

void tlc_link_take_ack(tlc_link_t *link, uint32_t now, uint16_t next, uint32_t bitmap) {
    bool progress = false;
    uint32_t sample = UINT32_MAX;
    uint16_t sampled = 0;
    const uint16_t overtook = link->acked_counter;
    const bool any = link->any_acked;
    const uint32_t srtt = link->srtt8 >> 3;
    for (uint32_t i = 0; i < link->config.window; i++) {
        tlc_link_slot_t *slot = &link->slots[i];
        if (!slot->tries) {
            continue;
        }
        const int32_t ahead = before16(slot->sequence, next);
        if (ahead == 0 || ahead > 32 || (ahead > 0 && !((bitmap >> (ahead - 1)) & 1u))) {
            continue;
        }
        if (slot->tries == 1 && (sample == UINT32_MAX || before16(slot->counter, sampled) > 0)) {
            sample = now - slot->sent_ms; /* Karn: only frames sent once */
            sampled = slot->counter;
        }
        /* Of one that was only late it may be the first copy that arrived, which overtook nothing: always where no
         * frame was lost, for there the round trip has grown. */
        const bool first_copy = slot->late && (!link->lossy || now - slot->sent_ms < srtt - srtt / 4u);
        link->lossy = (uint8_t)(link->lossy ? link->lossy - 1u : 0u);
        link->reordered = (uint8_t)(link->reordered ? link->reordered - 1u : 0u);
        if (slot->lost ||
            (slot->tries > 1 && now - slot->sent_ms < srtt / 2u)) { /* it is an earlier copy that arrived */
            tlc_link_note_outcome(link, slot, true);
            link->reordered = slot->late ? link->reordered : REMEMBER;
        } else if (slot->tries == 1 && any && before16(slot->counter, overtook) < 0) {
            link->reordered = REMEMBER;
        }
        if (!first_copy && (!link->any_acked || before16(slot->counter, link->acked_counter) > 0)) {
            link->any_acked = 1;
            link->acked_counter = slot->counter;
        }
        tlc_link_note_outcome(link, slot, true);
        tlc_link_outgoing_t *message = &link->outgoing[slot->outgoing];
        message->in_flight--;
        if (message->in_flight == 0 && message->next == message->length) {
            message->used = 0;
        }
        slot->tries = 0;
        slot->lost = 0;
        slot->late = 0;
        progress = true;
    }
    if (progress) {
        link->progress_ms = now;
        link->backoff = 0;
    }
    link->least_ms = min_u32(link->least_ms, sample);
    if (sample < 60000u) {
        sample_rtt(link, sample);
    }
}
