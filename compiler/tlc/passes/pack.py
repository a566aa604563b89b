# SPDX-License-Identifier: Apache-2.0
"""Which frozen weight tensors are entropy-packed, and with which codes.

Requires the rows that the kernels read (int8, one an output channel). Ensures that every tensor comes out either raw or
as a Huffman stream with its code, and that those of a code with its tables take no more flash than they did.

A code's tables cost 100 to 700 bytes of flash, as much as coding a small tensor saves, so tensors share codes: each
begins with its own, and the two whose union saves most flash are joined until none does.

Modes:
    ``none``: all raw.
    ``size``: least flash, but for 0.25% spent on tables that decode faster.
    ``auto``: only what pays. A tensor is packed where its stream is at least 5% smaller than its bytes (and so are all
    that share a code, with its tables) and decoding, once per inference, adds at most 25% to the instructions of its
    layer. A layer of many pixels reads each decoded row many times and hardly notices; a dense one reads it once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tlc.coding import huffman
from tlc.coding.huffman import Counts, Lengths, Tables

__all__ = [
    "CArray",
    "DecodeCost",
    "FrozenWeights",
    "PackMode",
    "PackedWeights",
    "Packing",
    "ReportRow",
    "decode_instructions",
    "pack",
    "table_arrays",
]

PackMode = Literal["auto", "size", "none"]

MIN_SAVING = 0.05
MAX_SLOWDOWN = 0.25
TABLE_ALLOWANCE = {"auto": 0.01, "size": 0.0025}
"""What share of the raw bytes is spent on larger tables: a quarter of a percent halves AD's time to decode."""
LOOKUP_BITS = range(1, 11)


@dataclass(frozen=True)
class DecodeCost:
    """Instructions of ``tlc_rows_decode``.

    The defaults were counted on a Cortex-M4 with GCC 12 -Os on MLPerf Tiny weights, and predict each tensor within
    0.5 per weight; -O2 is about 3 per weight quicker, a Cortex-M0 about 4 slower.
    """

    weight: float = 18.0
    longer_code: float = 27.0  # more, for a code that the first look-up does not hold
    length_step: float = 5.0  # and more, for each length compared with in vain
    row: float = 30.0


@dataclass(frozen=True, eq=False)
class FrozenWeights:
    """A tensor that never learns.

    Attributes:
        values: int8 of shape (rows, row bytes), in the order the kernel takes them.
        instructions: of the layer per inference, without decoding; where several layers read the tensor, of all.
        uses: how many layers read it.
    """

    values: NDArray[np.int8]
    instructions: float
    uses: int = 1

    @cached_property
    def counts(self) -> Counts:
        """How often each value occurs."""
        return huffman.histogram(self.values)


@dataclass(frozen=True, eq=False)
class PackedWeights:
    """How a tensor is laid out in flash.

    Attributes:
        data: raw: int8 (rows, row bytes); huffman: uint16 (words of the stream, padding included).
        code: key into :attr:`Packing.codes`; None: raw.
        entropy: zero-order, in bits per weight.
        instructions: of decoding, per inference.
    """

    kind: Literal["raw", "huffman"]
    rows: int
    row_bytes: int
    data: NDArray[np.int8] | NDArray[np.uint16]
    code: str | None
    entropy: float
    instructions: float

    @property
    def raw_bytes(self) -> int:
        """What it takes uncompressed."""
        return self.rows * self.row_bytes

    @property
    def flash_bytes(self) -> int:
        """What ``data`` takes, the code's tables not counted, rounded up to a word."""
        return _words(self.data.nbytes)

    @property
    def scratch_bytes(self) -> int:
        """RAM for one decoded row while its layer runs; 0: raw."""
        return self.row_bytes if self.code else 0

    @property
    def bits_per_weight(self) -> float:
        """Of ``data``, padding included and tables not."""
        return 8.0 * self.data.nbytes / max(1, self.raw_bytes)


@dataclass(frozen=True)
class ReportRow:
    """A line of the report. ``packed_bytes`` leaves out the tables, which may be shared."""

    name: str
    kind: str
    code: str
    raw_bytes: int
    packed_bytes: int
    bits_per_weight: float
    entropy: float
    instructions: int


