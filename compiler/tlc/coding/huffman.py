# SPDX-License-Identifier: Apache-2.0
"""Canonical length-limited Huffman coding of int8 values, and the decoding tables of ``tlc/huffman.h``.

A *histogram* is int64 of shape (256,), indexed by ``value + 128``. A *code* is its lengths: int8 of shape (256,),
:data:`ABSENT` for a value that does not occur. A value that is alone has a code of no bits at all.

The stream holds the codes one after the other, each with its most significant bit first; rows are not aligned. It is
kept in 16-bit words whose most significant bit comes first, and ends with one more word that the decoder may read and
never uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ABSENT",
    "LONGEST",
    "MAX_BITS",
    "PADDING_WORDS",
    "Tables",
    "build_tables",
    "canonical_codes",
    "code_lengths",
    "coded_bits",
    "decode",
    "encode",
    "entropy",
    "histogram",
    "kraft_sum",
    "stream_bytes",
]

ABSENT = -1
"""The length of the code of a value that does not occur."""
LONGEST = 16
"""No code may be longer: the decoder compares 16 bits."""
MAX_BITS = 13
"""The limit used: streams within 0.05% of unlimited ones on the MLPerf Tiny models' weights; 12 costs AD 0.16%."""
PADDING_WORDS = 1
"""Words behind the coded ones that the decoder may read."""

Values = NDArray[np.int8]
Counts = NDArray[np.int64]
Lengths = NDArray[np.int8]


def histogram(values: NDArray[Any]) -> Counts:
    """How often each int8 value occurs: (256,), indexed by value + 128."""
    return np.bincount(values.ravel().astype(np.int64) + 128, minlength=256)


def entropy(counts: Counts) -> float:
    """Zero-order entropy of a histogram in bits per value; 0 for an empty one."""
    used = counts[counts > 0].astype(np.float64)
    if used.size < 2:
        return 0.0
    p = used / used.sum()
    return float(-(p * np.log2(p)).sum())


def code_lengths(counts: Counts, limit: int = MAX_BITS) -> Lengths:
    """Lengths of the prefix code with the fewest coded bits among those with no code longer than ``limit`` bits.

    Package-merge (Larmore and Hirschberg, "A fast algorithm for optimal length-limited Huffman codes", J. ACM 37(3),
    1990). Ties are resolved by value, so that the same histogram always gives the same code.
    """
    symbols = np.flatnonzero(counts)
    lengths = np.full(256, ABSENT, np.int8)
    if symbols.size < 2:
        lengths[symbols] = 0
        return lengths
    assert symbols.size <= 1 << limit and limit <= LONGEST, (symbols.size, limit)
    symbols = symbols[np.argsort(counts[symbols], kind="stable")]
    leaves = [int(count) for count in counts[symbols]]

    # From the deepest level up, each level's list is the leaves merged with the pairs of the level below. Which of a
    # list's first items are leaves is all that is needed afterwards: they are the rarest symbols, in order.
    is_leaf: list[list[bool]] = []
    below: list[int] = []
    for _ in range(limit):
        packages = [below[i] + below[i + 1] for i in range(0, len(below) - 1, 2)]
        merged = sorted([(w, 0) for w in leaves] + [(w, 1) for w in packages])
        below = [weight for weight, _ in merged]
        is_leaf.append([kind == 0 for _, kind in merged])

    ranks = np.zeros(len(leaves), np.int8)
    taken = 2 * len(leaves) - 2
    for level in reversed(is_leaf):
        taken_leaves = sum(level[:taken])
        ranks[:taken_leaves] += 1
        taken = 2 * (taken - taken_leaves)
    lengths[symbols] = ranks
    return lengths


def kraft_sum(lengths: Lengths) -> float:
    """Σ 2^−length; 1 for a complete code."""
    return float((2.0 ** -lengths[lengths >= 0].astype(np.float64)).sum())


def canonical_codes(lengths: Lengths) -> NDArray[np.uint16]:
    """The code of each value, right-aligned: shorter codes come first, equally long ones by value. (256,)"""
    codes = np.zeros(256, np.uint16)
    code, previous = 0, 0
    for symbol in _canonical_order(lengths):
        length = int(lengths[symbol])
        code <<= length - previous
        codes[symbol] = code
        code, previous = code + 1, length
    return codes


def coded_bits(counts: Counts, lengths: Lengths) -> int:
    """Length of the coded values in bits."""
    assert not np.any((counts > 0) & (lengths < 0)), "a value without a code"
    return int(counts @ np.maximum(lengths, 0).astype(np.int64))


