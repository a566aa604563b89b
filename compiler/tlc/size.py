# SPDX-License-Identifier: Apache-2.0
"""``tlc size``: what the bundle promises, against what the linker made of it.

Weights, tables, arena, state and link buffers are promised to the byte, code and the SDK's share as budgets; the stack is
a promise that :mod:`tlc.stack` proves. :func:`measure` compares, :func:`require` fails where the image exceeds a promise.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tlc import boards, bundle, toolchain
from tlc.boards import Board
from tlc.bundle import Bundle
from tlc.errors import BundleMismatch, FitError, ToolchainError
from tlc.image import Image, Origin, read_image
from tlc.stack import StackBound, stack_bound

__all__ = ["Row", "SizeReport", "measure", "require"]

MACHINES = {
    "EM_ARM": ("arm",),
    "EM_RISCV": ("rv32", "rv64"),
    "EM_XTENSA": ("xtensa",),
    "EM_X86_64": ("host",),
    "EM_AARCH64": ("host",),
}
"""What the ELF says → how a board's ISA begins."""

OWNERS = {"device": "link", "link_memory": "link", "layer_ticks": "link", "memory": "arena"}
"""Arrays of the generated main program → the row that they count in; else the row of their own name."""


@dataclass(frozen=True)
class Row:
    """One promise, in bytes."""

    memory: Literal["flash", "RAM"]
    what: str
    promise: int | None
    """None: a part of another row, for information."""
    elf: int | None
    """None: not known."""
    remedy: str = ""

    @property
    def fits(self) -> bool:
        """Whether the promise is kept, as far as is known."""
        return self.promise is None or self.elf is None or self.elf <= self.promise


@dataclass(frozen=True)
class SizeReport:
    """What ``tlc size`` tells."""

    board: str
    elf: Path
    rows: tuple[Row, ...]
    origins: dict[Origin, int]
    """Flash by origin."""
    stack: StackBound

    @property
    def fits(self) -> bool:
        """Whether every promise is kept."""
        return all(row.fits for row in self.rows)

    def value(self, memory: str, what: str) -> int | None:
        """A row's bytes in the image."""
        return next((row.elf for row in self.rows if (row.memory, row.what) == (memory, what)), None)

    def to_json(self) -> dict[str, Any]:
        """For ``--json``; sizes in bytes."""
        return {
            "board": self.board,
            "elf": str(self.elf),
            "fits": self.fits,
            "flash_bytes": self.value("flash", "total"),
            "ram_bytes": self.value("RAM", "total"),
            "weight_bytes": self.origins.get("weights", 0),
            "code_bytes": self.value("flash", "code"),
            "stack_bytes": self.stack.bytes,
            "stack_reason": self.stack.reason,
            "stack_path": [{"function": name, "frame": frame} for name, frame in self.stack.path],
            "origins": self.origins,
            "rows": [{**asdict(row), "fits": row.fits} for row in self.rows],
        }


def measure(directory: Path) -> SizeReport:
    """Sets a project's memory certificate against its linked image.

    Raises:
        BundleError: the project has no readable bundle.
        BundleMismatch: the image was built from another bundle.
        ToolchainError: the project is not built, the map is missing, or the image is of another architecture.
        FitError: the stack has no bound.
    """
    directory = Path(directory)
    promised = bundle.load(directory)
    board = boards.of_project(directory)
    image = read_image(toolchain.firmware_elf(directory, board), directory)
    _check_machine(image, board)
    _check_hash(image, promised)
    stack = stack_bound(image, board)
    origins = _flash_by_origin(image)
    rows = [*_flash_rows(image, promised, board, origins), *_ram_rows(image, promised, board, stack)]
    return SizeReport(board.id, image.path, tuple(rows), origins, stack)


def require(report: SizeReport) -> None:
    """Fails at the first promise that the image breaks.

    Raises:
        FitError: what, its bytes, the promise, and what to do.
    """
    for row in report.rows:
        if not row.fits:
            raise FitError(
                f"{row.memory}, {row.what}: the image has {row.elf:,} bytes, but the bundle promises {row.promise:,}",
                where=str(report.elf),
                remedy=row.remedy,
            )


def _check_machine(image: Image, board: Board) -> None:
    if not board.cpu.isa.startswith(MACHINES.get(image.machine, ("?",))):
        raise ToolchainError(
            f"the image is of {image.machine.removeprefix('EM_')}, but the board '{board.id}' is {board.cpu.isa}",
            where=str(image.path),
            remedy=f"build it again: pio run -d {image.project}",
        )


def _check_hash(image: Image, promised: Bundle) -> None:
    model = image.symbol("tlc_model")
    found = image.bytes_at(model.address + image.pointer_bytes, 32) if model else None
    if found is None:
        raise BundleMismatch(
            "the image holds no tlc model", where=str(image.path), remedy=f"build it: pio run -d {image.project}"
        )
    if found.hex() != promised.hash:
        raise BundleMismatch(
            f"the image holds bundle {found.hex()[:16]}, but bundle.json is {promised.hash[:16]}",
            where=str(image.path),
            remedy=f"build it again: pio run -d {image.project}",
        )


