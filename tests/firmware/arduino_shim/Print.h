// SPDX-License-Identifier: Apache-2.0
#ifndef TLC_SHIM_PRINT_H
#define TLC_SHIM_PRINT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

class Print;

class Printable {
  public:
    virtual size_t printTo(Print &out) const = 0;

  protected:
    ~Printable() = default;
};

class Print {
  public:
    virtual size_t write(uint8_t byte) = 0;
    virtual size_t write(const uint8_t *bytes, size_t count) = 0;
    size_t write(const char *text) { return write(reinterpret_cast<const uint8_t *>(text), strlen(text)); }
    virtual int availableForWrite() { return 0; }
    virtual void flush() {}

    size_t print(const char *text) { return write(text); }
    size_t print(unsigned value) { return print(static_cast<unsigned long>(value)); }
    size_t print(int value) { return print(static_cast<long>(value)); }
    size_t print(unsigned long value);
    size_t print(long value);
    size_t print(const Printable &value) { return value.printTo(*this); }
    size_t println() { return write("\r\n"); }
    template <class Value> size_t println(const Value &value) {
        const size_t count = print(value);
        return count + println();
    }

  protected:
    ~Print() = default;
};

#endif // TLC_SHIM_PRINT_H
