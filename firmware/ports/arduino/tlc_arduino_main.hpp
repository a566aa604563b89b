// SPDX-License-Identifier: Apache-2.0
//
// tlc_arduino_main.hpp: the whole of a generated src/main.cpp but for setup() and loop(). For that one file only: it
// defines the link, the memory and the application from what stands before it:
//
//     tlc_arduino_app.hpp, so that no name of tlc_config.h meets one of the runtime's headers
//     tlc_config.h    TLC_BOARD                the board's name, a string
//                     TLC_TRANSPORT_UART 1     or TLC_TRANSPORT_WIFI 1
//                     where the model learns: TLC_JOURNAL_SLOT_BYTES, TLC_SAVE_EVERY, TLC_MAX_GRADIENT
//                     and, where the default will not do, what is listed below
//     tlc_secrets.h   with Wi-Fi: who and where (see tlc_secrets.example.h)
//     tlc_model.h     the model; app.h: the two hooks
#ifndef TLC_ARDUINO_MAIN_HPP
#define TLC_ARDUINO_MAIN_HPP

#if !defined(TLC_BOARD)
#error "tlc_config.h must come first and define TLC_BOARD"
#endif
#if defined(TLC_TRANSPORT_UART) == defined(TLC_TRANSPORT_WIFI)
#error "tlc_config.h must define one of TLC_TRANSPORT_UART and TLC_TRANSPORT_WIFI"
#endif

#include "tlc_arduino_app.hpp"
extern "C" {
#include "tlc/board.h"
}
#include "tlc_arduino_flash.hpp"
#include "tlc_arduino_panic.hpp"
#include "tlc_arduino_serial.hpp"
#if defined(TLC_TRANSPORT_WIFI)
#include "tlc_arduino_fallback.hpp"
#include "tlc_arduino_wifi.hpp"
#endif

#ifndef TLC_UART
#define TLC_UART Serial // the serial line: the link, or with Wi-Fi the console, and the link while there is no Wi-Fi
#endif
#ifndef TLC_UART_BAUD
#define TLC_UART_BAUD 115200
#endif
#ifndef TLC_UART_RX_BUFFER
#define TLC_UART_RX_BUFFER 4096 // bytes that may wait while a layer computes
#endif
#ifndef TLC_LINK_FRAGMENT
#define TLC_LINK_FRAGMENT 256 // largest payload of a frame
#endif
#ifndef TLC_LINK_WINDOW
#define TLC_LINK_WINDOW 8 // our frames on their way
#endif
#ifndef TLC_LINK_PEER_WINDOW
#define TLC_LINK_PEER_WINDOW 8 // the host's frames on their way
#endif
#ifndef TLC_ARENA_ON_HEAP
#define TLC_ARENA_ON_HEAP 0 // 1: the arena is too large for a static array of this board
#endif
#ifndef TLC_MESSAGE_BYTES
#define TLC_MESSAGE_BYTES 0 // a tensor can be received while the model runs
#endif
#ifndef TLC_OUTPUT_BYTES
#define TLC_OUTPUT_BYTES 0 // outputs are sent while the model runs again
#endif
#ifndef TLC_VALUES_BYTES
#define TLC_VALUES_BYTES 0 // float values of the hooks; 0: the arena serves
#endif
#ifndef TLC_WHOLE_MODEL
#define TLC_WHOLE_MODEL false // true: the whole model is on the device
#endif
#ifndef TLC_LOOP_STACK
#define TLC_LOOP_STACK 8192 // ESP32: stack of the task that runs setup() and loop()
#endif
#ifndef TLC_LED_PIN
#if defined(LED_BUILTIN)
#define TLC_LED_PIN LED_BUILTIN
#else
#define TLC_LED_PIN (-1)
#endif
#endif

