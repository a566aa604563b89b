# SPDX-License-Identifier: Apache-2.0
"""Boards: one TOML file each, checked when loaded.

``load("qemu-m4")`` finds a file of ours, ``load("my/board.toml")`` one of the user's. ``docs/boards.md`` tells how to
add one.
"""

from __future__ import annotations

import json
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tlc import emulator_renode, resources
from tlc.errors import BoardError, nearest

__all__ = [
    "Board",
    "Cost",
    "Cpu",
    "Decode",
    "Emulation",
    "Link",
    "Memory",
    "PlatformIO",
    "Toolchain",
    "Transport",
    "load",
    "names",
]

Transport = Literal["uart", "wifi", "tcp"]

PROJECT_FILE = "board.toml"
"""A project's copy of its board file."""

PLATFORM = "tlc"
"""The name of our own PlatformIO platform."""

COMMON_FLAGS = ["-O2", "-ffp-contract=off", "-ffunction-sections", "-fdata-sections"]
"""Of every build: no fused multiply-add, so floats come out the same everywhere."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Cpu(_Table):
    """The core and what it can do."""

    isa: str
    core: str
    features: list[Literal["dsp", "fpu", "mve", "mul", "simd"]] = []
    clock_hz: int = Field(gt=0)


class Memory(_Table):
    """Bytes. What the compiler proves fits between what is there and what others take."""

    flash_bytes: int = Field(gt=0)
    """Of the application's partition."""
    ram_bytes: int = Field(gt=0)
    static_ram_bytes: int = Field(gt=0)
    """What our own .data and .bss (arena, state, link buffers) may take."""
    stack_bytes: int = Field(gt=0)
    code_flash_bytes: int = Field(ge=0)
    """Budget for our code, without weights and tables."""
    sdk_flash_bytes: int = Field(ge=0)
    """Budget for the board's SDK."""
    sdk_ram_bytes: int = Field(ge=0)
    """Budget for the SDK's static data and heap."""
    journal_sector_bytes: int = Field(default=0, ge=0)
    """What is erased at once where the journal of learned tensors lies; 0: the port has no place for one."""
    journal_apart: bool = False
    """That place is not in flash_bytes: a partition of its own, or a file."""
    constants_in_ram: bool = False
    """Weights and tables take RAM as well as flash: the core reads no single bytes of flash (ESP8266)."""
    flash_origin: int | None = None
    ram_origin: int | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.static_ram_bytes + self.stack_bytes > self.ram_bytes:
            raise ValueError("static_ram_bytes and stack_bytes together must not exceed ram_bytes")
        if self.code_flash_bytes + self.sdk_flash_bytes > self.flash_bytes:
            raise ValueError("code_flash_bytes and sdk_flash_bytes together must not exceed flash_bytes")
        return self


class Cost(_Table):
    """Instructions of one operator kind's portable kernel."""

    per_mac: float = Field(default=0.0, ge=0)
    """An element that an inner loop takes: a multiply-accumulate; a value in a pool's window."""
    per_run: float = Field(default=0.0, ge=0)
    """A start of the innermost loop, where outputs do not tell how many there are: a place of a convolution's kernel."""
    per_output: float = Field(default=0.0, ge=0)
    """An output element: bias, requantization, store, loop."""
    per_call: float = Field(default=0.0, ge=0)


class Decode(_Table):
    """Instructions of decoding packed weights; the defaults are a Cortex-M4's."""

    weight: float = Field(default=15.0, ge=0)
    """One whose code the first look-up holds."""
    longer_code: float = Field(default=27.0, ge=0)
    """More, for another."""
    length_step: float = Field(default=5.0, ge=0)
    """And more, for each length compared with in vain."""
    row: float = Field(default=30.0, ge=0)


