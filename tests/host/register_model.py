# SPDX-License-Identifier: Apache-2.0
"""A driver of the bare-metal port as a library of this machine, over a model of its peripherals in Python.

The driver's C is the firmware's, its register accesses become calls (``TLC_REGISTER_MODEL``), and the model answers them as
the reference manual of the chip says: what reading and writing do, which flags rise and fall, when an interrupt is pending.
The models are small and ours. They are no silicon and no emulator; they find what a driver does in the wrong order.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections import deque
from pathlib import Path

from tlc import resources

__all__ = ["Core", "Driver", "Nrf52840", "Stm32", "UsartV1", "UsartV2"]

PORT = resources.firmware_dir() / "ports" / "baremetal"

SHIM = """
#include "tlc_baremetal.h"
static uint32_t (*on_read)(uintptr_t);
static void (*on_write)(uintptr_t, uintptr_t);
static void (*on_core)(int);
void model_is(uint32_t (*r)(uintptr_t), void (*w)(uintptr_t, uintptr_t), void (*c)(int));
void model_is(uint32_t (*r)(uintptr_t), void (*w)(uintptr_t, uintptr_t), void (*c)(int)) {
    on_read = r;
    on_write = w;
    on_core = c;
}
uint32_t tlc_read(uintptr_t address) { return on_read(address); }
void tlc_write(uintptr_t address, uintptr_t value) { on_write(address, value); }
void tlc_core_mask(void) { on_core(0); }
void tlc_core_unmask(void) { on_core(1); }
void tlc_core_wait(void) { on_core(2); }
"""

NVIC_ENABLE, NVIC_DISABLE, NVIC_PEND, NVIC_UNPEND = 0xE000E100, 0xE000E180, 0xE000E200, 0xE000E280
SYSTICK_CTRL, SYSTICK_LOAD, SCB_ICSR = 0xE000E010, 0xE000E014, 0xE000ED04


class Core:
    """Interrupts of a Cortex-M and its SysTick; a chip's model adds its peripherals.

    Attributes:
        registers: what was written where nothing else happens.
        taken: interrupts that the handler was called for.
        slept: how long the core waited, each time: microseconds, or "line" where an interrupt woke it.
    """

    def __init__(self) -> None:
        self.registers: dict[int, int] = {}
        self.masked, self.enabled, self.pending = True, 0, 0
        self.systick_pending = False
        self.taken = 0
        self.slept: list[float | str] = []
        self.now_us = 0.0
        self.in_handler = False
        self.driver: ctypes.CDLL | None = None

    def lines(self) -> int:
        """Interrupt lines that a peripheral holds high."""
        return 0

    def arrives(self) -> bool:
        """While the core waits: something comes from outside; False: nothing will."""
        return False

    def read(self, address: int) -> int:
        """A register."""
        return self.registers.get(address, 0)

    def write(self, address: int, value: int) -> None:
        """A register."""
        word = address & 0x7F
        shift = 32 * (word // 4)
        if NVIC_ENABLE <= address < NVIC_ENABLE + 0x20:
            self.enabled |= value << shift
        elif NVIC_DISABLE <= address < NVIC_DISABLE + 0x20:
            self.enabled &= ~(value << shift)
        elif NVIC_PEND <= address < NVIC_PEND + 0x20:
            self.pending |= value << shift
        elif NVIC_UNPEND <= address < NVIC_UNPEND + 0x20:
            self.pending &= ~(value << shift)
        elif address == SCB_ICSR and value & 1 << 25:
            self.systick_pending = False
        else:
            self.registers[address] = value
        self.serve()

    def serve(self) -> None:
        """Takes what is pending, if it may."""
        for _ in range(10_000):
            self.pending |= self.lines()
            if self.masked or self.in_handler:
                return
            assert not self.systick_pending, "SysTick's interrupt is taken, and it has no handler"
            if not self.pending & self.enabled:
                return
            assert not self.pending & self.enabled & ~self.handled(), "an interrupt is taken that only wakes"
            self.pending &= ~self.enabled
            self.taken += 1
            self.in_handler = True
            assert self.driver is not None
            self.driver.tlc_hw_interrupt()
            self.in_handler = False
        raise AssertionError("the interrupt comes again for ever")

    def handled(self) -> int:
        """Interrupts that the driver has a handler for."""
        raise NotImplementedError

    def timer_us(self) -> float | None:
        """How long until a timer wakes the core; None: none runs."""
        if self.registers.get(SYSTICK_CTRL, 0) & 3 == 3:
            return (self.registers[SYSTICK_LOAD] + 1) / self.core_mhz()
        return None

    def timer_fires(self) -> None:
        """Its interrupt is pending."""
        self.systick_pending = True

    def core_mhz(self) -> float:
        """The core's clock, as the registers set it."""
        raise NotImplementedError

    def control(self, what: int) -> None:
        """Mask, unmask, wait."""
        if what == 2:
            self.wait()
        else:
            self.masked = what == 0
            self.serve()

    def wait(self) -> None:
        """WFI: until an enabled interrupt is pending, masked or not."""
        self.pending |= self.lines()
        if self.pending & self.enabled or (self.arrives() and (self.pending | self.lines()) & self.enabled):
            self.pending |= self.lines()
            self.slept.append("line")
            return
        until = self.timer_us()
        assert until is not None, "the core sleeps, and nothing will wake it"
        self.now_us += until
        self.slept.append(until)
        self.timer_fires()


