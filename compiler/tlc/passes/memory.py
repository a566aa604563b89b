# SPDX-License-Identifier: Apache-2.0
"""One arena for every buffer: offsets such that buffers that live at the same time do not overlap.

Greedy by size, each at the lowest offset that is free during its life (arXiv 2001.03288, "greedy by size for offset
calculation"), tried in several orders; the smallest arena wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tlc.program import Buffer, align

__all__ = ["lower_bound", "place"]


def place(buffers: Iterable[Buffer]) -> int:
    """Sets the offset of every buffer that owns its memory; returns the arena's size in bytes."""
    owners = [buffer for buffer in buffers if buffer.shares is None]
    orders: list[Callable[[Buffer], tuple[int | str, ...]]] = [
        lambda b: (-b.bytes, b.first, b.name),
        lambda b: (-(b.last - b.first), -b.bytes, b.name),
        lambda b: (-b.bytes * (b.last - b.first + 1), b.name),
        lambda b: (b.first, -b.bytes, b.name),
    ]
    best: tuple[int, list[int]] | None = None
    for order in orders:
        size = _place_in_order(sorted(owners, key=order))
        if best is None or size < best[0]:
            best = (size, [buffer.offset for buffer in owners])
    assert best is not None
    for buffer, offset in zip(owners, best[1], strict=True):
        buffer.offset = offset
    return best[0]


def lower_bound(buffers: Iterable[Buffer]) -> int:
    """The most bytes alive at once: no arena is smaller."""
    owners = [buffer for buffer in buffers if buffer.shares is None]
    steps = {buffer.first for buffer in owners}
    return max((sum(align(b.bytes) for b in owners if b.first <= step <= b.last) for step in steps), default=0)


def _place_in_order(buffers: list[Buffer]) -> int:
    placed: list[Buffer] = []
    for buffer in buffers:
        offset = 0
        for other in sorted(placed, key=lambda b: b.offset):
            if other.last < buffer.first or buffer.last < other.first:
                continue
            if offset + buffer.bytes <= other.offset:
                break
            offset = max(offset, align(other.offset + other.bytes))
        buffer.offset = offset
        placed.append(buffer)
    return align(max((b.offset + b.bytes for b in placed), default=0))
