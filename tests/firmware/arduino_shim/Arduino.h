// SPDX-License-Identifier: Apache-2.0
//
// Arduino.h: as much of an Arduino core as the port and a generated project use. See README.md.
#ifndef TLC_SHIM_ARDUINO_H
#define TLC_SHIM_ARDUINO_H

#include <stddef.h>
#include <stdint.h>

#include "HardwareSerial.h"

#define LOW 0
#define HIGH 1
#define INPUT 0
#define OUTPUT 1

void setup();
void loop();

unsigned long millis();
unsigned long micros();
void delay(uint32_t milliseconds);
void yield();
void pinMode(uint8_t pin, uint8_t mode);
void digitalWrite(uint8_t pin, uint8_t level);

#if defined(ARDUINO_ARCH_ESP32)

#define LED_BUILTIN 2
// The size of the task that runs setup() and loop(); 8192 without it.
#define SET_LOOP_TASK_STACK_SIZE(bytes)                                                                                \
    size_t getArduinoLoopTaskStackSize() { return bytes; }
size_t getArduinoLoopTaskStackSize();
typedef void *TaskHandle_t;
// Bytes of the task's stack that were never in use.
uint32_t uxTaskGetStackHighWaterMark(TaskHandle_t task);

class EspClass {
  public:
    uint32_t getCycleCount();
    void restart();
};
extern EspClass ESP;

#elif defined(ARDUINO_ARCH_ESP8266)

#include "user_interface.h"

#define LED_BUILTIN 2

class EspClass {
  public:
    uint32_t getCycleCount();
    void restart();
    uint32_t random();
    uint32_t getMaxFreeBlockSize();
    // Bytes of the loop's stack, of 4096, that were never in use.
    uint32_t getFreeContStack();
    rst_info *getResetInfoPtr();
    bool flashEraseSector(uint32_t sector);
    bool flashWrite(uint32_t address, const uint8_t *bytes, size_t count);
    bool flashRead(uint32_t address, uint8_t *bytes, size_t count);
};
extern EspClass ESP;

#elif defined(ARDUINO_ARCH_MBED)

void NVIC_SystemReset();

#define LED_BUILTIN 25
#define A0 26
int analogRead(uint32_t pin);

#elif defined(ARDUINO_ARCH_STM32)

void NVIC_SystemReset();

#include "stm32_flash.h"

#define LED_BUILTIN 13
#define ATEMP 100
int analogRead(uint32_t pin);
uint32_t HAL_GetUIDw0();
uint32_t HAL_GetUIDw1();
uint32_t HAL_GetUIDw2();

// Why it started: as after power-on.
enum { RCC_FLAG_BORRST_, RCC_FLAG_PINRST, RCC_FLAG_PORRST_, RCC_FLAG_SFTRST, RCC_FLAG_IWDGRST, RCC_FLAG_WWDGRST };
#define RCC_FLAG_BORRST RCC_FLAG_BORRST_
#define RCC_FLAG_PORRST RCC_FLAG_PORRST_
bool shim_reset_flag(int flag);
#define __HAL_RCC_GET_FLAG(flag) shim_reset_flag(flag)
#define __HAL_RCC_CLEAR_RESET_FLAGS() ((void)0)

// The cycle counter of Cortex-M3 and above: it counts only once both bits are set.
struct CycleCount {
    operator uint32_t() const;
};
struct ShimDwt {
    uint32_t CTRL;
    uint32_t LAR; // Cortex-M7: closed without its key
    CycleCount CYCCNT;
};
struct ShimCoreDebug {
    uint32_t DEMCR;
};
extern ShimDwt shim_dwt;
extern ShimCoreDebug shim_core_debug;
#define DWT (&shim_dwt)
#define CoreDebug (&shim_core_debug)
#define DWT_CTRL_CYCCNTENA_Msk 1u
#define CoreDebug_DEMCR_TRCENA_Msk (1u << 24)

#if defined(STM32F7xx)
#define __CORTEX_M 7
// The hardware generator: a word is ready some cycles after it was switched on.
struct ShimRcc {
    uint32_t AHB2ENR;
};
struct RandomWord {
    operator uint32_t() const;
};
struct RandomReady {
    operator uint32_t() const;
};
struct ShimRng {
    uint32_t CR;
    RandomReady SR;
    RandomWord DR;
};
extern ShimRcc shim_rcc;
extern ShimRng shim_rng;
#define RCC (&shim_rcc)
#define RNG (&shim_rng)
#define RCC_AHB2ENR_RNGEN (1u << 6)
#define RNG_CR_RNGEN (1u << 2)
#define RNG_SR_DRDY 1u
void SCB_InvalidateDCache_by_Addr(uint32_t *from, int32_t bytes);
#endif

#else
#error "define ARDUINO_ARCH_ESP32, _ESP8266, _MBED or _STM32"
#endif

#endif // TLC_SHIM_ARDUINO_H