@dataclass(frozen=True, eq=False)
class Packing:
    """The layout of all frozen weights.

    Attributes:
        weights: by tensor name, in the order given.
        codes: tables by name (``code0``, ``code1``, ...), in the order of first use.
    """

    weights: dict[str, PackedWeights]
    codes: dict[str, Tables]

    @property
    def table_bytes(self) -> int:
        """What all tables take in flash."""
        return sum(tables.flash_bytes for tables in self.codes.values())

    @property
    def flash_bytes(self) -> int:
        """What all weights and tables take in flash."""
        return self.table_bytes + sum(packed.flash_bytes for packed in self.weights.values())

    @property
    def raw_bytes(self) -> int:
        """What all weights take uncompressed."""
        return sum(packed.raw_bytes for packed in self.weights.values())

    @property
    def report(self) -> list[ReportRow]:
        """A line per tensor."""
        return [
            ReportRow(
                name,
                packed.kind,
                packed.code or "",
                packed.raw_bytes,
                packed.data.nbytes,
                round(packed.bits_per_weight, 3),
                round(packed.entropy, 3),
                round(packed.instructions),
            )
            for name, packed in self.weights.items()
        ]


@dataclass(frozen=True)
class CArray:
    """One member of ``tlc_huffman_t`` that points to a constant array; NULL where ``values`` is empty."""

    field: str
    c_type: str
    values: list[int]


def table_arrays(tables: Tables) -> list[CArray]:
    """The pointer members of ``tlc_huffman_t`` in its order; ``lookup_bits`` and ``first`` follow them."""
    return [
        CArray("lookup", "int16_t", tables.lookup.tolist()),
        CArray("last", "uint16_t", tables.last.tolist()),
        CArray("base", "uint8_t", tables.base.tolist()),
        CArray("symbols", "int8_t", tables.symbols.tolist()),
    ]


@cache
def _canonical_codes(lengths: bytes) -> NDArray[np.int64]:
    return huffman.canonical_codes(np.frombuffer(lengths, np.int8)).astype(np.int64)


def decode_instructions(
    weights: FrozenWeights, lengths: Lengths, tables: Tables, cost: DecodeCost | None = None
) -> float:
    """Instructions per inference for decoding a tensor with a code."""
    cost = cost or DecodeCost()
    counts = weights.counts
    codes = _canonical_codes(lengths.tobytes())
    longer = np.flatnonzero(lengths > tables.lookup_bits)
    length = lengths[longer].astype(np.int64)
    starts = -tables.lookup[codes[longer] >> (length - tables.lookup_bits)].astype(np.int64)
    per_symbol = np.full(256, cost.weight)
    per_symbol[longer] += cost.longer_code + cost.length_step * (length - starts)
    return weights.uses * (float(counts @ per_symbol) + cost.row * len(weights.values))


def pack(weights: Mapping[str, FrozenWeights], mode: PackMode, cost: DecodeCost | None = None) -> Packing:
    """Lays out frozen weights; the same input gives the same bytes.

    Args:
        weights: by tensor name.
        mode: what to optimize, see above.
        cost: of decoding on the board; counts on a Cortex-M4 where it is not given.
    """
    cost = cost or DecodeCost()
    codes = [] if mode == "none" else _codes(weights, mode, cost)
    code_of = {name: code for code in codes for name in code.members}
    names: dict[int, str] = {}
    packed: dict[str, PackedWeights] = {}
    for name, tensor in weights.items():
        rows, row_bytes = tensor.values.shape
        entropy = huffman.entropy(tensor.counts)
        code = code_of.get(name)
        if code is None:
            packed[name] = PackedWeights("raw", rows, row_bytes, tensor.values, None, entropy, 0.0)
            continue
        label = names.setdefault(id(code), f"code{len(names)}")
        stream = huffman.encode(tensor.values, code.lengths)
        instructions = decode_instructions(tensor, code.lengths, code.tables, cost)
        packed[name] = PackedWeights("huffman", rows, row_bytes, stream, label, entropy, instructions)
    tables = {names[id(code)]: code.tables for code in codes}
    return Packing(packed, {label: tables[label] for label in names.values()})


@dataclass(frozen=True, eq=False)
class _Code:
    members: tuple[str, ...]
    lengths: Lengths
    tables: Tables


