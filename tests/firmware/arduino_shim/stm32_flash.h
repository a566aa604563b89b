// SPDX-License-Identifier: Apache-2.0
//
// stm32_flash.h: the HAL's flash driver of an STM32F4 with 512 KiB, an STM32F7 with 1 MiB: sectors 6 and 7, at their
// true addresses.
#ifndef TLC_SHIM_STM32_FLASH_H
#define TLC_SHIM_STM32_FLASH_H

#include <stdint.h>

#if defined(STM32F7xx)
#define FLASH_END 0x080FFFFFU
#else
#define FLASH_END 0x0807FFFFUL
#endif
#define FLASH_TYPEERASE_SECTORS 0u
#define FLASH_VOLTAGE_RANGE_3 2u
#define FLASH_TYPEPROGRAM_WORD 2u

typedef enum { HAL_OK = 0, HAL_ERROR = 1 } HAL_StatusTypeDef;

typedef struct {
    uint32_t TypeErase, Banks, Sector, NbSectors, VoltageRange;
} FLASH_EraseInitTypeDef;

HAL_StatusTypeDef HAL_FLASH_Unlock();
HAL_StatusTypeDef HAL_FLASH_Lock();
HAL_StatusTypeDef HAL_FLASHEx_Erase(FLASH_EraseInitTypeDef *erase, uint32_t *failed);
HAL_StatusTypeDef HAL_FLASH_Program(uint32_t type, uint32_t address, uint64_t data);

#endif // TLC_SHIM_STM32_FLASH_H