namespace tlc {
namespace detail {

constexpr Layout layout = {TLC_MODEL_ARENA_BYTES, TLC_MODEL_STATE_BYTES, TLC_MESSAGE_BYTES, TLC_OUTPUT_BYTES,
                           TLC_VALUES_BYTES};

#if defined(TLC_TRANSPORT_UART)
// TCP loses nothing; a serial line does.
static_assert(TLC_UART_RX_BUFFER >= TLC_LINK_PEER_WINDOW * TLC_LINK_FRAME_OUT(TLC_LINK_FRAGMENT),
              "TLC_UART_RX_BUFFER does not hold TLC_LINK_PEER_WINDOW frames of TLC_LINK_FRAGMENT bytes: enlarge it");
static_assert(TLC_UART_RX_BUFFER > 128, "the ESP32's driver refuses a TLC_UART_RX_BUFFER of 128 bytes and less");
#if defined(ARDUINO_ARCH_STM32)
static_assert(SERIAL_RX_BUFFER_SIZE >= TLC_UART_RX_BUFFER,
              "platformio.ini must say build_flags = -DSERIAL_RX_BUFFER_SIZE=<TLC_UART_RX_BUFFER>");
#endif
#endif

inline SerialLink<decltype(TLC_UART)> &serial() {
    static SerialLink<decltype(TLC_UART)> link(TLC_UART, TLC_UART_BAUD, TLC_UART_RX_BUFFER);
    return link;
}

#if defined(TLC_TRANSPORT_WIFI)
inline Console &console() {
    static Console instance(TLC_UART);
    return instance;
}

inline Link &line() {
    static WifiLink wifi(WifiSettings(TLC_WIFI_SSID, TLC_WIFI_PASSWORD, TLC_WIFI_CHANNEL, TLC_HOST, TLC_HOST_PORT),
                         &console());
    static FallbackLink link(wifi, serial(), console());
    return link;
}
#else
inline Print &console() { return TLC_UART; }

inline Link &line() { return serial(); }
#endif

inline Application &application() {
    static Application instance(line(), console());
    return instance;
}

} // namespace detail
} // namespace tlc

// From setup(). `app` is handed to the hooks.
inline void tlc_arduino_setup(void *app) {
#if !TLC_ARENA_ON_HEAP
    alignas(16) static uint8_t memory[tlc::detail::layout.bytes()];
#else
    uint8_t *const memory = nullptr;
#endif
    static uint32_t layer_ticks[TLC_MODEL_LAYERS];
    static uint32_t link_memory[(TLC_LINK_MEMORY(TLC_LINK_WINDOW, TLC_LINK_FRAGMENT) + 3u) / 4u];
    tlc::Settings settings = {};
    tlc_device_defaults(&settings.device);
    settings.device.model = &tlc_model;
    settings.device.board = TLC_BOARD;
    settings.device.link_memory = link_memory;
    settings.device.link_memory_bytes = sizeof link_memory;
    settings.device.fragment = TLC_LINK_FRAGMENT;
    settings.device.window = TLC_LINK_WINDOW;
    settings.device.peer_window = TLC_LINK_PEER_WINDOW;
    settings.device.layer_ticks = layer_ticks;
    settings.device.standalone = TLC_WHOLE_MODEL;
    settings.device.sample = tlc_app_sample;
    settings.device.result = tlc_app_result;
    settings.device.app = app;
#if defined(TLC_JOURNAL_SLOT_BYTES)
    settings.device.keeper = &tlc_keeper;
    settings.device.storage = tlc::storage(TLC_JOURNAL_SLOT_BYTES);
    settings.device.save_every = TLC_SAVE_EVERY;
    settings.device.max_gradient = TLC_MAX_GRADIENT;
#ifdef TLC_LEARN_RATE
    static const tlc_learning_t learning = TLC_LEARNING;
    settings.device.learning = &learning;
#endif
#endif
    settings.layout = tlc::detail::layout;
    settings.memory = memory;
    settings.loop_stack = TLC_LOOP_STACK;
    settings.led = TLC_LED_PIN;
    tlc::detail::application().setup(settings);
}

// For the application and its hooks (tlc/board.h), from setup()'s end on.
extern "C" void tlc_board_panic(const char *what) {
    tlc::panic(tlc::detail::line(), what, __builtin_return_address(0));
}

// From loop().
inline void tlc_arduino_loop() { tlc::detail::application().loop(); }

#endif // TLC_ARDUINO_MAIN_HPP
