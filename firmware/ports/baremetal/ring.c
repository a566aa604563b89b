/* SPDX-License-Identifier: Apache-2.0
 *
 * ring.c: bytes from an interrupt handler to the main loop. One side puts, the other takes; each writes its own count.
 */
#include "tlc_baremetal.h"

#define MASK (TLC_RING_BYTES - 1u)

bool tlc_ring_full(const tlc_ring_t *ring) { return ring->put - ring->taken == TLC_RING_BYTES; }

bool tlc_ring_empty(const tlc_ring_t *ring) { return ring->put == ring->taken; }

/* The byte first, then the count that tells of it: one core, so the compiler alone must keep the order. */
void tlc_ring_put(tlc_ring_t *ring, uint8_t byte) {
    ring->bytes[ring->put & MASK] = byte;
    __asm__ volatile("" ::: "memory");
    ring->put = ring->put + 1u;
}

bool tlc_ring_take(tlc_ring_t *ring, uint8_t *byte) {
    if (tlc_ring_empty(ring)) {
        return false;
    }
    *byte = ring->bytes[ring->taken & MASK];
    __asm__ volatile("" ::: "memory");
    ring->taken = ring->taken + 1u;
    return true;
}