class Link(_Table):
    """What the wire carries."""

    uart_baud: int = Field(default=115200, gt=0)
    fragment: int = Field(default=256, ge=128, le=8192)
    """Bytes of a frame's payload."""
    window: int = Field(default=8, ge=2, le=32)
    """The device's frames on their way."""
    peer_window: int = Field(default=8, ge=1, le=32)
    """The host's: what the port holds while nobody reads. An emulated UART holds back what is too much."""
    wifi_bytes_per_second: int | None = Field(default=None, gt=0)
    tcp_bytes_per_second: int | None = Field(default=None, gt=0)

    def bytes_per_second(self, transport: Transport) -> float:
        """Payload rate. A UART's byte is ten bits (start, eight, stop)."""
        if transport == "uart":
            return self.uart_baud / 10
        return float((self.wifi_bytes_per_second if transport == "wifi" else self.tcp_bytes_per_second) or 1_000_000)


class PlatformIO(_Table):
    """The project's ``platformio.ini``."""

    platform: str
    board: str
    framework: str | None = None
    build_flags: list[str] = []
    build_unflags: list[str] = []
    options: dict[str, str] = {}
    """Any other line of the environment, as it stands."""


class Toolchain(_Table):
    """How our own platform builds: the cross compilers of Debian, or the machine's own."""

    prefix: Literal["arm-none-eabi-", "riscv64-unknown-elf-", "xtensa-lx106-elf-", ""]
    flags: list[str] = []
    link_flags: list[str] = []


class Emulation(_Table):
    """How the board is booted here: see :func:`tlc.emulator.boot`."""

    kind: Literal["qemu", "renode", "process"]
    program: str = ""
    args: list[str] = []
    platform: str = ""
    """Renode's own description of the platform, in its installation."""
    description: list[str] = []
    """Lines of a .repl that come after it: what our firmware sets otherwise than that description assumes."""
    uart: str = ""
    """Renode's name of the UART."""
    icount_shift: int = Field(default=0, ge=0, le=10)
    uart_queue: bool = False
    """QEMU queues 32 bytes more before the UART: three times the speed where its model holds one, half where it holds more."""
    seed_address: int | None = None
    """Where the program's entropy starts from, and its count of starts follows (the last two words of RAM)."""
    counts_instructions: bool
    """The port's ticks are instructions, exactly repeatable; else nanoseconds, or cycles of a real chip."""

    @property
    def machine(self) -> str:
        """The emulator's own name of what it emulates; empty for a process."""
        if self.kind == "renode":
            return Path(self.platform).stem
        return self.args[self.args.index("-M") + 1] if "-M" in self.args else ""


