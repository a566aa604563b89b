// SPDX-License-Identifier: Apache-2.0
//
// tlc_arduino_backoff.hpp: how long to wait before the next try: doubling from `base` to `cap`, half of it random
// ("equal jitter"), so that a hundred boards that lost one host do not come back in one instant.
#ifndef TLC_ARDUINO_BACKOFF_HPP
#define TLC_ARDUINO_BACKOFF_HPP

#include <stdint.h>

namespace tlc {

class Backoff {
  public:
    // Milliseconds; 2 <= base <= cap <= 2^31.
    Backoff(uint32_t base_ms, uint32_t cap_ms) : base_(base_ms), cap_(cap_ms) {}

    void seed(uint32_t entropy) { random_ ^= entropy; }
    // The wait after one more failure: in [limit / 2, limit], limit = min(cap, base * 2^failures).
    uint32_t next();
    // The peer answered: begin anew.
    void reset() { failures_ = 0; }
    uint32_t failures() const { return failures_; }

  private:
    uint32_t base_;
    uint32_t cap_;
    uint32_t failures_ = 0;
    uint32_t random_ = 0x9E3779B9u;
};

} // namespace tlc

#endif // TLC_ARDUINO_BACKOFF_HPP
