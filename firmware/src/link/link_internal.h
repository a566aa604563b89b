/* SPDX-License-Identifier: Apache-2.0
 *
 * link_internal.h: what the rooms of the link share. Not for callers: theirs is tlc/link.h.
 */
#ifndef TLC_LINK_INTERNAL_H
#define TLC_LINK_INTERNAL_H

#include "tlc/link.h"

#define ACK_DELAY_MS 5u
#define INITIAL_RTO_MS 250u
#define MAX_RTO_MS 1000u
#define MAX_BACKOFF 5
#define WIDE 8u            /* a window of so many frames or more */
#define FRAME_OVERHEAD 40u /* bytes on the wire beside a frame's payload */

static inline uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }
static inline uint32_t max_u32(uint32_t a, uint32_t b) { return a > b ? a : b; }

/* Serial-number arithmetic (RFC 1982). */
static inline int32_t before16(uint16_t a, uint16_t b) { return (int16_t)(uint16_t)(a - b); }
static inline uint32_t sub24(uint32_t a, uint32_t b) { return (a - b) & 0xFFFFFFu; }

static inline bool is_due(uint32_t now, uint32_t at) { return (int32_t)(now - at) >= 0; }

/* Credit (section 8): a message costs whole units, ours as large as the largest message. */
static inline uint32_t charge(uint32_t length, uint32_t unit) { return ((length + unit - 1u) / unit) * unit; }
static inline uint32_t own_unit(const tlc_link_t *link) {
    return link->config.max_message ? link->config.max_message : 1u;
}

/* ---- link.c ---- */

/* The frame that tlc_link_output hands out next; returns its bytes on the wire. */
size_t tlc_link_encode(tlc_link_t *link, uint32_t now, uint8_t type, uint8_t stream, uint8_t flags, uint32_t session,
                       uint16_t sequence, const tlc_link_outgoing_t *message, uint32_t offset, const uint8_t *bytes,
                       size_t count);

/* ---- link_session.c ---- */

void tlc_link_forget(tlc_link_t *link);
void tlc_link_begin(tlc_link_t *link, uint32_t now);
void tlc_link_say_end(tlc_link_t *link, uint32_t session, tlc_end_t reason);
void tlc_link_take_open(tlc_link_t *link, uint32_t now, const uint8_t *body, size_t count);
size_t tlc_link_send_accept(tlc_link_t *link, uint32_t now);

/* ---- link_fragment_size.c ---- */

uint32_t tlc_link_arm_bytes(const tlc_link_t *link, uint32_t arm);
uint8_t tlc_link_next_arm(tlc_link_t *link, uint32_t left);
void tlc_link_note_outcome(tlc_link_t *link, const tlc_link_slot_t *slot, bool arrived);
void tlc_link_note_full(tlc_link_t *link, uint32_t now);
void tlc_link_note_sent(tlc_link_t *link, uint32_t now, const tlc_link_slot_t *slot);

/* ---- link_loss.c ---- */

uint32_t tlc_link_rto(const tlc_link_t *link, uint32_t in_flight);
uint32_t tlc_link_find_lost(tlc_link_t *link, uint32_t now);
tlc_link_slot_t *tlc_link_overdue(tlc_link_t *link, uint32_t now, uint32_t in_flight);
void tlc_link_take_ack(tlc_link_t *link, uint32_t now, uint16_t next, uint32_t bitmap);

/* ---- link_sender.c ---- */

size_t tlc_link_send_slot(tlc_link_t *link, uint32_t now, tlc_link_slot_t *slot);
size_t tlc_link_send_new(tlc_link_t *link, uint32_t now, uint32_t in_flight);

/* ---- link_receiver.c ---- */

void tlc_link_take_message(tlc_link_t *link, uint32_t now, const uint8_t *frame, uint32_t count);

#endif