class Board(_Table):
    """One board. ``board.memory.flash_bytes``, ``board.cpu.features`` and so on; see the classes above."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str
    port: Literal["baremetal", "posix", "arduino"]
    port_sources: list[str] = []
    """The files of ``firmware/ports/<port>`` that this board needs; empty: all."""
    linker_script: str | None = None
    transports: list[Transport] = Field(min_length=1)
    """The first is the default."""
    cpu: Cpu
    memory: Memory
    cost: dict[str, Cost]
    decode: Decode = Decode()
    link: Link
    platformio: PlatformIO
    toolchain: Toolchain | None = None
    emulator: Emulation | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if "default" not in self.cost:
            raise ValueError("the table cost.default is missing: it serves every operator that has none of its own")
        if self.emulator is not None and self.emulator.kind == "renode":
            emulation = self.emulator
            if not (emulation.platform and emulation.uart and emulation.seed_address is not None):
                raise ValueError("a board in Renode needs emulator.platform, emulator.uart and emulator.seed_address")
        if self.platformio.platform == PLATFORM and (self.toolchain is None or self.emulator is None):
            raise ValueError(f"a board of the platform '{PLATFORM}' needs the tables toolchain and emulator")
        if self.port == "baremetal":
            missing = [
                name
                for name, value in (
                    ("port_sources", self.port_sources),
                    ("linker_script", self.linker_script),
                    ("memory.flash_origin", self.memory.flash_origin),
                    ("memory.ram_origin", self.memory.ram_origin),
                )
                if value in (None, [])
            ]
            if missing:
                raise ValueError(f"a bare-metal board needs {', '.join(missing)}")
        return self

    @property
    def emulated(self) -> bool:
        """``pio run -t upload`` boots it here."""
        return self.emulator is not None

    def operator_cost(self, operator: str) -> Cost:
        """The cost table's row for an operator kind."""
        return self.cost.get(operator, self.cost["default"])

    def instructions(self, operator: str, macs: int, outputs: int, runs: int = 0) -> float:
        """Estimated instructions of one call; for ``macs`` and ``runs`` see :meth:`tlc.ops.base.Operator.work`."""
        row = self.operator_cost(operator)
        return row.per_mac * macs + row.per_run * runs + row.per_output * outputs + row.per_call

    def emulator_spec(self) -> dict[str, Any]:
        """The ``spec`` of :func:`tlc.emulator.boot`.

        Raises:
            BoardError: nothing here emulates this board.
        """
        if self.emulator is None:
            raise BoardError(
                "no emulator is known for this board",
                where=f"board '{self.id}'",
                remedy=f"boards with one: {', '.join(name for name in names() if load(name).emulated)}",
            )
        return self.emulator.model_dump(exclude_none=True)

    def platformio_manifest(self, journal_bytes: int = 0) -> dict[str, Any]:
        """``boards/<id>.json`` of a project or of our platform: what PlatformIO and our builder need to know.

        Args:
            journal_bytes: of both slots of the journal, at the end of flash.
        """
        build: dict[str, Any] = {"mcu": self.cpu.core, "f_cpu": f"{self.cpu.clock_hz}L"}
        if self.linker_script:
            build["ldscript"] = self.linker_script
        symbols = {}
        if self.port == "baremetal":
            symbols = {
                "tlc_flash_origin": self.memory.flash_origin,
                "tlc_flash_bytes": self.memory.flash_bytes,
                "tlc_ram_origin": self.memory.ram_origin,
                "tlc_ram_bytes": self.memory.ram_bytes,
                "tlc_stack_bytes": self.memory.stack_bytes,
                "tlc_journal_bytes": journal_bytes,
            }
        on_chip = self.port != "posix"
        return {
            "name": self.title,
            "vendor": "tlc",
            "url": "",
            "platform": PLATFORM,
            "frameworks": [],
            "build": build,
            "upload": {
                "maximum_size": self.memory.flash_bytes if on_chip else 0,
                "maximum_ram_size": self.memory.ram_bytes if on_chip else 0,
            },
            "tlc": {
                "toolchain": self.toolchain.model_dump() if self.toolchain else {},
                "symbols": symbols,
                "emulator": self.emulator.model_dump(exclude_none=True) if self.emulator else {},
            },
        }

    def project_files(self, journal_bytes: int = 0) -> dict[str, str]:
        """``platformio.ini`` and the board's manifest, of a project for our own platform: relative path -> text."""
        lines = [
            f"; {self.title}: generated by tlc from the board file '{self.id}'",
            "[platformio]",
            f"default_envs = {self.id}",
            "",
            f"[env:{self.id}]",
            f"platform = {self.platformio.platform}",
            f"board = {self.platformio.board}",
            f"custom_tlc_port = {self.port}",
            *([f"custom_tlc_sources = {' '.join(self.port_sources)}"] if self.port_sources else []),
            "build_flags =",
            *(f"    {flag}" for flag in [*COMMON_FLAGS, *self.platformio.build_flags]),
            *(
                ["build_unflags =", *(f"    {flag}" for flag in self.platformio.build_unflags)]
                if self.platformio.build_unflags
                else []
            ),
            *(f"{key} = {value}" for key, value in sorted(self.platformio.options.items())),
        ]
        manifest = json.dumps(self.platformio_manifest(journal_bytes), indent=2)
        spec = self.emulator.model_dump() if self.emulator else {}
        return {
            **(emulator_renode.project_files(self.id, spec) if spec.get("kind") == "renode" else {}),
            "platformio.ini": "\n".join(lines) + "\n",
            f"boards/{self.platformio.board}.json": manifest + "\n",
        }

    def check_transport(self, transport: str | None) -> Transport:
        """The transport asked for, or the board's first.

        Raises:
            BoardError: the board does not have it.
        """
        if transport is None:
            return self.transports[0]
        for known in self.transports:
            if known == transport:
                return known
        raise BoardError(
            f"the board has no transport '{transport}'",
            where=f"board '{self.id}'",
            remedy=f"choose {' or '.join(self.transports)}",
        )


