/* SPDX-License-Identifier: Apache-2.0
 *
 * port.h: the few things that the runtime needs from a board. A port fills in one tlc_port_t;
 * `self` is handed back to every call, so one process can hold many devices.
 */
#ifndef TLC_PORT_H
#define TLC_PORT_H

#include <stddef.h>
#include <stdint.h>

typedef struct tlc_port {
    /* Takes up to `capacity` received bytes, at once; returns how many (0: none waiting). */
    size_t (*read)(void *self, uint8_t *bytes, size_t capacity);
    /* Hands over up to `count` bytes for sending, at once; returns how many were taken. */
    size_t (*write)(void *self, const uint8_t *bytes, size_t count);
    /* Milliseconds since some fixed moment; wraps at 2^32. */
    uint32_t (*millis)(void *self);
    /* A free-running counter for measurements: instructions on an emulator, cycles on silicon. */
    uint64_t (*ticks)(void *self);
    /* Called between layers and while waiting: feed the watchdog, let other tasks run. May be NULL. */
    void (*yield)(void *self);
    /* 32 bits that differ from boot to boot (a session number; no secret depends on it). */
    uint32_t (*entropy)(void *self);
    void *self;
} tlc_port_t;

#endif /* TLC_PORT_H */
