// SPDX-License-Identifier: Apache-2.0
#ifndef TLC_SHIM_STREAM_H
#define TLC_SHIM_STREAM_H

#include "Print.h"

class Stream : public Print {
  public:
    virtual int available() = 0;
    virtual int read() = 0;
    // Waits up to the time-out (1 s) for all of them, as the real one.
    virtual size_t readBytes(char *bytes, size_t count) = 0;

  protected:
    ~Stream() = default;
};

#endif // TLC_SHIM_STREAM_H
