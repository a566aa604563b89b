# SPDX-License-Identifier: Apache-2.0
"""Drivers of real chips' UARTs, their own C, against models of the peripherals (register_model.py): no emulator here has an
STM32F7's USART or an nRF52840's UARTE. The one of the STM32F4 also runs in QEMU (tests/hil, board qemu-stm32f4).
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from register_model import Driver, Nrf52840, Stm32, UsartV1, UsartV2

from tlc import boards

RING = 4096
CHIPS = {"renode-stm32f4-discovery": UsartV1, "renode-stm32f746": UsartV2, "renode-nano33ble": Nrf52840}


def make(name: str, directory: Path, model: UsartV1 | UsartV2 | Nrf52840 | None = None) -> Driver:
    board = boards.load(name)
    sources = [
        each
        for each in board.port_sources
        if each not in ("baremetal.c", "cortex_m.c", "memory_flash.c", "nrf_flash.c")
    ]
    driver = Driver(model or CHIPS[name](), directory / "driver", sources, board.platformio.build_flags)
    driver.init()
    return driver


@pytest.fixture(params=CHIPS)
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Driver:
    return make(request.param, tmp_path)


def test_bytes_come_while_it_computes(driver: Driver) -> None:
    data = random.Random(1).randbytes(3 * RING)
    got = b""
    for start in range(0, len(data), 1000):  # the ring turns round
        driver.come(data[start : start + 1000])
        assert driver.model.pending & driver.model.enabled == 0, "all were taken by the handler"
        got += driver.get(990)
    assert got + driver.get() == data and driver.get() == b""
    assert driver.model.taken >= len(data)


def test_a_full_ring_stops_and_goes_on(driver: Driver) -> None:
    """What finds no room stays in the UART, as long as that can hold it; what comes then is lost, and nothing else."""
    data = random.Random(2).randbytes(RING + 100)
    driver.come(data)
    handled = driver.model.taken
    driver.come(b"")
    assert driver.model.taken == handled, "the interrupt of a full ring does not come again and again"
    held = driver.get(1)
    rest = driver.get()
    held += rest
    in_uart = 1 + Nrf52840.FIFO if isinstance(driver.model, Nrf52840) else 1
    assert held == data[: RING + in_uart]
    driver.come(b"after")
    assert driver.get() == b"after"


@pytest.mark.parametrize("name", ["renode-stm32f4-discovery", "renode-stm32f746"])
def test_a_byte_that_comes_too_early_is_lost_alone(name: str, tmp_path: Path) -> None:
    """It comes after the look at the status and before the byte before it was taken: an error with no byte."""
    driver = make(name, tmp_path)
    driver.model.late = b"B"  # type: ignore[attr-defined]
    driver.come(b"A")
    driver.come(b"C")
    assert driver.get() == b"AC"


def test_it_sends(driver: Driver) -> None:
    data = random.Random(3).randbytes(300)
    driver.put(data)
    assert driver.model.sent == data  # type: ignore[attr-defined]


def test_it_sleeps_until_a_byte_or_four_milliseconds(driver: Driver) -> None:
    driver.sleep()
    assert driver.model.slept == [pytest.approx(4000, rel=1e-3)]
    driver.model.line.append(65)  # type: ignore[attr-defined]
    driver.sleep()
    assert driver.model.slept[1:] == ["line"] and driver.get() == b"A"
    driver.come(b"B")
    driver.sleep()
    assert len(driver.model.slept) == 2, "it does not sleep while a byte waits"
    assert driver.get() == b"B"
    driver.sleep()
    assert driver.model.slept[2:] == [pytest.approx(4000, rel=1e-3)]


def test_the_clock_is_right(driver: Driver) -> None:
    model = driver.model
    library = driver.library
    first_us, first = model.now_us, library.tlc_hw_nanos()
    ticks = library.tlc_hw_ticks()
    for _ in range(10):
        model.now_us += 3_000_000  # less than a turn of any of the timers
        library.tlc_hw_nanos()
    elapsed = (model.now_us - first_us) * 1000
    assert library.tlc_hw_nanos() - first == pytest.approx(elapsed, rel=1e-4)
    assert (library.tlc_hw_ticks() - ticks) % 2**64 == pytest.approx(elapsed / 1000 * model.core_mhz(), rel=1e-4)


def test_the_handler_is_not_in_the_ticks(driver: Driver) -> None:
    began, before = driver.model.now_us, driver.library.tlc_hw_ticks()
    driver.come(bytes(1000))
    told = (driver.library.tlc_hw_ticks() - before + 2**63) % 2**64 - 2**63
    passed = (driver.model.now_us - began) * driver.model.core_mhz()
    assert passed > 1000 and abs(told) < 0.6 * passed, (
        "the model's time passes when a timer is read: on the way in, too"
    )


@pytest.mark.parametrize("name", ["renode-stm32f4-discovery", "renode-stm32f746"])
@pytest.mark.parametrize("crystal", [True, False], ids=["crystal", "no crystal"])
def test_clock_tree_baud_and_pins(name: str, crystal: bool, tmp_path: Path) -> None:
    chip = CHIPS[name]
    model = chip() if crystal else chip(0)  # type: ignore[call-arg]
    assert isinstance(model, UsartV1 | UsartV2 | Stm32)
    driver = make(name, tmp_path, model)  # type: ignore[arg-type]
    assert model.core_mhz() == (boards.load(name).cpu.clock_hz / 1e6 if crystal else 16)
    assert model.baud() == pytest.approx(115_200, rel=0.01)  # type: ignore[attr-defined]
    pins = [(0x40020000, 9), (0x40020400, 7)] if name.endswith("746") else [(0x40020000, 2), (0x40020000, 3)]
    assert all(model.pin_is(*pin) for pin in pins)
    driver.come(b"hello")
    assert driver.get() == b"hello"


@pytest.mark.parametrize("name", ["renode-stm32f4-discovery", "renode-stm32f746"])
def test_flash_of_the_journal(name: str, tmp_path: Path) -> None:
    """The two last sectors, one by one; what is written clears bits, all else stays, and flash is locked afterwards."""
    driver = make(name, tmp_path)
    model = driver.model
    assert isinstance(model, Stm32)
    size, end = model.SECTOR_BYTES, len(model.flash)
    assert size == boards.load(name).memory.journal_sector_bytes or name.endswith("746")
    data = random.Random(4).randbytes(400)
    for start in (end - 2 * size, end - size):
        before = bytes(model.flash[: end - 2 * size])
        assert driver.erase(0x08000000 + start, size)
        assert model.flash[start : start + size] == b"\xff" * size
        assert driver.program(0x08000000 + start + 8, data)
        assert model.flash[start + 8 : start + 408] == data
        assert driver.program(0x08000000 + start + 8, bytes(400)), "a second time, over what is there"
        assert model.flash[start : start + 412] == b"\xff" * 8 + bytes(400) + b"\xff" * 4
        assert model.flash[: end - 2 * size] == before
    assert model.flash_control == 1 << 31
    assert model.registers[0x40023C00] == {"renode-stm32f746": 0x305}.get(name, 0x705), "the caches are on again"


def test_pins_and_baud_of_the_nano(tmp_path: Path) -> None:
    registers = make("renode-nano33ble", tmp_path).model.registers
    uarte = Nrf52840.UARTE
    assert registers[uarte + 0x50C] == 32 + 3 and registers[uarte + 0x514] == 32 + 10  # P1.03 and P1.10: D1 and D0
    assert registers[uarte + 0x524] * 16e6 / 2**32 == pytest.approx(115_200, rel=0.01)
    assert registers[0x40000000] == 1, "the crystal"
