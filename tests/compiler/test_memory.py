# SPDX-License-Identifier: Apache-2.0
"""The arena planner: buffers that live at the same time never overlap, and the arena is near the lower bound."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tlc.passes.memory import lower_bound, place
from tlc.program import ALIGN, Buffer

lives = st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 20), st.integers(0, 6)), min_size=1, max_size=25).map(
    lambda rows: [Buffer(f"b{i}", size, first, first + span) for i, (size, first, span) in enumerate(rows)]
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(lives)
def test_live_buffers_never_overlap(buffers: list[Buffer]) -> None:
    size = place(buffers)
    assert size >= lower_bound(buffers)
    for i, a in enumerate(buffers):
        assert a.offset % ALIGN == 0
        assert a.offset + a.bytes <= size
        for b in buffers[i + 1 :]:
            together = a.first <= b.last and b.first <= a.last
            apart = a.offset + a.bytes <= b.offset or b.offset + b.bytes <= a.offset
            assert apart or not together, (a, b)


def test_a_chain_needs_only_its_two_largest_neighbours() -> None:
    sizes = [64, 640, 320, 96, 16]
    buffers = [Buffer(str(i), size, i, i + 1) for i, size in enumerate(sizes)]
    assert place(buffers) == 960 == lower_bound(buffers)


def test_a_shared_buffer_takes_no_room() -> None:
    alias = Buffer("alias", 100, 1, 2, shares="owner")
    assert place([Buffer("owner", 100, 0, 2), alias]) == 112
