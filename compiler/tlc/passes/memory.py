# SPDX-License-Identifier: Apache-2.0
"""One arena for every buffer: offsets such that buffers that live at the same time do not overlap.

Greedy by size, each at the lowest offset that is free during its life (arXiv 2001.03288, "greedy by size for offset
calculation"), tried in several orders; the smallest arena wins. What is computed in place over something larger
(``Buffer.over``) begins where that begins, and the two are placed as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tlc.program import Buffer, align

__all__ = ["alive", "lower_bound", "place"]

Chain = list[Buffer]
"""Buffers that begin at the same offset, each computed over the one before; mostly one."""


def place(buffers: Iterable[Buffer]) -> int:
    """Sets the offset of every buffer that owns its memory; returns the arena's size in bytes."""
    chains = _chains(buffers)
    orders: list[Callable[[Chain], tuple[int | str, ...]]] = [
        lambda c: (-_bytes(c), c[0].first, c[0].name),
        lambda c: (-_life(c), -_bytes(c), c[0].name),
        lambda c: (-sum(b.bytes * (b.last - b.first + 1) for b in c), c[0].name),
        lambda c: (c[0].first, -_bytes(c), c[0].name),
    ]
    best: tuple[int, list[int]] | None = None
    least = _most_alive(chains)
    for order in orders:
        size = _place_in_order(sorted(chains, key=order))
        if best is None or size < best[0]:
            best = (size, [chain[0].offset for chain in chains])
        if size == least:
            break
    assert best is not None
    for chain, offset in zip(chains, best[1], strict=True):
        for buffer in chain:
            buffer.offset = offset
    return best[0]


def lower_bound(buffers: Iterable[Buffer]) -> int:
    """The most bytes alive at once: no arena is smaller."""
    return _most_alive(_chains(buffers))


def alive(buffers: Iterable[Buffer], steps: int) -> list[int]:
    """How many bytes are alive at each of so many steps."""
    chains = _chains(buffers)
    return [sum(_alive(chain, step) for chain in chains) for step in range(steps)]


def _most_alive(chains: list[Chain]) -> int:
    steps = {buffer.first for chain in chains for buffer in chain}
    return max((sum(_alive(chain, step) for chain in chains) for step in steps), default=0)


def _chains(buffers: Iterable[Buffer]) -> list[Chain]:
    chains: dict[str, Chain] = {}
    for buffer in buffers:
        if buffer.shares is None:
            chain = [] if buffer.over is None else chains[buffer.over]
            chain.append(buffer)
            chains[buffer.name] = chain
    found = {id(chain): chain for chain in chains.values()}
    return list(found.values())


def _bytes(chain: Chain) -> int:
    return max(buffer.bytes for buffer in chain)


def _life(chain: Chain) -> int:
    return max(buffer.last for buffer in chain) - chain[0].first


def _alive(chain: Chain, step: int) -> int:
    return max((align(b.bytes) for b in chain if b.first <= step <= b.last), default=0)


def _place_in_order(chains: list[Chain]) -> int:
    placed: list[Buffer] = []
    for chain in chains:
        offset = max(_lowest(placed, buffer, 0) for buffer in chain)
        while len(chain) > 1:
            again = max(_lowest(placed, buffer, offset) for buffer in chain)
            if again == offset:
                break
            offset = again
        for buffer in chain:
            buffer.offset = offset
        placed += chain
    return align(max((b.offset + b.bytes for b in placed), default=0))


def _lowest(placed: list[Buffer], buffer: Buffer, offset: int) -> int:
    """The lowest offset from there on at which a buffer is alone."""
    meeting = [other for other in placed if other.first <= buffer.last and buffer.first <= other.last]
    for other in sorted(meeting, key=lambda b: b.offset):
        if offset + buffer.bytes <= other.offset:
            break
        offset = max(offset, align(other.offset + other.bytes))
    return offset
