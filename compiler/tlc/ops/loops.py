# SPDX-License-Identifier: Apache-2.0
"""Broadcasts, transpositions and pads as a few nested loops, so that their kernels know nothing of shapes.

A loop is (count, step of the first operand, step of the second), steps in elements; loops stand outermost first. Axes of
one element are dropped, and neighbours that walk memory like one longer axis are merged: operands of the same shape are
one flat loop. With a batch axis of 1, rank 5 leaves at most :data:`MAX_LOOPS`, as ``firmware/src/kernels/walk.h`` has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from tlc.graph import Graph, Node, Shape
from tlc.ops.base import Reads

__all__ = [
    "MAX_LOOPS",
    "MAX_RANK",
    "merge_loops",
    "one_sample",
    "pair_loops",
    "rank_at_most_five",
    "same_quantization",
    "same_rows",
    "strides",
]

MAX_RANK = 5
MAX_LOOPS = 4


def strides(shape: Shape) -> list[int]:
    """Elements from one index to the next, per axis, of values that lie densely."""
    return [int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape))]


def merge_loops(loops: Iterable[tuple[int, int, int]]) -> NDArray[np.int32]:
    """The fewest loops that visit the same pairs of elements in the same order: int32 (loops, 3), at least one."""
    merged: list[tuple[int, int, int]] = []
    for count, first, second in loops:
        if count == 1:
            continue
        if merged and merged[-1][1:] == (count * first, count * second):
            count *= merged.pop()[0]
        merged.append((count, first, second))
    assert len(merged) <= MAX_LOOPS, merged
    return np.array(merged or [(1, 0, 0)], np.int32)


def pair_loops(a: Shape, b: Shape) -> NDArray[np.int32]:
    """The loops over the elements of NumPy's broadcast of two shapes; a step is 0 where an operand repeats."""
    rank = max(len(a), len(b))
    a, b = (1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b
    return merge_loops(
        (max(n, m), step_a if n > 1 else 0, step_b if m > 1 else 0)
        for n, m, step_a, step_b in zip(a, b, strides(a), strides(b), strict=True)
    )


def same_rows(graph: Graph, node: Node, first: int, last: int) -> Reads | None:
    """The same rows of each operand that is computed; None where an operand's rows are repeated, or a constant has several."""
    height = graph[node.output].shape[1:2]
    if len(graph[node.output].shape) != 4 or any(graph[name].shape[1:2] != height for name in graph.activations(node)):
        return None
    constants = [graph[name].shape for name in node.inputs if graph[name].is_constant]
    if any(len(shape) >= 3 and shape[-3] != 1 for shape in constants):
        return None
    return Reads(first, last, node.attrs)


# ---- rules that these operators share --------------------------------------------------------------------------------


def _shapes(graph: Graph, node: Node) -> Sequence[tuple[str, Shape]]:
    return [(name, graph[name].shape) for name in (*node.inputs, *node.outputs)]


def rank_at_most_five(graph: Graph, node: Node) -> str | None:
    """Tensors must have at most 5 axes."""
    return next((f"'{name}' has {len(shape)}" for name, shape in _shapes(graph, node) if len(shape) > MAX_RANK), None)


def one_sample(graph: Graph, node: Node) -> str | None:
    """The leading axis of activations is the batch and must be 1."""
    names = [*graph.activations(node), *node.outputs]
    return next((f"'{n}' has shape {graph[n].shape}" for n in names if graph[n].shape[:1] != (1,)), None)


def same_quantization(graph: Graph, node: Node) -> str | None:
    """Input and output must have the same scale and zero point, because the values are only moved."""
    x, y = graph[node.inputs[0]].quant, graph[node.output].quant
    if x is None or y is None or x.same(y):
        return None
    return f"they are {x.s:g}, {x.zero_point} and {y.s:g}, {y.zero_point}"
