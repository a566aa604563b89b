// SPDX-License-Identifier: Apache-2.0
#ifndef TLC_SHIM_MBED_H
#define TLC_SHIM_MBED_H

#include <stdint.h>

#if defined(TARGET_NRF52840)

// The generator: a byte is there once it was started and asked for.
struct ShimRngReady {
    ShimRngReady &operator=(uint32_t) { return *this; }
    operator uint32_t() const;
};
struct ShimRngByte {
    operator uint32_t() const;
};
struct ShimNrfRng {
    uint32_t CONFIG, TASKS_START, TASKS_STOP;
    ShimRngReady EVENTS_VALRDY;
    ShimRngByte VALUE;
};
extern ShimNrfRng shim_nrf_rng;
#define NRF_RNG (&shim_nrf_rng)

// Ones that are written clear. At first what the setting TLC_SHIM_RESET says; 0, power on, without it.
struct ShimResetFlags {
    ShimResetFlags &operator=(uint32_t ones);
    operator uint32_t() const;
};
struct ShimNrfPower {
    ShimResetFlags RESETREAS;
};
extern ShimNrfPower shim_nrf_power;
#define NRF_POWER (&shim_nrf_power)

#endif

#endif // TLC_SHIM_MBED_H