def stream_bytes(bits: int) -> int:
    """What that many coded bits take in flash, padding included."""
    return 2 * (-(-bits // 16) + PADDING_WORDS)


def encode(values: NDArray[Any], lengths: Lengths) -> NDArray[np.uint16]:
    """The stream of int8 values of any shape, in C order, with its padding: 16-bit words."""
    symbols = values.ravel().astype(np.int64) + 128
    length = lengths[symbols]
    assert symbols.size == 0 or int(length.min()) >= 0, "a value without a code"
    # One row a value: the code left-aligned in 16 bits, of which the first `length` are kept.
    aligned = (canonical_codes(lengths)[symbols].astype(np.uint32) << (16 - length.astype(np.uint32))).astype(">u2")
    rows = np.unpackbits(aligned.view(np.uint8).reshape(-1, 2), axis=1)
    bits = rows[np.arange(16) < length[:, None]]
    packed = np.zeros(stream_bytes(bits.size), np.uint8)
    packed[: -(-bits.size // 8)] = np.packbits(bits)
    return packed.view(">u2").astype(np.uint16)


def decode(stream: NDArray[np.uint16], lengths: Lengths, count: int) -> Values:
    """The first ``count`` values of a stream: the reference, one bit at a time.

    Raises:
        ValueError: the stream ends before the last value, or holds bits that are no code.
    """
    by_code = {
        (int(length), int(code)): symbol
        for symbol, (length, code) in enumerate(zip(lengths, canonical_codes(lengths), strict=True))
        if length >= 0
    }
    bits = np.unpackbits(stream.astype(">u2").view(np.uint8)).tolist()
    values = np.empty(count, np.int8)
    position = 0
    for index in range(count):
        length, code = 0, 0
        while (length, code) not in by_code:
            if position == len(bits) or length == LONGEST:
                raise ValueError(f"value {index} of {count} is cut off or has no code")
            code = code << 1 | bits[position]
            position, length = position + 1, length + 1
        values[index] = by_code[length, code] - 128
    return values


@dataclass(frozen=True, eq=False)
class Tables:
    """The fields of ``tlc_huffman_t``; the same code can have tables of different width ``lookup_bits``.

    ``lookup`` is indexed by the stream's next ``lookup_bits`` bits: length · 256 + value where the code is no longer
    than that, else minus the shortest length of a code that begins so. Longer codes are found by comparing 16 bits
    with ``last``, the greatest left-aligned code of each length from ``first`` on; ``base`` then turns the code into
    an index of ``symbols``, modulo 256.
    """

    lookup_bits: int
    first: int
    lookup: NDArray[np.int16]  # (1 << lookup_bits)
    last: NDArray[np.uint16]  # (lengths from first on)
    base: NDArray[np.uint8]  # (lengths from first on)
    symbols: NDArray[np.int8]  # (values whose code is longer than lookup_bits), in the codes' order

    @property
    def flash_bytes(self) -> int:
        """What it takes on a 32-bit target: each array rounded up to a word, four pointers, and two bytes in a word."""
        arrays = (self.lookup, self.last, self.base, self.symbols)
        return sum(-(-array.nbytes // 4) * 4 for array in arrays) + 4 * 4 + 4


def build_tables(lengths: Lengths, lookup_bits: int) -> Tables:
    """The decoding tables of a complete code, for a first look-up of ``lookup_bits`` ≥ 1 bits."""
    assert 1 <= lookup_bits <= LONGEST and kraft_sum(lengths) == 1.0
    order = _canonical_order(lengths)
    codes = canonical_codes(lengths)
    lookup = np.zeros(1 << lookup_bits, np.int16)
    long: list[int] = []
    for symbol in order:
        length, code = int(lengths[symbol]), int(codes[symbol])
        if length <= lookup_bits:
            spare = lookup_bits - length
            lookup[code << spare : (code + 1) << spare] = length << 8 | (symbol - 128) & 0xFF
        else:
            prefix = code >> (length - lookup_bits)
            if lookup[prefix] == 0:
                lookup[prefix] = -length
            long.append(symbol)
    first = int(lengths[long[0]]) if long else LONGEST
    levels = range(first, int(lengths[long[-1]]) + 1) if long else range(0)
    last, base = np.zeros(len(levels), np.uint16), np.zeros(len(levels), np.uint8)
    for level, length in enumerate(levels):
        ranks = [rank for rank, symbol in enumerate(long) if lengths[symbol] == length]
        if ranks:
            last[level] = ((int(codes[long[ranks[-1]]]) + 1) << (16 - length)) - 1
            base[level] = (ranks[0] - int(codes[long[ranks[0]]])) & 0xFF
        else:
            last[level] = last[level - 1]  # what is greater than the previous is greater than this one, too
    return Tables(lookup_bits, first, lookup, last, base, np.array([symbol - 128 for symbol in long], np.int8))


def _canonical_order(lengths: Lengths) -> list[int]:
    present = np.flatnonzero(lengths >= 0)
    return [int(symbol) for symbol in present[np.argsort(lengths[present], kind="stable")]]
