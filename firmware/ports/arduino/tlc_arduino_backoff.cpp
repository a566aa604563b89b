// SPDX-License-Identifier: Apache-2.0
#include "tlc_arduino_backoff.hpp"

namespace tlc {

uint32_t Backoff::next() {
    uint32_t limit = base_;
    for (uint32_t i = 0; i < failures_ && limit < cap_; i++) {
        limit *= 2u; // below 2^32: limit < cap <= 2^31
    }
    limit = limit < cap_ ? limit : cap_;
    failures_++;
    if (random_ == 0) {
        random_ = 1; // the one state that xorshift never leaves
    }
    random_ ^= random_ << 13; // Marsaglia's xorshift32
    random_ ^= random_ >> 17;
    random_ ^= random_ << 5;
    const uint32_t half = limit / 2u;
    return half + random_ % (limit - half + 1u);
}

} // namespace tlc
