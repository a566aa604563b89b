# SPDX-License-Identifier: Apache-2.0
"""What the rewrites share: looking along chains of data movement, and constants that broadcast."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.build import attributes, emit
from tlc.graph import Graph, Node, Quant, Shape
from tlc.layout import Move, is_identity

__all__ = [
    "chain_to",
    "constant_operand",
    "inputs_behind",
    "is_move",
    "move_of",
    "only_reader",
    "replace_constant",
    "smallest",
    "write_chain",
]

Array = NDArray[Any]


def is_move(node: Node | None) -> bool:
    """Whether a node only moves data."""
    return node is not None and node.op in ("reshape", "transpose")


def move_of(node: Node) -> Move:
    """What such a node does."""
    if node.op == "reshape":
        return Move("reshape", tuple(node.attrs.shape))
    return Move("transpose", tuple(node.attrs.perm))


def chain_to(graph: Graph, name: str) -> tuple[str, list[Node]]:
    """The tensor where the moves that lead to a tensor begin, and these moves in order."""
    nodes: list[Node] = []
    producer = graph.producer(name)
    while producer is not None and is_move(producer):
        nodes.insert(0, producer)
        name = producer.inputs[0]
        producer = graph.producer(name)
    return name, nodes


def replace_constant(graph: Graph, node: Node, index: int, data: Array, quant: Quant | None = None) -> None:
    """Gives a node another constant, under the former one's name where nobody else reads that."""
    name = node.inputs[index]
    if len(graph.consumers(name)) == 1:
        del graph.tensors[name]
    node.inputs[index] = graph.constant(name, data, quant).name


def inputs_behind(graph: Graph, name: str) -> list[str]:
    """The graph inputs from which a tensor comes by nothing but element-wise arithmetic and padding, if their layout is
    still the file's: transposes may move up to there. Empty where anything else stands between."""
    found: list[str] = []
    pending, seen = [name], {name}
    while pending:
        here = pending.pop()
        node = graph.producer(here)
        if node is None:
            tensor = graph[here]
            if tensor.origin is None or tensor.origin.shape != tensor.shape or not is_identity(tensor.origin.perm):
                return []
            found.append(here)
            continue
        computed = graph.activations(node)
        same = all(graph[one].shape == graph[here].shape for one in computed)
        if node.op not in ("add", "clamp", "mul", "pad", "sub") or not (same or node.op == "pad"):
            return []
        pending += [one for one in dict.fromkeys(computed) if one not in seen]
        seen.update(computed)
    return sorted(found)


def write_chain(graph: Graph, source: str, moves: list[Move], *, name: str, at: int) -> tuple[str, int]:
    """Adds a chain before index ``at``; gives its last tensor and the index after it."""
    for move in moves:
        key = "shape" if move.kind == "reshape" else "perm"
        tensor = graph[source]
        made = emit(
            graph,
            move.kind,
            [source],
            attributes(move.kind, **{key: move.value}),
            name=name,
            node_name=f"{name}/{move.kind}",
            at=at,
            dtype=tensor.dtype,
            quant=tensor.quant,
        )
        source = made.name
        at += 1
    return source, at


def only_reader(graph: Graph, name: str) -> Node | None:
    """The node that alone reads a tensor (once) which is no output of the graph."""
    readers = graph.consumers(name)
    if len(readers) != 1 or name in graph.outputs or readers[0].inputs.count(name) != 1:
        return None
    return readers[0]


def constant_operand(graph: Graph, node: Node | None) -> int | None:
    """Which input of an add, sub or mul is a float constant; None where none or both are."""
    if node is None or node.op not in ("add", "sub", "mul"):
        return None
    constant = [i for i, name in enumerate(node.inputs) if graph[name].is_constant]
    if len(constant) != 1 or graph[node.inputs[constant[0]]].dtype != "float32":
        return None
    return constant[0]


def smallest(full: Array, shape: Shape) -> Array:
    """A constant of which ``full`` is the broadcast: axes along which it does not vary become 1."""
    full = np.broadcast_to(full, shape)
    for axis in range(full.ndim):
        first = full.take([0], axis=axis)
        if full.shape[axis] > 1 and np.array_equal(np.broadcast_to(first, full.shape), full):
            full = first
    return np.ascontiguousarray(full)
