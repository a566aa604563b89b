// SPDX-License-Identifier: Apache-2.0
#ifndef TLC_SHIM_IP_ADDRESS_H
#define TLC_SHIM_IP_ADDRESS_H

#include "Print.h"

class IPAddress : public Printable {
  public:
    IPAddress() = default;
    // In network byte order, as the real one holds it.
    explicit IPAddress(uint32_t address) : address_(address) {}
    bool fromString(const char *text);
    operator uint32_t() const { return address_; }
    size_t printTo(Print &out) const override;

  private:
    uint32_t address_ = 0;
};

#endif // TLC_SHIM_IP_ADDRESS_H
