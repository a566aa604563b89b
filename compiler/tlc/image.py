# SPDX-License-Identifier: Apache-2.0
"""A linked image: its sections and symbols from the ELF, and from the linker's map which object each byte came from."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from tlc.errors import ToolchainError

__all__ = ["Image", "Origin", "Piece", "Section", "Symbol", "read_image"]

Origin = Literal["weights", "model", "runtime", "port", "application", "sdk"]
"""Constants of the model; its code; lib/tlc without ports; the port; src/; all that is not ours (SDK, libc, padding)."""

WRITE, ALLOC, EXECUTE = 1, 2, 4


@dataclass(frozen=True)
class Section:
    """An output section that takes memory on the device. Sizes and addresses in bytes."""

    name: str
    address: int
    size: int
    in_flash: bool
    """Code, constants, or initial values."""
    in_ram: bool
    executable: bool


@dataclass(frozen=True)
class Piece:
    """An input section: what one object brought to an output section."""

    section: str
    address: int
    size: int
    object: str
    """As the linker names it: a path from the project, or ``archive.a(member.o)``; empty for padding."""

    @property
    def origin(self) -> Origin:
        """Whose it is."""
        path = self.object.replace("\\", "/")
        if "libtlc_model.a(" in path or "/tlc_model/" in path:
            return "weights" if re.search(r"tlc_weights(\.c)?\.o\b", path) else "model"
        if "/tlc/ports/" in path:
            return "port"
        if "/tlc/src/" in path or "libtlc.a(" in path:
            return "runtime"
        return "application" if re.search(r"\.pio/build/[^/]+/src/", path) else "sdk"


@dataclass(frozen=True)
class Symbol:
    """A function or an object of the image."""

    name: str
    address: int
    size: int
    kind: Literal["function", "object"]


@dataclass(frozen=True)
class Image:
    """An ELF file and its map."""

    path: Path
    project: Path
    machine: str
    """``EM_ARM`` and so on."""
    pointer_bytes: int
    entry: int
    sections: tuple[Section, ...]
    pieces: tuple[Piece, ...]
    """Sorted by address."""
    symbols: tuple[Symbol, ...]

    @cached_property
    def _addresses(self) -> list[int]:
        return [piece.address for piece in self.pieces]

    def piece_at(self, address: int) -> Piece | None:
        """The input section that an address lies in; None in padding."""
        index = bisect.bisect_right(self._addresses, address) - 1
        piece = self.pieces[index] if index >= 0 else None
        return piece if piece and address < piece.address + piece.size else None

    def objects(self) -> Iterator[tuple[Symbol, Piece]]:
        """The data objects with their input section."""
        for symbol in self.symbols:
            piece = self.piece_at(symbol.address) if symbol.kind == "object" else None
            if piece is not None:
                yield symbol, piece

    def symbol(self, name: str) -> Symbol | None:
        """A symbol by name."""
        return next((symbol for symbol in self.symbols if symbol.name == name), None)

    def bytes_at(self, address: int, count: int) -> bytes | None:
        """Initial contents of the image; None where it has none."""
        with self.path.open("rb") as file:
            for section in ELFFile(file).iter_sections():
                start = section["sh_addr"]
                stored = section["sh_flags"] & ALLOC and section["sh_type"] != "SHT_NOBITS"
                if stored and start <= address and address + count <= start + section["sh_size"]:
                    return bytes(section.data()[address - start : address - start + count])
        return None


def read_image(elf: Path, project: Path) -> Image:
    """Reads an ELF and the map beside it (``firmware.map`` beside ``firmware.elf``).

    Raises:
        ToolchainError: either is missing or damaged, or they are not of one link.
    """
    rebuild = f"build it again: pio run -d {project} -t clean, then pio run -d {project}"
    try:
        with elf.open("rb") as file:
            parsed = ELFFile(file)
            machine, pointer = str(parsed["e_machine"]), parsed.elfclass // 8
            entry = int(parsed["e_entry"])
            sections = tuple(_sections(parsed))
            symbols = tuple(_symbols(parsed, machine))
    except (ELFError, OSError, ValueError, KeyError) as error:
        raise ToolchainError(f"not a readable ELF file ({error})", where=str(elf), remedy=rebuild) from None
    linkmap = elf.with_suffix(".map")
    try:
        text = linkmap.read_text(errors="replace")
    except OSError:
        raise ToolchainError(
            "there is no linker map beside the image",
            where=str(linkmap),
            remedy=f"{rebuild}; platforms that write none need build_flags = -Wl,-Map,$BUILD_DIR/firmware.map",
        ) from None
    outputs, pieces = _parse_map(text)
    for section in sections:
        if section.size and outputs.get(section.name) != (section.address, section.size):
            raise ToolchainError(
                f"the map is not of this image: section {section.name} differs", where=str(linkmap), remedy=rebuild
            )
    known = {section.name for section in sections}
    ours = sorted((piece for piece in pieces if piece.section in known), key=lambda piece: piece.address)
    return Image(elf, project, machine, pointer, entry, sections, tuple(ours), symbols)


def _sections(elf: ELFFile) -> Iterator[Section]:
    for section in elf.iter_sections():
        flags, name = section["sh_flags"], section.name
        if not flags & ALLOC:
            continue
        stored = section["sh_type"] != "SHT_NOBITS"
        # The ESP32's constants are marked writable, though they lie in flash.
        in_ram = bool(flags & WRITE) and not name.startswith(".flash.")
        yield Section(name, section["sh_addr"], section["sh_size"], stored, in_ram, bool(flags & EXECUTE))


def _symbols(elf: ELFFile, machine: str) -> Iterator[Symbol]:
    table = elf.get_section_by_name(".symtab")
    for symbol in table.iter_symbols() if isinstance(table, SymbolTableSection) else ():
        kind = symbol["st_info"]["type"]
        if kind not in ("STT_FUNC", "STT_OBJECT") or symbol["st_shndx"] == "SHN_UNDEF":
            continue
        address = symbol["st_value"]
        if kind == "STT_FUNC" and machine == "EM_ARM":
            address &= ~1  # the Thumb bit
        yield Symbol(symbol.name, address, symbol["st_size"], "function" if kind == "STT_FUNC" else "object")


_OUTPUT = re.compile(r"^(\.[\w.\-$]+)(?:\s+0x([0-9a-f]+)\s+0x([0-9a-f]+))?")
_INPUT = re.compile(r"^ (\S+)\s+0x([0-9a-f]+)\s+0x([0-9a-f]+)(?: (\S.*))?$")
_REST = re.compile(r"^\s+0x([0-9a-f]+)\s+0x([0-9a-f]+)(?: (\S.*))?$")


def _parse_map(text: str) -> tuple[dict[str, tuple[int, int]], list[Piece]]:
    """GNU ld's map: output section → (address, bytes), and the input sections. Long names stand on a line of their own."""
    outputs: dict[str, tuple[int, int]] = {}
    pieces: list[Piece] = []
    section, pending = "", ""
    for line in text.partition("Linker script and memory map")[2].splitlines():
        if line[:1] == ".":
            match = _OUTPUT.match(line)
            section, pending = (match[1], "") if match else ("", "")
            if match and match[2]:
                outputs[section] = (int(match[2], 16), int(match[3], 16))
            elif match:
                pending = "output"
            continue
        match = _INPUT.match(line)
        if match is None and (pending or "").startswith(("output", "input")):
            rest = _REST.match(line)
            if rest and pending == "output":
                outputs[section] = (int(rest[1], 16), int(rest[2], 16))
            elif rest:
                pieces.append(Piece(section, int(rest[1], 16), int(rest[2], 16), rest[3] or ""))
            pending = ""
        elif match and match[1] != "*fill*":
            pieces.append(Piece(section, int(match[2], 16), int(match[3], 16), match[4] or ""))
        else:
            pending = "input" if re.fullmatch(r" [^\s*(]\S*", line) else ""
    return outputs, [piece for piece in pieces if piece.size]
