# SPDX-License-Identifier: Apache-2.0
"""Which first layers are computed a strip of rows at a time, and in how many strips, so that a program takes less RAM.

Candidates are the beginnings of the network that only their last layer leaves, each in several numbers of strips. What a candidate
takes is bounded by what is alive at once, while the strips run and behind them; the best by that bound are placed, and the arena
that comes out decides. Few strips cost few instructions: no multiplication is done twice, but what a kernel does once a call, or
once for each row of weights, is done once a strip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tlc.errors import UsageError
from tlc.ops.base import Call
from tlc.passes.memory import alive
from tlc.passes.schedule import add_strips, layer_objection, objection
from tlc.program import Buffer, Program
from tlc.strips import Strips, divide

__all__ = ["COUNTS", "fewest", "least"]

COUNTS = (2, 4, 8, 16, 32, 64)
"""Numbers of strips that are tried."""
MOST_LAYERS = 20
PLACED = 4
"""Candidates that are placed before the search ends."""

Place = Callable[[Strips], Program]
"""Makes the program with its first steps in strips."""


@dataclass(frozen=True)
class _Candidate:
    strips: Strips
    bound: int


def least(program: Program, count: int, place: Place, packed: Mapping[str, int], *, strict: bool = True) -> Program:
    """The program with the smallest arena that up to so many strips give.

    Args:
        program: the program without strips.
        packed: per entropy-packed weight tensor, the bytes of a row.
        strict: False: the program as it is where strips do not help.

    Raises:
        UsageError: strict, and no first layers can be computed so, or they do not take less for it.
    """
    counts = sorted({count, *(n for n in COUNTS if n < count)})
    found = sorted(_candidates(program, counts, packed), key=lambda c: c.bound)
    made = [place(candidate.strips) for candidate in found[:PLACED]]
    best = min([program, *made], key=lambda one: one.arena_bytes)
    if strict and best is program:
        reason = f"that does not lower the arena of {program.arena_bytes:,} bytes" if made else _reason(program)
        raise UsageError(
            f"the first layers are not computed in strips: {reason}",
            where=f"--patches {count}",
            remedy="choose another number, or --patches auto",
        )
    return best


def fewest(program: Program, limit: int, place: Place, packed: Mapping[str, int]) -> Program:
    """A program whose arena takes no more than a limit, in as few strips, and of those as few layers, as that needs; where none
    does, the smallest that was found, which may be the one given."""
    smallest: list[_Candidate] = []
    for candidate in _candidates(program, COUNTS, packed):
        if candidate.bound <= limit:
            made = place(candidate.strips)
            if made.arena_bytes <= limit:
                return made
        smallest = sorted([*smallest, candidate], key=lambda c: c.bound)[:PLACED]
    made_of = [place(candidate.strips) for candidate in smallest if candidate.bound < program.arena_bytes]
    return min([program, *made_of], key=lambda one: one.arena_bytes)


def _candidates(program: Program, counts: Sequence[int], packed: Mapping[str, int]) -> Iterator[_Candidate]:
    """By number of strips, then of layers."""
    graph = program.graph
    taken = alive(program.buffers.values(), len(program.forward) + len(program.backward) + 1)
    first_end = min((part.forward for part in program.cuts), default=len(program.forward))
    always = max(taken[len(program.forward) :])  # no strips change the backward pass
    known: dict[Any, Call] = {}
    for count in counts:
        for steps in range(2, min(MOST_LAYERS, first_end) + 1):
            if layer_objection(program, steps - 1):
                break
            if objection(program, steps):
                continue
            strips = divide(graph, steps, count, known)
            if strips is None or not strips.is_uniform:
                continue
            bound = max(_most_alive(program, strips, packed), *taken[steps:])
            yield _Candidate(strips, bound)
            if bound <= always:
                break


def _most_alive(program: Program, strips: Strips, packed: Mapping[str, int]) -> int:
    """The most bytes that are alive at once while the strips run."""
    graph, end = program.graph, strips.steps - 1
    made = Program(graph, program.forward, program.backward, folded=program.folded)
    made.buffers = {name: Buffer(name, graph[name].bytes, 0, end) for name in graph.inputs if name != graph.tail}
    add_strips(made, strips, packed)
    return max(alive(made.buffers.values(), strips.steps))


def _reason(program: Program) -> str:
    """Why there is no candidate."""
    found = objection(program, min(2, len(program.forward)))
    return found or "no layers in a row, of which only the last is read elsewhere, have several rows"
