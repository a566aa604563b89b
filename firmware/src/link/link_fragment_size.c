/* SPDX-License-Identifier: Apache-2.0
 *
 * link_fragment_size.c: the fragment size that brings most bytes across (PROTOCOL.md, section 7).
 *
 * A size is an arm: 0 is the largest, each further one half of the one before.
 */
#include "link_internal.h"

#define MOST_SEEN 126u  /* outcomes that a share of arrivals is the mean of, and */
#define PROBE_SEEN 62u  /* ... of a size that is only tried: a changed line is to be noticed */
#define PROBE_EVERY 32u /* new bulk frames for one of the next larger size */
#define EPOCH 32u       /* frames over which the line's idle time is measured */
#define LONG_EPOCH_MS 60000u

uint32_t tlc_link_arm_bytes(const tlc_link_t *link, uint32_t arm) {
    const uint32_t most = link->config.fragment < link->peer.fragment ? link->config.fragment : link->peer.fragment;
    const uint32_t bytes = most >> arm;
    return bytes < TLC_LINK_MIN_FRAGMENT ? TLC_LINK_MIN_FRAGMENT : bytes;
}

/* A smaller size is believed perfect until it was tried. What comes across of a small one is no less than of a large
 * one; that a larger one has become better is found out by trying it with a frame now and then (next_arm). */
void tlc_link_note_outcome(tlc_link_t *link, const tlc_link_slot_t *slot, bool arrived) {
    if (slot->bytes <= tlc_link_arm_bytes(link, slot->arm) / 2u) {
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
        const uint32_t bytes = tlc_link_arm_bytes(link, arm);
        if (arm && bytes == tlc_link_arm_bytes(link, arm - 1u)) {
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
uint8_t tlc_link_next_arm(tlc_link_t *link, uint32_t left) {
    if (link->arm == 0) {
        return 0;
    }
    if (link->probe + 1u < PROBE_EVERY) {
        link->probe++;
        return link->arm;
    }
    if (left <= tlc_link_arm_bytes(link, link->arm - 1u) / 2u) {
        return link->arm;
    }
    link->probe = 0;
    return (uint8_t)(link->arm - 1u);
}

/* The window is full: the line is idle from now on. */
void tlc_link_note_full(tlc_link_t *link, uint32_t now) {
    if (!link->is_shut) {
        link->is_shut = 1;
        link->shut_ms = now;
    }
}

/* How long the line stays idle with each frame because the window is full, as bytes of the line. A round trip well
 * above the least one is a queue before the line: then it is not idle. */
void tlc_link_note_sent(tlc_link_t *link, uint32_t now, const tlc_link_slot_t *slot) {
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
