/* SPDX-License-Identifier: Apache-2.0
 *
 * link.c: see PROTOCOL.md, whose section numbers are given below.
 *
 * A fragment is taken (and then acknowledged) only when it could be put in its place; what is not taken
 * comes again. So there is no reordering buffer, and every fragment is copied once.
 */
#include "tlc/link.h"

#include "tlc/bytes.h"

#define ACK_DELAY_MS 5u
#define ANNOUNCE_MS 1000u
#define INITIAL_RTO_MS 250u
#define MIN_RTO_MS 20u
#define MAX_RTO_MS 1000u
#define MAX_BACKOFF 5
#define HEARD_BACKOFF 1 /* on a line that loses frames, while the host is heard */
#define SURE 8u         /* round trips measured before a time-out may be shorter than the first */
#define STUBBORN 4u     /* a frame sent so often is lost, not late */
#define GAP_MS 1000u    /* not polled for so long: the caller was busy, which is no silence of the host's */
#define REORDER 3       /* frames sent later that must be acknowledged before one counts as lost */
#define REMEMBER 64u    /* frames acknowledged for which a loss, or that frames overtook another, is remembered */
#define ACCEPT_TRIES 8u
#define WIDE 8u           /* a window of so many frames or more */
#define MOST_SEEN 126u    /* outcomes that a share of arrivals is the mean of, and */
#define PROBE_SEEN 62u    /* ... of a size that is only tried: a changed line is to be noticed */
#define PROBE_EVERY 32u   /* new bulk frames for one of the next larger size */
#define FIRST_BYTES 1024u /* a session begins with frames of medium size: large ones have to prove themselves */
#define EPOCH 32u         /* frames over which the line's idle time is measured */
#define LONG_EPOCH_MS 60000u
#define FRAME_OVERHEAD 40u /* bytes on the wire beside a frame's payload */
#define SPAN 32            /* sequence numbers between the oldest unacknowledged frame and the newest */

/* Serial-number arithmetic (RFC 1982). */
static int32_t before16(uint16_t a, uint16_t b) { return (int16_t)(uint16_t)(a - b); }

static uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }
static uint32_t max_u32(uint32_t a, uint32_t b) { return a > b ? a : b; }

static uint32_t sub24(uint32_t a, uint32_t b) { return (a - b) & 0xFFFFFFu; }

static bool is_due(uint32_t now, uint32_t at) { return (int32_t)(now - at) >= 0; }

static uint32_t mix(uint32_t x) { /* an avalanche, so that neighbouring inputs give unlike session numbers */
    x ^= x >> 16;
    x *= 0x7FEB352Du;
    x ^= x >> 15;
    x *= 0x846CA68Bu;
    x ^= x >> 16;
    return x;
}

static uint32_t charge(uint32_t length, uint32_t unit) { return ((length + unit - 1u) / unit) * unit; }

static uint32_t own_unit(const tlc_link_t *link) { return link->config.max_message ? link->config.max_message : 1u; }

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

/* ---- sessions (section 5) ---- */