def _flash_by_origin(image: Image) -> dict[Origin, int]:
    """Bytes of code, constants and initial values; padding between them is the SDK's."""
    found: dict[Origin, int] = dict.fromkeys(("weights", "model", "runtime", "port", "application", "sdk"), 0)
    stored = {section.name: section.size for section in image.sections if section.in_flash}
    for piece in image.pieces:
        if piece.section in stored:
            found[piece.origin] += piece.size
    found["sdk"] += sum(stored.values()) - sum(found.values())
    return found


def _flash_rows(image: Image, promised: Bundle, board: Board, origins: dict[Origin, int]) -> list[Row]:
    promise = promised.certificate
    rebuild = f"build it again: pio run -d {image.project}"
    code = origins["model"] + origins["runtime"] + origins["port"] + origins["application"]
    # The linker keeps it free; it is nowhere in the image.
    journal = 0 if board.memory.journal_apart else promise.journal_bytes

    def raised(key: str) -> str:
        return f"make the application smaller, or raise memory.{key} of board '{board.id}' and compile again"

    return [
        Row("flash", "weights and tables", promise.packed_bytes + promise.table_bytes, origins["weights"], rebuild),
        Row("flash", "code", promise.code_budget, code, raised("code_flash_bytes")),
        *(Row("flash", f"  {name}", None, origins[name]) for name in ("model", "runtime", "port", "application")),
        Row("flash", "SDK and libc", promise.sdk_flash_budget, origins["sdk"], raised("sdk_flash_bytes")),
        *([Row("flash", "journal", journal, journal)] if journal else []),
        Row("flash", "total", promise.flash_bytes, sum(origins.values()) + journal, raised("code_flash_bytes")),
    ]


def _ram_rows(image: Image, promised: Bundle, board: Board, stack: StackBound) -> list[Row]:
    promise = promised.certificate
    rebuild = f"build it again: pio run -d {image.project}"
    sizes = dict.fromkeys(("arena", "state", "values", "link"), 0)
    merged = False
    for symbol, piece in image.objects():
        name = _plain_name(symbol.name)
        row = OWNERS.get(name, name)
        if piece.origin == "application" and row in sizes:
            sizes[row] += symbol.size
            merged = merged or name == "memory"
    rows = [
        Row("RAM", "arena", promise.arena_bytes, sizes["arena"], rebuild),
        Row("RAM", "state", promise.state_bytes, sizes["state"], rebuild),
        Row("RAM", "hooks' values", promise.values_bytes, sizes["values"], rebuild),
    ]
    if merged:  # the Arduino port has one block for all three
        block = promise.arena_bytes + promise.state_bytes + promise.values_bytes
        rows = [Row("RAM", "arena, state, hooks' values", block, sizes["arena"], rebuild)]
    static = sum(section.size for section in image.sections if section.in_ram)
    weights = 0
    if board.memory.constants_in_ram:  # the loader puts what is neither code nor variables there, too
        copied = {s.name: s.size for s in image.sections if s.in_flash and not s.in_ram and not s.executable}
        static += sum(copied.values())
        weights = sum(piece.size for piece in image.pieces if piece.origin == "weights" and piece.section in copied)
        promised_bytes = promise.packed_bytes + promise.table_bytes
        rows.insert(0, Row("RAM", "weights and tables", promised_bytes, weights, rebuild))
    if any(section.name == ".stack" for section in image.sections):
        static -= promise.stack_bytes  # what the linker sets aside for it, but for a guard
    if image.machine in ("EM_ARM", "EM_RISCV", "EM_XTENSA") and board.port == "baremetal":
        static += 8  # tlc_boot_words, above what the linker knows of
    others = static - sum(sizes.values()) - weights
    return [
        *rows,
        Row("RAM", "link", promise.link_bytes, sizes["link"], rebuild),
        Row(
            "RAM", "port, SDK and libc", promise.sdk_ram_budget, others,
            f"use less static memory, or raise memory.sdk_ram_bytes of board '{board.id}' and compile again",
        ),
        Row(
            "RAM", "stack", promise.stack_bytes, stack.bytes,
            f"use less stack, or raise memory.stack_bytes of board '{board.id}' and compile again",
        ),
        Row("RAM", "total", promise.ram_bytes, static + promise.stack_bytes, rebuild),
    ]  # fmt: skip


def _plain_name(symbol: str) -> str:
    """``memory`` of ``_ZZ19tlc_arduino_setupPvE6memory``, C++'s name of a function's static variable."""
    match = re.fullmatch(r"_ZZ.*E\d+(memory|link_memory|layer_ticks)(?:_\d+)?", symbol)
    return match[1] if match else symbol