class Stm32(Core):
    """Clock tree, pins and TIM2 of an STM32F407 or STM32F746; its kind of USART is another class.

    Args:
        crystal_mhz: 0: it is not there.
    """

    def __init__(self, usart: int, interrupt: int, crystal_mhz: float) -> None:
        super().__init__()
        self.usart, self.interrupt, self.crystal_mhz = usart, interrupt, crystal_mhz
        self.line: deque[int] = deque()  # bytes on their way
        self.sent = bytearray()
        self.held: int | None = None  # the byte in the data register
        self.overrun = False
        self.flash = bytearray(b"\x55" * 0x100000)
        self.keys: list[int] = []
        self.flash_control, self.flash_busy = 1 << 31, 0
        self.late = b""  # comes between the look at the status and the taking of the byte

    def handled(self) -> int:
        return 1 << self.interrupt

    def sysclk(self) -> float:
        if self.registers.get(0x40023808, 0) & 3 != 2:
            return 16.0
        pll = self.registers[0x40023804]
        assert pll & 1 << 22, "the PLL is fed by the crystal"
        vco = self.crystal_mhz / (pll & 63) * (pll >> 6 & 511)
        assert 1 <= self.crystal_mhz / (pll & 63) <= 2 and 100 <= vco <= 432, "outside the PLL's limits"
        return vco / (2 + 2 * (pll >> 16 & 3))

    core_mhz = sysclk

    def bus(self, shift: int) -> float:
        divider = self.registers.get(0x40023808, 0) >> shift & 7
        return self.sysclk() / (1 << max(0, divider - 3))

    SECTOR_BYTES = 0x20000
    """Of sector 5 and above; what lies below is as much as one of these, in five."""

    def flash_erase(self) -> None:
        """The sector that the control register names, which must be one of the large ones."""
        sector = self.flash_control >> 3 & 15
        start = (sector - 4) * self.SECTOR_BYTES
        assert sector > 4 and start < len(self.flash), "no such sector, or one of the program's"
        self.flash[start : start + self.SECTOR_BYTES] = b"\xff" * self.SECTOR_BYTES
        self.flash_busy = 3

    def flash_program(self, offset: int, value: int) -> None:
        """A word: bits are cleared alone."""
        assert self.flash_control & 0x301 == 0x201 and not self.flash_control & 1 << 31, "not set up for words"
        assert not self.flash_busy, "the word before is still written"
        old = int.from_bytes(self.flash[offset : offset + 4], "little")
        self.flash[offset : offset + 4] = (old & value).to_bytes(4, "little")
        self.flash_busy = 2

    def read(self, address: int) -> int:
        if address == 0x40023C0C:
            self.flash_busy -= self.flash_busy > 0
            return 1 << 16 if self.flash_busy else 0
        if address == 0x40023C10:
            return self.flash_control
        if address == 0x40023800:
            on = self.registers.get(address, 0x83)
            ready = (on & 1 << 16 and self.crystal_mhz) and 1 << 17
            return on | int(ready or 0) | (on & 1 << 24) << 1
        if address == 0x40023808:
            value = super().read(address)
            return value | (value & 3) << 2
        if address == 0x40000024:
            self.now_us += 0.05
            apb = self.bus(10)
            return int(self.now_us * (apb if apb == self.sysclk() else 2 * apb)) & 0xFFFFFFFF
        return super().read(address)

    def write(self, address: int, value: int) -> None:
        if 0x08000000 <= address < 0x08000000 + len(self.flash):
            self.flash_program(address - 0x08000000, value & 0xFFFFFFFF)
            return
        if address == 0x40023C04:
            self.keys.append(value)
            if self.keys[-2:] == [0x45670123, 0xCDEF89AB]:
                self.flash_control &= ~(1 << 31)
        elif address == 0x40023C10:
            assert value == 1 << 31 or not self.flash_control & 1 << 31, "flash is locked"
            self.flash_control = value
            if value & 1 << 16:
                assert value & 2 and not self.flash_busy
                self.flash_erase()
        super().write(address, value)
        if address == 0x40023808 and value & 3 == 2:
            assert self.registers[0x40023C00] & 15 >= (self.sysclk() - 1) // 30, "flash is too slow for this clock"
            assert self.bus(10) <= 45 and self.bus(13) <= 90, "a bus is too fast"
            assert self.sysclk() <= 180

    def pin_is(self, port: int, number: int) -> bool:
        """Alternate function 7, its port clocked."""
        function = self.registers.get(port + 0x20 + 4 * (number // 8), 0) >> 4 * (number % 8) & 15
        clocked = self.registers.get(0x40023830, 0) >> (port - 0x40020000) // 0x400 & 1
        return bool(clocked) and function == 7 and self.registers.get(port, 0) >> 2 * number & 3 == 2

    def arrives(self) -> bool:
        """The next byte of the line is in the data register; one that was not taken is lost with it, as on the chip."""
        if not self.line or not self.receiving():
            return False
        if self.held is not None:
            self.overrun = True  # the old one stays, the new one is lost
            self.line.popleft()
        else:
            self.held = self.line.popleft()
        self.pending |= self.lines()
        return True

    def come(self, data: bytes) -> None:
        """Bytes arrive, one after another, while the program computes."""
        for byte in data:
            self.line.append(byte)
            self.arrives()
            self.serve()

    def looked(self) -> int:
        """The status: a byte waits, transmitter empty, overrun; then what is late arrives."""
        status = 0xC0 | (self.held is not None) << 5 | self.overrun << 3
        if self.held is not None and self.late:
            late, self.late = self.late, b""
            self.line.extend(late)
            self.arrives()
        return status

    def receiving(self) -> bool:
        raise NotImplementedError

    def take(self) -> int:
        byte, self.held = self.held or 0, None
        return byte


class UsartV1(Stm32):
    """RM0090, 30.6: reading the status and then the data clears the errors."""

    def __init__(self, crystal_mhz: float = 8) -> None:
        super().__init__(0x40004400, 38, crystal_mhz)
        self.overrun_seen = False

    def receiving(self) -> bool:
        return self.registers.get(self.usart + 0x0C, 0) & 0x2004 == 0x2004

    def lines(self) -> int:
        control = self.registers.get(self.usart + 0x0C, 0)
        return (control >> 5 & 1 and (self.held is not None or self.overrun) and 1) << self.interrupt

    def read(self, address: int) -> int:
        if address == self.usart:
            status = self.looked()
            self.overrun_seen = bool(status & 8)
            return status
        if address == self.usart + 4:
            if self.overrun_seen:
                self.overrun, self.overrun_seen = False, False
            return self.take()
        return super().read(address)

    def write(self, address: int, value: int) -> None:
        super().write(address, value)
        if address == self.usart + 4:
            assert self.registers[self.usart + 0x0C] & 0x2008 == 0x2008
            self.sent.append(value)

    def baud(self) -> float:
        return self.bus(10) * 1e6 / self.registers[self.usart + 8]


class UsartV2(Stm32):
    """RM0385, 31.8: errors are cleared by a register of their own."""

    SECTOR_BYTES = 0x40000

    def __init__(self, crystal_mhz: float = 25) -> None:
        super().__init__(0x40011000, 37, crystal_mhz)

    def receiving(self) -> bool:
        return self.registers.get(self.usart, 0) & 5 == 5

    def lines(self) -> int:
        control = self.registers.get(self.usart, 0)
        return (control >> 5 & 1 and (self.held is not None or self.overrun) and 1) << self.interrupt

    def read(self, address: int) -> int:
        if address == self.usart + 0x1C:
            return self.looked()
        if address == self.usart + 0x24:
            return self.take()
        return super().read(address)

    def write(self, address: int, value: int) -> None:
        if address == self.usart + 0x0C:
            assert not self.registers.get(self.usart, 0) & 1, "the baud rate is set while the USART is on"
        if address == self.usart + 0x20 and value & 8:
            self.overrun = False
        super().write(address, value)
        if address == self.usart + 0x28:
            assert self.registers[self.usart] & 9 == 9
            self.sent.append(value)

    def baud(self) -> float:
        return self.bus(13) * 1e6 / self.registers[self.usart + 0x0C]


class Nrf52840(Core):
    """PS 1.7: UARTE0 with a FIFO of six bytes before its DMA, TIMER0 and TIMER1."""

    UARTE, FIFO = 0x40002000, 6

    def __init__(self) -> None:
        super().__init__()
        self.fifo: deque[int] = deque()
        self.line: deque[int] = deque()
        self.sent = bytearray()
        self.lost = 0
        self.running = False  # a transfer from line to RAM
        self.events: dict[int, int] = {}
        self.captured = 0

    def handled(self) -> int:
        return 1 << 2

    def core_mhz(self) -> float:
        return 64.0

    def lines(self) -> int:
        ended = self.events.get(0x110, 0) and self.registers.get(self.UARTE + 0x304, 0) & 1 << 4
        wakes = self.events.get(0x9140, 0) and self.registers.get(0x40009304, 0) & 1 << 16
        return (1 << 2 if ended else 0) | (1 << 9 if wakes else 0)

    def timer_us(self) -> float | None:
        return self.registers[0x40009540] / 16 if self.registers.get(0x40009000) else None

    def timer_fires(self) -> None:
        self.events[0x9140] = 1
        self.pending |= self.lines()

    def read(self, address: int) -> int:
        if address == 0x40000100:
            return self.registers.get(0x40000000, 0)  # the crystal runs when it was started
        if address in (self.UARTE + 0x110, self.UARTE + 0x120):
            return self.events.get(address - self.UARTE, 0)
        if address == 0x40009140:
            return self.events.get(0x9140, 0)
        if address == 0x40008540:
            return self.captured
        return super().read(address)

    def write(self, address: int, value: int) -> None:
        offset = address - self.UARTE
        if offset in (0x110, 0x120):
            self.events[offset] = value
            self.pending &= ~(1 << 2)
        elif address == 0x40009140:
            self.events[0x9140] = value
        elif address == 0x40008040:
            self.now_us += 0.1
            self.captured = int(self.now_us * 16) & 0xFFFFFFFF
        elif address == 0x40009004:
            self.registers[0x40009000] = 0
        elif offset == 0x000:
            assert (
                self.registers[self.UARTE + 0x500] == 8 and not self.running and self.registers[self.UARTE + 0x538] == 1
            )
            assert not self.events.get(0x110), "a transfer is started whose last end was not seen to"
            self.running = True
            self.move()
        elif offset == 0x008:
            assert self.registers[self.UARTE + 0x500] == 8
            count = self.registers[self.UARTE + 0x548]
            self.sent += ctypes.string_at(self.registers[self.UARTE + 0x544], count)
            self.events[0x120] = 1
        else:
            self.registers[address] = value
        super().write(0, 0)
        if 0xE000E000 <= address < 0xE000F000:
            super().write(address, value)

    def move(self) -> None:
        """DMA takes a byte from the FIFO, and its transfer ends."""
        if self.running and self.fifo:
            ctypes.memset(self.registers[self.UARTE + 0x534], self.fifo.popleft(), 1)
            self.running = False
            self.events[0x110] = 1
            self.pending |= self.lines()

    def arrives(self) -> bool:
        if not self.line:
            return False
        if len(self.fifo) == self.FIFO:
            self.lost += 1
            self.line.popleft()
        else:
            self.fifo.append(self.line.popleft())
        self.move()
        return True

    def come(self, data: bytes) -> None:
        """Bytes arrive, one after another, while the program computes."""
        for byte in data:
            self.line.append(byte)
            self.arrives()
            self.serve()


class Driver:
    """A driver over a model.

    Args:
        directory: for the library; one a driver, since a library keeps its variables.
        sources: files of the port.
        flags: as of the board file.
    """

    def __init__(self, model: Core, directory: Path, sources: list[str], flags: list[str]) -> None:
        directory.mkdir(parents=True)
        (directory / "shim.c").write_text(SHIM)
        include = [f"-I{PORT}", f"-I{resources.firmware_dir() / 'include'}"]
        compiler = shutil.which("cc") or "gcc"
        library = directory / "driver.so"
        command = [
            compiler,
            "-std=c99",
            "-O1",
            "-fPIC",
            "-shared",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-DTLC_REGISTER_MODEL",
        ]
        files = [str(directory / "shim.c"), *(str(PORT / name) for name in sources)]
        subprocess.run([*command, *flags, *include, *files, "-o", str(library)], check=True)
        self.library = ctypes.CDLL(str(library))
        for name in ("tlc_uart_get", "tlc_uart_put", "tlc_hw_flash_erase", "tlc_hw_flash_write"):
            if hasattr(self.library, name):
                getattr(self.library, name).restype = ctypes.c_bool
        for name in ("tlc_hw_nanos", "tlc_hw_ticks"):
            getattr(self.library, name).restype = ctypes.c_uint64
        read = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_size_t)(self._guarded(model.read, 0))
        write = ctypes.CFUNCTYPE(None, ctypes.c_size_t, ctypes.c_size_t)(self._guarded(model.write, None))
        core = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._guarded(model.control, None))
        self.wrong: list[BaseException] = []
        self._kept = (read, write, core)
        self.library.model_is(*self._kept)
        self.model = model
        model.driver = self.library

    def _guarded(self, function, otherwise):  # type: ignore[no-untyped-def]
        """An exception cannot pass through C: it is kept, and raised by the next call from here."""

        def call(*arguments: int) -> object:
            try:
                return function(*arguments)
            except BaseException as error:
                self.wrong.append(error)
                return otherwise

        return call

    def _check(self) -> None:
        if self.wrong:
            raise self.wrong[0]

    def init(self) -> None:
        """The board starts."""
        self.library.tlc_hw_init()
        self._check()

    def come(self, data: bytes) -> None:
        """Bytes come over the line while the program does something else."""
        self.model.come(data)  # type: ignore[attr-defined]
        self._check()

    def get(self, most: int = 1 << 30) -> bytes:
        """What the program gets."""
        byte, found = ctypes.c_uint8(), bytearray()
        while len(found) < most and self.library.tlc_uart_get(ctypes.byref(byte)):
            found.append(byte.value)
        self._check()
        return bytes(found)

    def put(self, data: bytes) -> None:
        """The program sends."""
        for byte in data:
            assert self.library.tlc_uart_put(byte)
        self._check()

    def erase(self, at: int, count: int) -> bool:
        """Whole sectors of flash."""
        good = bool(self.library.tlc_hw_flash_erase(ctypes.c_void_p(at), ctypes.c_uint32(count)))
        self._check()
        return good

    def program(self, at: int, data: bytes) -> bool:
        """Words of flash."""
        good = bool(self.library.tlc_hw_flash_write(ctypes.c_void_p(at), data, ctypes.c_uint32(len(data))))
        self._check()
        return good

    def sleep(self) -> None:
        """The main loop has nothing to do."""
        self.library.tlc_hw_sleep()
        self._check()
