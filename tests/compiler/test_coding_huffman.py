# SPDX-License-Identifier: Apache-2.0
"""Canonical length-limited Huffman coding: round trips, optimality, determinism, and the tables of the C decoder."""

from __future__ import annotations

import heapq
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from tlc.coding import huffman

int8_arrays = npst.arrays(np.int8, npst.array_shapes(max_dims=2, min_side=0, max_side=40))
skewed = st.lists(st.integers(1, 1 << 40), min_size=2, max_size=200)


def counts_of(frequencies: list[int]) -> NDArray[np.int64]:
    counts = np.zeros(256, np.int64)
    counts[: len(frequencies)] = frequencies
    return counts


def table_decode(stream: NDArray[np.uint16], tables: huffman.Tables, count: int) -> NDArray[np.int8]:
    """What the C decoder does, on integers of any size."""
    bits = "".join(f"{int(word):016b}" for word in stream) + "0" * 16
    values, position = np.empty(count, np.int8), 0
    for index in range(count):
        entry = int(tables.lookup[int(bits[position : position + tables.lookup_bits], 2)])
        if entry >= 0:
            length, value = entry >> 8, entry & 0xFF
        else:
            ahead, length = int(bits[position : position + 16], 2), -entry
            while ahead > tables.last[length - tables.first]:
                length += 1
            value = int(tables.symbols[((ahead >> (16 - length)) + int(tables.base[length - tables.first])) & 0xFF])
        values[index] = np.uint8(value & 0xFF).astype(np.int8)
        position += length
    return values


@given(int8_arrays, st.sampled_from([8, 9, 13, 16]))
def test_round_trip(values: NDArray[np.int8], limit: int) -> None:
    lengths = huffman.code_lengths(huffman.histogram(values), limit)
    stream = huffman.encode(values, lengths)
    assert np.array_equal(huffman.decode(stream, lengths, values.size), values.ravel())


@given(int8_arrays.filter(lambda values: values.size > 0), st.integers(1, 10))
def test_tables_decode_what_the_reference_decodes(values: NDArray[np.int8], lookup_bits: int) -> None:
    lengths = huffman.code_lengths(huffman.histogram(values))
    tables = huffman.build_tables(lengths, lookup_bits)
    assert np.array_equal(table_decode(huffman.encode(values, lengths), tables, values.size), values.ravel())


@given(skewed, st.integers(8, 16))
def test_codes_are_complete_and_within_the_limit(frequencies: list[int], limit: int) -> None:
    lengths = huffman.code_lengths(counts_of(frequencies), limit)
    assert huffman.kraft_sum(lengths) == 1.0
    assert lengths.max() <= limit
    assert np.array_equal(lengths >= 0, counts_of(frequencies) > 0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 1000), min_size=2, max_size=7), st.integers(3, 5))
def test_no_assignment_of_lengths_is_shorter(frequencies: list[int], limit: int) -> None:
    counts = counts_of(frequencies)
    best = min(
        sum(count * length for count, length in zip(sorted(frequencies, reverse=True), lengths, strict=True))
        for lengths in itertools.combinations_with_replacement(range(1, limit + 1), len(frequencies))
        if sum(2.0**-length for length in lengths) <= 1
    )
    assert huffman.coded_bits(counts, huffman.code_lengths(counts, limit)) == best


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=200))
def test_a_limit_that_does_not_bind_gives_huffmans_cost(frequencies: list[int]) -> None:
    heap, total = list(frequencies), 0
    heapq.heapify(heap)
    while len(heap) > 1:
        pair = heapq.heappop(heap) + heapq.heappop(heap)
        total += pair
        heapq.heappush(heap, pair)
    counts = counts_of(frequencies)
    coded = huffman.coded_bits(counts, huffman.code_lengths(counts, 16))
    # With counts up to 1000 and 200 of them, a code of more than 16 bits would need a Fibonacci-like tail.
    assert coded == total


def test_one_value_takes_no_bits() -> None:
    values = np.full((3, 5), -128, np.int8)
    lengths = huffman.code_lengths(huffman.histogram(values))
    stream = huffman.encode(values, lengths)
    assert huffman.coded_bits(huffman.histogram(values), lengths) == 0
    assert stream.size == huffman.PADDING_WORDS
    assert np.array_equal(huffman.decode(stream, lengths, 15), values.ravel())
    assert np.array_equal(table_decode(stream, huffman.build_tables(lengths, 1), 15), values.ravel())


def test_all_values_equally_often_take_eight_bits() -> None:
    values = np.arange(-128, 128).astype(np.int8)
    lengths = huffman.code_lengths(huffman.histogram(values))
    assert np.all(lengths == 8)
    assert np.array_equal(huffman.canonical_codes(lengths), np.arange(256))
    assert huffman.entropy(huffman.histogram(values)) == 8.0


def test_all_values_with_the_least_limit() -> None:
    counts = np.array([1 << (index // 8) for index in range(256)], np.int64)
    assert np.all(huffman.code_lengths(counts, 8) == 8)


def test_no_values() -> None:
    values = np.zeros((0, 4), np.int8)
    lengths = huffman.code_lengths(huffman.histogram(values))
    assert huffman.entropy(huffman.histogram(values)) == 0.0
    assert huffman.decode(huffman.encode(values, lengths), lengths, 0).size == 0


def test_codes_are_canonical() -> None:
    """Worked by hand: 0 seven times, then 1, -1, 5: 1, 2, 3, 3 bits."""
    values = np.array([0] * 7 + [1] * 3 + [-1] * 2 + [5], np.int8)
    lengths = huffman.code_lengths(huffman.histogram(values))
    codes = huffman.canonical_codes(lengths)
    assert {value: (int(lengths[value + 128]), int(codes[value + 128])) for value in (0, 1, -1, 5)} == {
        0: (1, 0b0),
        1: (2, 0b10),
        -1: (3, 0b110),
        5: (3, 0b111),
    }
    assert huffman.encode(np.array([5, 0, 1, -1], np.int8), lengths).tolist() == [0b1110101100000000, 0]


def test_sizes_are_those_of_the_stream() -> None:
    values = np.random.default_rng(1).normal(0, 9, 5000).round().astype(np.int8)
    counts = huffman.histogram(values)
    lengths = huffman.code_lengths(counts)
    bits = huffman.coded_bits(counts, lengths)
    assert huffman.encode(values, lengths).nbytes == huffman.stream_bytes(bits)
    assert huffman.entropy(counts) <= bits / 5000 < huffman.entropy(counts) + 0.05


def test_table_bytes() -> None:
    tables = huffman.build_tables(huffman.code_lengths(counts_of([100, 50, 20, 3, 1])), 2)
    arrays: list[NDArray[Any]] = [tables.lookup, tables.last, tables.base, tables.symbols]
    assert [array.nbytes for array in arrays] == [8, 4, 2, 3]
    assert tables.flash_bytes == 8 + 4 + 4 + 4 + 20


@pytest.mark.parametrize("damage", ["short", "no_code"])
def test_a_stream_that_is_no_stream(damage: str) -> None:
    values = np.array([1, 2, 3, 3], np.int8)
    lengths = huffman.code_lengths(huffman.histogram(values))
    if damage == "no_code":
        lengths = lengths.copy()
        lengths[1 + 128] = huffman.ABSENT
    with pytest.raises(ValueError, match="cut off or has no code"):
        huffman.decode(np.array([0xFFFF, 0xAAAA], np.uint16), lengths, 100)