static void forget_session(tlc_link_t *link) {
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

static uint32_t arm_bytes(const tlc_link_t *link, uint32_t arm) {
    const uint32_t most = link->config.fragment < link->peer.fragment ? link->config.fragment : link->peer.fragment;
    const uint32_t bytes = most >> arm;
    return bytes < TLC_LINK_MIN_FRAGMENT ? TLC_LINK_MIN_FRAGMENT : bytes;
}

static void begin_session(tlc_link_t *link, uint32_t now) {
    forget_session(link);
    link->peer = link->pending;
    memset(&link->pending, 0, sizeof link->pending);
    link->accept_due = 0;
    link->heard_ms = now;
    link->said_ms = now;
    link->progress_ms = now;
    link->epoch_ms = now;
    while (arm_bytes(link, link->arm) > FIRST_BYTES) {
        link->arm++;
    }
    link->ack_now = 1;
    link->counters.sessions++;
}

static void say_end(tlc_link_t *link, uint32_t session, tlc_end_t reason) {
    link->end_session = session;
    link->end_reason = (uint8_t)reason;
    link->end_due = 1;
}

void tlc_link_close(tlc_link_t *link) {
    if (link->peer.session) {
        say_end(link, link->peer.session, TLC_END_CLOSED);
        forget_session(link);
    }
}

static void take_open(tlc_link_t *link, uint32_t now, const uint8_t *body, size_t count) {
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

/* ---- sending ---- */

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

static size_t encode(tlc_link_t *link, uint32_t now, uint8_t type, uint8_t stream, uint8_t flags, uint32_t session,
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

static size_t send_accept(tlc_link_t *link, uint32_t now) {
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
    return encode(link, now, TLC_FRAME_ACCEPT, 0, 0, link->pending.session, 0, NULL, 0, body, sizeof body);
}

static size_t send_slot(tlc_link_t *link, uint32_t now, tlc_link_slot_t *slot) {
    const tlc_link_outgoing_t *message = &link->outgoing[slot->outgoing];
    if (slot->tries) {
        link->counters.resent++;
    }
    slot->tries = (uint8_t)(slot->tries < 255 ? slot->tries + 1 : 255);
    slot->lost = 0;
    slot->sent_ms = now;
    slot->counter = link->counter;
    return encode(link, now, message->type, message->stream, 0, link->peer.session, slot->sequence, message,
                  slot->offset, NULL, slot->bytes);
}

static uint32_t rto(const tlc_link_t *link, uint32_t in_flight) {
    const uint32_t ms = (link->srtt8 >> 3) + max_u32(link->rttvar4, 10u) + ACK_DELAY_MS;
    /* Of more than one frame the first are short, and no queue is before them. */
    const uint32_t least = link->rtt_count < (in_flight > 1 ? SURE : 1u) ? INITIAL_RTO_MS : MIN_RTO_MS;
    return min_u32(max_u32(ms, least) << link->backoff, MAX_RTO_MS);
}

/* ---- the fragment size (section 7): the one that brings most bytes across ---- */

/* A smaller size is believed perfect until it was tried. What comes across of a small one is no less than of a large
 * one; that a larger one has become better is found out by trying it with a frame now and then (next_arm). */
static void note_outcome(tlc_link_t *link, const tlc_link_slot_t *slot, bool arrived) {
    if (slot->bytes <= arm_bytes(link, slot->arm) / 2u) {
        return; /* a message's short end says nothing of its size */
    }
    uint8_t *seen = &link->seen[slot->arm];
    *seen = (uint8_t)(*seen < MOST_SEEN ? *seen + 1u : MOST_SEEN);
    const uint32_t weight = slot->arm < link->arm ? min_u32(*seen, PROBE_SEEN) : *seen;
    uint32_t share = link->arrived[slot->arm];
    share = arrived ? share + (65535u - share) / (weight + 2u) : share - share / (weight + 2u);
    link->arrived[slot->arm] = (uint16_t)share;
    uint32_t best = 0, chosen = link->arm;
    for (uint32_t arm = 0; arm < TLC_LINK_ARMS; arm++) {
        if (arm > slot->arm && link->arrived[arm] < share) {
            link->arrived[arm] = (uint16_t)share;
        }
        const uint32_t bytes = arm_bytes(link, arm);
        if (arm && bytes == arm_bytes(link, arm - 1u)) {
            break; /* there is no smaller one */
        }
        if (arm < link->arm && !link->seen[arm]) {
            continue; /* a larger one has to be tried first */
        }
        const uint32_t score = link->arrived[arm] * bytes / (bytes + FRAME_OVERHEAD + link->idle_bytes);
        if (score > best + best / 16u) { /* not for nothing: shares are estimates */
            best = score;
            chosen = arm;
        }
    }
    link->arm = (uint8_t)chosen;
}

/* A larger size is tried on a frame that is long enough to tell something of it. */
static uint8_t next_arm(tlc_link_t *link, uint32_t left) {
    if (link->arm == 0) {
        return 0;
    }
    if (link->probe + 1u < PROBE_EVERY) {
        link->probe++;
        return link->arm;
    }
    if (left <= arm_bytes(link, link->arm - 1u) / 2u) {
        return link->arm;
    }
    link->probe = 0;
    return (uint8_t)(link->arm - 1u);
}

/* A time-out may be a pause of the line's or the host's, for which the fragment size is not to pay: then nothing was
 * `heard`. But in a small window few lost frames are overtaken. Or the round trip has grown. */
static void time_out(tlc_link_t *link, tlc_link_slot_t *slot, bool heard) {
    if ((link->lossy || slot->tries >= STUBBORN) && (heard || link->config.window < WIDE)) {
        note_outcome(link, slot, false);
    }
    slot->lost = 1;
    slot->late = 1;
}

/* Milliseconds after which a frame's acknowledgement is overdue. */
static uint32_t patience_of(const tlc_link_t *link) { return (link->srtt8 >> 3) + (link->srtt8 >> 6) + 2u; }

/* Marks what is lost (section 7): overtaken by later frames, or too old. Returns the frames unacknowledged. */
static uint32_t find_lost(tlc_link_t *link, uint32_t now) {
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
                note_outcome(link, slot, false);
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
        if (is_due(now, base + rto(link, count))) {
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
static tlc_link_slot_t *overdue(tlc_link_t *link, uint32_t now, uint32_t in_flight) {
    if (!link->lossy || !link->is_shut || now - link->heard_ms > rto(link, in_flight)) {
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
        note_outcome(link, oldest, false);
    } else if (now - oldest->sent_ms < (idles ? link->srtt8 >> 4 : patience + link->rttvar4 / 4u)) {
        return NULL;
    }
    oldest->late = 1;
    return oldest;
}

static void shut(tlc_link_t *link, uint32_t now) {
    if (!link->is_shut) {
        link->is_shut = 1;
        link->shut_ms = now;
    }
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
        shut(link, now);
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

/* How long the line stays idle with each frame because the window is full, as bytes of the line. A round trip well
 * above the least one is a queue before the line: then it is not idle. */
static void note_sent(tlc_link_t *link, uint32_t now, const tlc_link_slot_t *slot) {
    if (link->is_shut) {
        link->epoch_shut_ms += now - link->shut_ms;
        link->is_shut = 0;
    }
    link->epoch_bytes += slot->bytes + FRAME_OVERHEAD;
    if (++link->epoch_frames < EPOCH) {
        return;
    }
    const uint32_t elapsed = now - link->epoch_ms;
    uint32_t idle = 0;
    if (elapsed && elapsed < LONG_EPOCH_MS && (link->srtt8 >> 3) < link->least_ms + link->least_ms / 2u) {
        const uint32_t shut_ms = min_u32(link->epoch_shut_ms, elapsed - (elapsed + 7u) / 8u);
        idle = link->epoch_bytes / EPOCH * shut_ms / (elapsed - shut_ms);
    }
    link->idle_bytes = (link->idle_bytes * 3u + idle) / 4u;
    link->epoch_ms = now;
    link->epoch_shut_ms = 0;
    link->epoch_bytes = 0;
    link->epoch_frames = 0;
}

static size_t send_new(tlc_link_t *link, uint32_t now, uint32_t in_flight) {
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
            shut(link, now);
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
        free_slot->arm = next_arm(link, count);
        count = min_u32(count, arm_bytes(link, free_slot->arm));
    }
    free_slot->offset = message->next;
    free_slot->bytes = (uint16_t)count;
    free_slot->sequence = link->send_sequence++;
    free_slot->outgoing = (uint8_t)(message - link->outgoing);
    message->next += count;
    message->in_flight++;
    note_sent(link, now, free_slot);
    return send_slot(link, now, free_slot);
}

static size_t build(tlc_link_t *link, uint32_t now) {
    if (link->end_due) {
        const uint8_t body[3] = {link->end_reason, (uint8_t)TLC_LINK_VERSION, (uint8_t)TLC_LINK_VERSION};
        link->end_due = 0;
        return encode(link, now, TLC_FRAME_END, 0, 0, link->end_session, 0, NULL, 0, body, sizeof body);
    }
    if (link->accept_due && is_due(now, link->accept_ms)) {
        return send_accept(link, now);
    }
    if (!link->peer.session) {
        if (!link->announced || is_due(now, link->announce_ms)) {
            uint8_t body[4];
            tlc_put_u32(body, link->config.boot);
            link->announced = 1;
            link->announce_ms = now + ANNOUNCE_MS;
            return encode(link, now, TLC_FRAME_ANNOUNCE, 0, 0, 0, 0, NULL, 0, body, sizeof body);
        }
        return 0;
    }
    if (now - link->heard_ms >= link->config.dead_ms) {
        forget_session(link);
        return 0;
    }
    const uint32_t in_flight = find_lost(link, now);
    if (link->hail) {
        link->hail = 0;
        return encode(link, now, TLC_FRAME_ACK, 0, TLC_FLAG_ACK_NOW, link->peer.session, link->send_sequence, NULL, 0,
                      NULL, 0);
    }
    for (uint32_t i = 0; i < link->config.window; i++) {
        if (link->slots[i].tries && link->slots[i].lost) {
            note_sent(link, now, &link->slots[i]);
            return send_slot(link, now, &link->slots[i]);
        }
    }
    const size_t count = send_new(link, now, in_flight);
    if (count) {
        return count;
    }
    tlc_link_slot_t *again = overdue(link, now, in_flight);
    if (again) {
        return send_slot(link, now, again);
    }
    if (link->ack_now || (link->ack_pending && is_due(now, link->ack_ms))) {
        return encode(link, now, TLC_FRAME_ACK, 0, 0, link->peer.session, link->send_sequence, NULL, 0, NULL, 0);
    }
    /* Waiting for credit with nothing under way, the word that there is credit again may be lost: ask. */
    const bool ask = link->blocked && in_flight == 0 && now - link->said_ms >= rto(link, 0);
    if (ask || now - link->said_ms >= link->config.keepalive_ms) {
        if (ask && link->backoff < MAX_BACKOFF) {
            link->backoff++;
        }
        return encode(link, now, TLC_FRAME_ACK, 0, TLC_FLAG_ACK_NOW, link->peer.session, link->send_sequence, NULL, 0,
                      NULL, 0);
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

/* ---- receiving ---- */

static void sample_rtt(tlc_link_t *link, uint32_t ms) { /* RFC 6298 */
    link->rtt_count = (uint8_t)min_u32(link->rtt_count + 1u, SURE);
    if (link->rtt_count == 1) {
        link->srtt8 = ms << 3;
        link->rttvar4 = ms << 1;
        return;
    }
    const int32_t error = (int32_t)ms - (int32_t)(link->srtt8 >> 3);
    link->srtt8 = (uint32_t)((int32_t)link->srtt8 + error);
    const uint32_t size = (uint32_t)(error < 0 ? -error : error);
    link->rttvar4 = link->rttvar4 - (link->rttvar4 >> 2) + size;
}

static void take_ack(tlc_link_t *link, uint32_t now, uint16_t next, uint32_t bitmap) {
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
            note_outcome(link, slot, true);
            link->reordered = slot->late ? link->reordered : REMEMBER;
        } else if (slot->tries == 1 && any && before16(slot->counter, overtook) < 0) {
            link->reordered = REMEMBER;
        }
        if (!first_copy && (!link->any_acked || before16(slot->counter, link->acked_counter) > 0)) {
            link->any_acked = 1;
            link->acked_counter = slot->counter;
        }
        note_outcome(link, slot, true);
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

static void take_message_frame(tlc_link_t *link, uint32_t now, const uint8_t *frame, uint32_t count) {
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
            say_end(link, 0, TLC_END_VERSION);
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
        take_open(link, now, body, body_count);
        return;
    }
    if (session == 0 || type == TLC_FRAME_ANNOUNCE || type == TLC_FRAME_ACCEPT) {
        return;
    }
    if (session == link->pending.session && type != TLC_FRAME_END) {
        begin_session(link, now);
    }
    if (session != link->peer.session) {
        if (type != TLC_FRAME_END) {
            /* One that ended in silence was not taken over by anybody: its host may open another. */
            const bool superseded = link->peer.session != 0 && session == link->last_session;
            say_end(link, session, superseded ? TLC_END_SUPERSEDED : TLC_END_UNKNOWN);
        }
        return;
    }
    if (type == TLC_FRAME_END) {
        forget_session(link);
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
    take_ack(link, now, next, tlc_get_u32(frame + 16));
    if (flags & TLC_FLAG_ACK_NOW) {
        link->ack_now = 1;
    }
    if (type >= TLC_FRAME_MESSAGE) {
        take_message_frame(link, now, frame, (uint32_t)body_count);
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
