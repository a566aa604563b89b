// SPDX-License-Identifier: Apache-2.0
#ifndef TLC_SHIM_ROSC_H
#define TLC_SHIM_ROSC_H

#include <stdint.h>

struct ShimRandomBit {
    operator uint32_t() const;
};
struct ShimRosc {
    ShimRandomBit randombit;
};
extern ShimRosc shim_rosc;
#define rosc_hw (&shim_rosc)

#endif // TLC_SHIM_ROSC_H