def names() -> list[str]:
    """The ids of our boards, sorted."""
    return sorted(path.stem for path in resources.boards_dir().glob("*.toml"))


def load(name: str) -> Board:
    """The board of a name, or of a board file's path.

    Raises:
        BoardError: no such board, or its file breaks a rule (``file:line``, the rule, the value, what is allowed).
    """
    if name.endswith(".toml") or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise BoardError(
                "there is no such board file", where=name, remedy=f"boards that come with tlc: {', '.join(names())}"
            )
        return _read(path.resolve())
    path = resources.boards_dir() / f"{name}.toml"
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name) or not path.is_file():
        raise BoardError(f"unknown board '{name}'", where="--board", remedy=nearest(name, names()))
    board = _read(path)
    if board.id != name:
        raise BoardError(f"a board's id is its file's name, not '{board.id}'", where=str(path))
    return board


def path_of(name: str) -> Path:
    """The file of a board that :func:`load` finds."""
    return Path(name).resolve() if name.endswith(".toml") or "/" in name else resources.boards_dir() / f"{name}.toml"


def of_project(directory: str | Path) -> Board:
    """The board that a project was compiled for: the copy of its file in the project.

    Raises:
        BoardError: the copy is missing or damaged.
    """
    return load(str(Path(directory).absolute() / PROJECT_FILE))


@cache
def _parse(path: Path, modified_ns: int) -> Board:
    text = path.read_text(encoding="utf-8")
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        raise BoardError(
            f"not valid TOML: {str(error).split(' (at')[0]}", where=f"{path}:{line.group(1) if line else 1}"
        ) from error
    try:
        return Board.model_validate(values)
    except ValidationError as error:
        raise _explain(path, text, error) from error


def _read(path: Path) -> Board:
    try:
        return _parse(path, path.stat().st_mtime_ns)
    except (OSError, UnicodeDecodeError) as error:
        raise BoardError(f"the board file cannot be read: {error}", where=str(path)) from error


def _line_of(text: str, location: tuple[str | int, ...]) -> int:
    """The line where a key stands, or its table's header where the key is missing, or 1."""
    wanted = [str(part) for part in location if isinstance(part, str)]
    table: list[str] = []
    best, best_depth = 1, 0
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[+\s*([\w.\-\"]+)\s*\]+", line)
        key = re.match(r"\s*([\w\-]+)\s*=", line)
        if header:
            table = header.group(1).replace('"', "").split(".")
            found = table
        elif key:
            found = [*table, key.group(1)]
        else:
            continue
        if found == wanted[: len(found)] and len(found) > best_depth:
            best, best_depth = number, len(found)
    return best


def _model_at(location: tuple[str | int, ...]) -> type[_Table]:
    """The table class in which a location's last key would be."""
    tables: dict[str, type[_Table]] = {
        "cpu": Cpu, "memory": Memory, "cost": Cost, "decode": Decode, "link": Link,
        "platformio": PlatformIO, "toolchain": Toolchain, "emulator": Emulation,
    }  # fmt: skip
    return tables.get(str(location[0]), Board) if len(location) > 1 else Board


def _explain(path: Path, text: str, error: ValidationError) -> BoardError:
    problems = error.errors()
    first = problems[0]
    location = first["loc"]
    key = ".".join(map(str, location))
    where = f"{path}:{_line_of(text, location)}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    kind, value = first["type"], first["input"]
    if kind == "missing":
        return BoardError(f"the key '{key}' is missing{more}", where=where, remedy="docs/boards.md describes every key")
    if kind == "extra_forbidden":
        return BoardError(
            f"unknown key '{key}'{more}",
            where=where,
            remedy=nearest(str(location[-1]), _model_at(location).model_fields),
        )
    if kind == "literal_error":
        allowed = first["ctx"]["expected"].replace(" or ", ", ")
        return BoardError(f"'{key}' is {value!r}{more}", where=where, remedy=f"allowed: {allowed}")
    message = first["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return BoardError(f"{message}{more}", where=where, remedy="docs/boards.md describes every key")
    return BoardError(f"'{key}' is {value!r}: {message[0].lower()}{message[1:]}{more}", where=where)
