// SPDX-License-Identifier: Apache-2.0
#ifndef TLC_SHIM_ESPMDNS_H
#define TLC_SHIM_ESPMDNS_H

#include <string>
#include <utility>
#include <vector>

#include "IPAddress.h"

// What the file TLC_SHIM_MDNS lists: an address and a port a line, each a host that announces _tlc._tcp.
class MDNSResponder {
  public:
    bool begin(const char *name);
    int queryService(const char *service, const char *protocol);
    IPAddress queryHost(const char *name);
    IPAddress IP(int index) const { return found_[static_cast<size_t>(index)].first; }
    uint16_t port(int index) const { return found_[static_cast<size_t>(index)].second; }

  private:
    std::string name_;
    std::vector<std::pair<IPAddress, uint16_t>> found_;
};

extern MDNSResponder MDNS;

#endif // TLC_SHIM_ESPMDNS_H
