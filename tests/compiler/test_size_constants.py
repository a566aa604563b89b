# SPDX-License-Identifier: Apache-2.0
"""``tlc size`` where constants take RAM: an image laid out as the ESP8266's linker script does, its parts made up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from tlc import boards
from tlc.image import Image, Piece, Section, Symbol
from tlc.size import Row, _ram_rows
from tlc.stack import StackBound

OURS = ".pio/build/esp8266/"
WEIGHTS, TABLES, ARENA = 1000, 24, 512
PROMISE = SimpleNamespace(
    packed_bytes=WEIGHTS, table_bytes=TABLES, arena_bytes=ARENA, state_bytes=0, values_bytes=0, link_bytes=100,
    sdk_ram_budget=400, stack_bytes=4096, ram_bytes=WEIGHTS + TABLES + ARENA + 100 + 400 + 4096,
)  # fmt: skip
IMAGE = Image(
    Path("firmware.elf"), Path("project"), "EM_XTENSA", 4, 0x40100000,
    (
        Section(".data", 0x3FFE8000, 40, True, True, False),
        Section(".rodata", 0x3FFE8100, WEIGHTS + TABLES + 200, True, False, False),
        Section(".bss", 0x3FFEA000, ARENA + 100, False, True, False),
        Section(".irom0.text", 0x40201010, 9000, True, False, True),  # code, in flash alone
    ),
    (
        Piece(".rodata", 0x3FFE8100, WEIGHTS + TABLES, f"{OURS}libtlc_model.a(tlc_weights.c.o)"),
        Piece(".rodata", 0x3FFE8600, 200, "libcore.a(cbuf.cpp.o)"),
        Piece(".bss", 0x3FFEA000, ARENA, f"{OURS}src/main.cpp.o"),
        Piece(".bss", 0x3FFEA200, 100, f"{OURS}src/main.cpp.o"),
        Piece(".irom0.text", 0x40201010, 9000, "libcore.a(main.cpp.o)"),
    ),
    (
        Symbol("_ZZ19tlc_arduino_setupPvE6memory", 0x3FFEA000, ARENA, "object"),
        Symbol("_ZZ19tlc_arduino_setupPvE11link_memory", 0x3FFEA200, 100, "object"),
    ),
)  # fmt: skip


def rows(board: boards.Board) -> dict[str, Row]:
    bundle = SimpleNamespace(certificate=PROMISE)
    return {row.what: row for row in _ram_rows(IMAGE, bundle, board, StackBound(None))}  # type: ignore[arg-type]


def test_constants_are_in_ram_too() -> None:
    found = rows(boards.load("esp8266"))
    assert found["weights and tables"].elf == found["weights and tables"].promise == WEIGHTS + TABLES
    assert found["port, SDK and libc"].elf == 40 + 200  # the core's own constants among them
    assert found["total"].elf == 40 + 200 + WEIGHTS + TABLES + ARENA + 100 + 4096
    assert all(row.fits for row in found.values())


def test_not_on_other_boards() -> None:
    board = boards.load("esp8266")
    memory = board.memory.model_copy(update={"constants_in_ram": False})
    found = rows(board.model_copy(update={"memory": memory}))
    assert "weights and tables" not in found and found["port, SDK and libc"].elf == 40


def test_more_than_was_promised() -> None:
    image = replace(IMAGE, sections=(*IMAGE.sections[:1], replace(IMAGE.sections[1], size=5000), *IMAGE.sections[2:]))
    bundle = SimpleNamespace(certificate=PROMISE)
    found = {r.what: r for r in _ram_rows(image, bundle, boards.load("esp8266"), StackBound(None))}  # type: ignore[arg-type]
    assert not found["port, SDK and libc"].fits and not found["total"].fits
