# SPDX-License-Identifier: Apache-2.0
"""The first layers of a network, a strip of rows at a time, so that what lies between them never exists whole.

A strip is some rows of the last of these layers, from the left to the right edge. Each layer computes for it the rows that are
new, and finds those that strips before it computed: what the next strip reads again is kept. Nothing is computed twice; only
buffers become small. Lin et al. (MCUNetV2, arXiv 2110.15352) compute patches of both axes, and what they share again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tlc.graph import Graph, Node
from tlc.ops import REGISTRY
from tlc.ops.base import Call, Reads, Scratch, Table

__all__ = ["Part", "Span", "Strips", "divide"]

Span = tuple[int, int]
"""Rows [first, last)."""


@dataclass(frozen=True)
class Part:
    """What a layer does for a strip."""

    new: Span
    """Rows of its output that it computes."""
    reads: Reads


@dataclass(frozen=True)
class Strips:
    """The first nodes of a graph, which only the last of them leaves, and how they are computed."""

    graph: Graph
    parts: tuple[tuple[Part, ...], ...]
    """By strip and node."""
    held: dict[str, tuple[Span, ...]]
    """Of each activation between these nodes, by strip: the rows that are in its buffer."""
    known: dict[Any, Call] = field(default_factory=dict, compare=False, repr=False)
    """Calls that were made already, also for other strips of the graph."""

    @property
    def steps(self) -> int:
        """How many nodes."""
        return len(self.parts[0])

    @property
    def count(self) -> int:
        """How many strips."""
        return len(self.parts)

    @property
    def nodes(self) -> list[Node]:
        """These nodes."""
        return self.graph.nodes[: self.steps]

    @property
    def output(self) -> str:
        """What the last of them computes; it is whole."""
        return self.graph.nodes[self.steps - 1].output

    def row_bytes(self, tensor: str) -> int:
        """Of an activation."""
        return self.graph[tensor].bytes // self.graph[tensor].shape[1]

    def held_bytes(self, tensor: str) -> int:
        """What the buffer of an activation between these nodes takes."""
        return max(last - first for first, last in self.held[tensor]) * self.row_bytes(tensor)

    def kept(self, tensor: str, strip: int) -> int:
        """How many rows of an activation in the buffer of a strip are those of strips before."""
        return max(0, self.held[tensor][strip - 1][1] - self.held[tensor][strip][0]) if strip else 0

    def kept_bytes(self, tensor: str) -> int:
        """What is kept of an activation from strip to strip."""
        return max(self.kept(tensor, strip) for strip in range(self.count)) * self.row_bytes(tensor)

    def place(self, tensor: str, strip: int, row: int) -> int:
        """Where in its buffer a row lies."""
        return row - self.held[tensor][strip][0] if tensor in self.held else row

    def ahead(self, tensor: str) -> int | None:
        """By how many bytes an input must lie behind the beginning of the output, so that this never reaches rows of it that are
        still to be read; None: no distance does."""
        if tensor in self.nodes[-1].inputs:
            return None
        most = 0
        for strip in range(1, self.count):
            pairs = zip(self.nodes, self.parts[strip], strict=True)
            first = min(part.reads.first for node, part in pairs if tensor in node.inputs)
            written = self.parts[strip - 1][-1].new[1] * self.row_bytes(self.output)
            most = max(most, written - first * self.row_bytes(tensor))
        return most

    def single(self, strip: int, index: int) -> tuple[Graph, Node]:
        """A graph with one node alone, on the rows of a strip."""
        node, part = self.graph.nodes[index], self.parts[strip][index]
        small = Graph(self.graph.name)
        for name in {*node.inputs, node.output}:
            tensor = self.graph[name]
            if not tensor.is_constant:
                first, last = part.new if name == node.output else (part.reads.first, part.reads.last)
                tensor = dataclasses.replace(tensor, shape=(tensor.shape[0], last - first, *tensor.shape[2:]))
            small.add(tensor)
        return small, dataclasses.replace(node, attrs=part.reads.attrs)

    @cached_property
    def calls(self) -> tuple[tuple[Call, ...], ...]:
        """The calls, by node and strip."""
        made: list[tuple[Call, ...]] = []
        for index in range(self.steps):
            row = []
            for strip, parts in enumerate(self.parts):
                (first, last), reads = parts[index].new, parts[index].reads
                key = (index, last - first, reads.last - reads.first, reads.attrs)
                if key not in self.known:
                    graph, node = self.single(strip, index)
                    call = REGISTRY[node.op].call(graph, node)
                    assert call is not None
                    self.known[key] = call
                row.append(self.known[key])
            made.append(tuple(row))
        return tuple(made)

    def kinds(self, index: int) -> tuple[list[Call], list[int]]:
        """The calls of a node that differ from each other, and for each strip which of them is its."""
        different: dict[tuple[object, ...], int] = {}
        calls: list[Call] = []
        which = []
        for call in self.calls[index]:
            fields = call.fields.values()
            key = tuple(value.values.tobytes() if isinstance(value, Table) else value for value in fields)
            if key not in different:
                different[key] = len(calls)
                calls.append(call)
            which.append(different[key])
        return calls, which

    def macs(self, index: int) -> int:
        """Multiply-accumulates of a node in all strips together."""
        singles = [self.single(strip, index) for strip in range(self.count)]
        return sum(REGISTRY[node.op].macs(graph, node) for graph, node in singles)

    def call(self, index: int) -> Call:
        """The call of a node in the first strip, with the scratch that it wants in any."""
        calls = self.calls[index]
        most = [max(self._scratch(call)[i] for call in calls) for i in range(len(self._scratch(calls[0])))]
        sizes = iter(most)
        args = tuple(Scratch(next(sizes)) if isinstance(arg, Scratch) else arg for arg in calls[0].args)
        return dataclasses.replace(calls[0], args=args)

    @property
    def is_uniform(self) -> bool:
        """Whether every node calls the same function in all strips."""
        return all(len({call.function for call in calls}) == 1 for calls in self.calls)

    def _scratch(self, call: Call) -> list[int]:
        return [arg.bytes for arg in call.args if isinstance(arg, Scratch)]


def divide(graph: Graph, steps: int, count: int, known: dict[Any, Call] | None = None) -> Strips | None:
    """The first ``steps`` nodes in ``count`` strips, or fewer, where in one of them a layer would find nothing to do but padding.

    Activations between these nodes must be read by these nodes alone. None where that leaves one strip. ``known``: of other
    strips of this graph.
    """
    rows = graph[graph.nodes[steps - 1].output].shape[1]
    height = -(-rows // min(count, rows))
    ends = [*range(height, rows, height), rows]
    while len(ends) > 1:
        made = _divide(graph, steps, ends)
        if not isinstance(made, int):
            return made if known is None else dataclasses.replace(made, known=known)
        del ends[max(made - 1, 0)]
    return None


def _divide(graph: Graph, steps: int, ends: Sequence[int]) -> Strips | int:
    """Strips of the output's rows that end there; the number of one in which a layer has nothing to do."""
    nodes = graph.nodes[:steps]
    between = [node.output for node in nodes[:-1]]
    held: dict[str, list[Span]] = {name: [] for name in between}
    strips: list[tuple[Part, ...]] = []
    for number, end in enumerate(ends):
        wanted: dict[str, Span] = {nodes[-1].output: (ends[number - 1] if number else 0, end)}
        parts: list[Part] = []
        for node in reversed(nodes):
            first, last = wanted[node.output]
            if node.output in held:
                done = held[node.output][-1][1] if number else 0
                first = max(first, done)
            if first >= last:
                return number
            reads = REGISTRY[node.op].reads(graph, node, first, last)
            if reads is None:
                return number
            parts.append(Part((first, last), reads))
            for name in graph.activations(node):
                least, most = wanted.get(name, (reads.first, reads.last))
                wanted[name] = min(least, reads.first), max(most, reads.last)
        for name, spans in held.items():
            spans.append(wanted[name])
        strips.append(tuple(reversed(parts)))
    return Strips(graph, tuple(strips), {name: tuple(spans) for name, spans in held.items()})
