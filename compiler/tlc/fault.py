# SPDX-License-Identifier: Apache-2.0
"""What a board says when it crashes, and where in the source that was: ``tlc symbolize``.

A fault of the processor, a stack that overflows, a failed assertion and ``tlc_board_panic`` end in one line on the link,
between two zeros (firmware/PROTOCOL.md, section 2)::

    tlc fault: bus error; cause 00000003 pc 000012ae lr 00001283 sp 20000fd8 detail 00008200 build 8f0c2a4d91b7e655

The Arduino cores have their own words, of which ``PC``, ``epc1`` and ``Backtrace`` are understood.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import NoteSection

from tlc import boards
from tlc.boards import Board
from tlc.errors import BundleMismatch, DataError, ToolchainError
from tlc.toolchain import core_dir, find_tool, firmware_elf

__all__ = ["Dump", "Place", "find_fault", "parse_dump", "symbolize"]

BUILD_BYTES = 8
SECONDS = 30.0

_LINE = re.compile(
    r"tlc fault: (?P<what>[^\r\n]{1,400}); cause (?P<cause>[0-9a-f]{8}) pc (?P<pc>[0-9a-f]{8}) lr (?P<lr>[0-9a-f]{8}) "
    r"sp (?P<sp>[0-9a-f]{8}) detail (?P<detail>[0-9a-f]{8}) build (?P<build>[0-9a-f]{16})"
)
_ARDUINO = re.compile(r"\b(?:PC|MEPC|epc1)\s*[:=]\s*0x([0-9a-fA-F]{8})")
_BACKTRACE = re.compile(r"\b(0x[0-9a-fA-F]{8}):0x[0-9a-fA-F]{8}\b")


@dataclass(frozen=True)
class Dump:
    """A crash: what a device said of it. ``build`` is the beginning of the image's hash in hex; empty: not told."""

    what: str
    pc: int
    lr: int
    build: str
    trace: tuple[int, ...] = ()


@dataclass(frozen=True)
class Place:
    """A place in the source: of an address, the innermost function first where some are inlined."""

    role: str
    address: int
    function: str
    file: str
    line: int

    def __str__(self) -> str:
        at = f"{self.file}:{self.line}" if self.file else "no line is known"
        return f"{self.role} 0x{self.address:08x}: {self.function or 'unknown'} at {at}"


def find_fault(raw: bytes) -> str | None:
    """The line of a crash among received bytes, without what is around it; None where there is none."""
    found = _LINE.search(raw.decode("utf-8", "replace"))
    return found.group(0) if found else None


def parse_dump(text: str) -> Dump:
    """What :func:`find_fault` found, or an Arduino core's report.

    Raises:
        DataError: there is no crash in it.
    """
    found = _LINE.search(text)
    if found is not None:
        build = found["build"] if set(found["build"]) != {"0"} else ""
        return Dump(found["what"], int(found["pc"], 16), int(found["lr"], 16), build)
    trace = tuple(int(address, 16) for address in _BACKTRACE.findall(text))
    counter = _ARDUINO.search(text)
    if counter is None and not trace:
        raise DataError(
            "there is no crash in it",
            where="dump",
            remedy="it is the line that begins with 'tlc fault:', or an ESP's panic",
        )
    what = next((line.strip() for line in text.splitlines() if "panic" in line or "Exception" in line), "crash")
    return Dump(what, int(counter[1], 16) if counter else trace[0], 0, "", trace)


def symbolize(directory: Path, dump: Dump) -> list[Place]:
    """Where a crash was: of its program counter, of the return address, of a backtrace.

    Args:
        directory: the project, built as it was on the device.

    Raises:
        BundleMismatch: the image in the project is another than the one that crashed.
        ToolchainError: there is no image, or no tool that reads it.
    """
    board = boards.of_project(directory)
    elf = firmware_elf(directory, board)
    have = _build_id(elf)
    if dump.build and not have.startswith(dump.build):
        raise BundleMismatch(
            f"the device crashed in build {dump.build}, the project holds {have[: 2 * BUILD_BYTES] or 'one that has no hash'}",
            where=str(elf),
            remedy="symbolize with the project as it was when it was uploaded",
        )
    tool = _addr2line(board)
    thumb = board.cpu.isa.startswith("arm")
    wanted = [("pc", dump.pc)] if dump.pc else []
    if dump.lr and dump.lr < 0xF000_0000:  # above: an Arm core's marks of where it was interrupted
        wanted.append(("called from", (dump.lr & ~1 if thumb else dump.lr) - 2))
    wanted += [("called from", address - 3) for address in dump.trace[1:]]
    return [place for role, address in wanted for place in _places(tool, elf, role, address)]


def _build_id(elf: Path) -> str:
    try:
        with elf.open("rb") as file:
            section = ELFFile(file).get_section_by_name(".note.gnu.build-id")
            notes = list(section.iter_notes()) if isinstance(section, NoteSection) else []
            return next((str(note["n_desc"]) for note in notes if note["n_type"] == "NT_GNU_BUILD_ID"), "")
    except (ELFError, OSError) as error:
        raise ToolchainError(f"not a readable ELF file ({error})", where=str(elf), remedy="build it again") from None


def _addr2line(board: Board) -> Path:
    if board.toolchain is not None:
        return find_tool(f"{board.toolchain.prefix}addr2line")
    family = board.cpu.isa.split("-")[0]
    prefix = "arm-none-eabi" if family.startswith("arm") else "riscv32" if family.startswith("rv32") else family
    # One of any chip of the family reads the lines of all.
    for tool in sorted((core_dir() / "packages").glob(f"toolchain-*/bin/{prefix}*-addr2line")):
        return tool
    raise ToolchainError(
        f"no addr2line for {board.cpu.isa} is installed",
        where=f"board '{board.id}'",
        remedy="pio run installs the board's compiler, and it comes with that",
    )


def _places(tool: Path, elf: Path, role: str, address: int) -> list[Place]:
    command = [str(tool), "-f", "-i", "-C", "-e", str(elf), f"{address:#x}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolchainError(f"{tool.name} failed ({error})", where=str(elf), remedy="build it again") from None
    lines = done.stdout.splitlines()
    places: list[Place] = []
    for function, at in zip(lines[::2], lines[1::2], strict=False):
        file, _, number = at.split(" (")[0].rpartition(":")
        known = file not in ("", "??")
        places.append(
            Place(
                role if not places else "inlined in",
                address,
                "" if function == "??" else function,
                file if known else "",
                int(number) if known and number.isdigit() else 0,
            )
        )
    return places
