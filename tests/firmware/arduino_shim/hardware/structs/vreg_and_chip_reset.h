// SPDX-License-Identifier: Apache-2.0
#ifndef TLC_SHIM_CHIP_RESET_H
#define TLC_SHIM_CHIP_RESET_H

#include <stdint.h>

// What the setting TLC_SHIM_RESET says; power on without it.
struct ShimChipReset {
    operator uint32_t() const;
};
struct ShimVreg {
    ShimChipReset chip_reset;
};
extern ShimVreg shim_vreg;
#define vreg_and_chip_reset_hw (&shim_vreg)

#endif // TLC_SHIM_CHIP_RESET_H