def _words(size: int) -> int:
    return -(-size // 4) * 4


def _codes(weights: Mapping[str, FrozenWeights], mode: PackMode, cost: DecodeCost) -> list[_Code]:
    """The codes and who uses them. Tensors that do not pay leave, and the codes are made anew without them."""
    counts = {name: tensor.counts for name, tensor in weights.items()}
    candidates = [name for name, tensor in weights.items() if tensor.values.size]
    if mode == "auto":  # those that even the quickest tables would not save need not shape the codes
        candidates = [
            name
            for name in candidates
            if weights[name].uses * cost.weight * weights[name].values.size <= MAX_SLOWDOWN * weights[name].instructions
        ]
    while True:
        codes = [_code(members, weights, counts, mode, cost) for members in _join(candidates, counts)]
        leaving = {name for code in codes for name in _leaving(code, weights, counts, mode, cost)}
        if not leaving:
            return codes
        candidates = [name for name in candidates if name not in leaving]


def _join(names: list[str], counts: Mapping[str, Counts]) -> list[tuple[str, ...]]:
    """Greedy agglomeration by the flash that entropy and tables would take."""
    groups: list[tuple[str, ...]] = [(name,) for name in names]
    histograms = [counts[name] for name in names]
    sizes = [_estimate(histogram) for histogram in histograms]
    saving: dict[tuple[int, int], float] = {}

    def compare(a: int, b: int) -> None:
        saving[a, b] = sizes[a] + sizes[b] - _estimate(histograms[a] + histograms[b])

    for b in range(len(groups)):
        for a in range(b):
            compare(a, b)
    alive = set(range(len(groups)))
    while saving:
        best = max(saving, key=lambda pair: (saving[pair], -pair[0], -pair[1]))
        if saving[best] <= 0:
            break
        a, b = best
        groups.append(groups[a] + groups[b])
        histograms.append(histograms[a] + histograms[b])
        sizes.append(_estimate(histograms[-1]))
        saving = {pair: value for pair, value in saving.items() if not {a, b} & set(pair)}
        alive -= {a, b}
        for other in sorted(alive):
            compare(other, len(groups) - 1)
        alive.add(len(groups) - 1)
    return [groups[index] for index in sorted(alive)]


def _estimate(counts: Counts) -> float:
    """Flash bytes of coded values and smallest tables, near enough for comparing."""
    return huffman.entropy(counts) * float(counts.sum()) / 8 + float(np.count_nonzero(counts)) + 48


def _code(
    members: tuple[str, ...],
    weights: Mapping[str, FrozenWeights],
    counts: Mapping[str, Counts],
    mode: PackMode,
    cost: DecodeCost,
) -> _Code:
    """A code for these tensors, with the quickest tables among those that take little more than the smallest."""
    total = np.sum([counts[name] for name in members], axis=0)
    lengths = huffman.code_lengths(total)
    longest = max(LOOKUP_BITS.start, int(lengths.max()))
    choices = [huffman.build_tables(lengths, bits) for bits in LOOKUP_BITS if bits <= longest]
    least = min(tables.flash_bytes for tables in choices)
    allowed = least + TABLE_ALLOWANCE[mode] * float(total.sum())
    choices = [tables for tables in choices if tables.flash_bytes <= allowed]

    def instructions(tables: Tables) -> float:
        return sum(decode_instructions(weights[name], lengths, tables, cost) for name in members)

    return _Code(members, lengths, min(choices, key=lambda tables: (instructions(tables), tables.flash_bytes)))


def _leaving(
    code: _Code,
    weights: Mapping[str, FrozenWeights],
    counts: Mapping[str, Counts],
    mode: PackMode,
    cost: DecodeCost,
) -> set[str]:
    """Who of a code's tensors is better off raw."""
    keep = 1 - MIN_SAVING if mode == "auto" else 1.0
    coded = {
        name: _words(huffman.stream_bytes(huffman.coded_bits(counts[name], code.lengths))) for name in code.members
    }
    raw = {name: _words(weights[name].values.size) for name in code.members}
    leaving = {name for name in code.members if coded[name] >= raw[name] or coded[name] > keep * raw[name]}
    if mode == "auto":
        leaving |= {
            name
            for name in code.members
            if decode_instructions(weights[name], code.lengths, code.tables, cost)
            > MAX_SLOWDOWN * weights[name].instructions
        }
    if leaving:
        return leaving
    flash, raw_flash = sum(coded.values()) + code.tables.flash_bytes, sum(raw.values())
    return set(code.members) if flash >= raw_flash or flash > keep * raw_flash else set()
