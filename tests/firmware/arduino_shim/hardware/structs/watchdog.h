// SPDX-License-Identifier: Apache-2.0
#ifndef TLC_SHIM_WATCHDOG_H
#define TLC_SHIM_WATCHDOG_H

#include <stdint.h>

struct ShimWatchdog {
    uint32_t reason;
};
extern ShimWatchdog shim_watchdog;
#define watchdog_hw (&shim_watchdog)

#endif // TLC_SHIM_WATCHDOG_H
