# SPDX-License-Identifier: Apache-2.0
"""Axes in another order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlc.graph import Graph, Node, Shape
from tlc.ops.base import Address, Array, Call, Operator, Table
from tlc.ops.loops import merge_loops, one_sample, rank_at_most_five, same_quantization, strides
from tlc.ops.training import move_call
from tlc.ops.training_int import Fixed, move, move_calls_int


def batch_stays_first(graph: Graph, node: Node) -> str | None:
    """The batch axis must stay the first."""
    return None if node.attrs.perm[0] == 0 else f"the permutation is {node.attrs.perm}"


@dataclass(frozen=True)
class Attrs:
    """Input: x. Axis i of the output is axis ``perm[i]`` of x."""

    perm: tuple[int, ...]


class Transpose(Operator):
    """x with its axes permuted."""

    name = "transpose"
    Attrs = Attrs
    rules = (rank_at_most_five, batch_stays_first, one_sample, same_quantization)
    same_quant = True

    def infer(self, graph: Graph, node: Node) -> Shape:
        shape = graph[node.inputs[0]].shape
        return tuple(shape[axis] for axis in node.attrs.perm)

    def tf(self, node: Node, inputs: Sequence[Any]) -> Any:
        import tensorflow as tf

        return tf.transpose(inputs[0], node.attrs.perm)

    def int8(self, graph: Graph, node: Node, inputs: Sequence[Array]) -> Array:
        return inputs[0].transpose(node.attrs.perm)

    def call(self, graph: Graph, node: Node) -> Call:
        x, y = graph[node.inputs[0]], graph[node.output]
        steps = strides(x.shape)
        loops = merge_loops(
            (count, steps[axis], step)
            for count, axis, step in zip(y.shape, node.attrs.perm, strides(y.shape), strict=True)
        )
        return Call(
            "tlc_transpose_s8",
            "tlc_transpose_t",
            {"rank": len(loops), "loops": Table("loops", loops)},
            (Address(x.name), Address(y.name, is_output=True)),
        )

    def backward(self, graph: Graph, node: Node, wanted: frozenset[int], adding: frozenset[int]) -> list[Call] | None:
        x, y = graph[node.inputs[0]], graph[node.output]
        steps = strides(x.shape)
        loops = merge_loops(
            (count, steps[axis], step)
            for count, axis, step in zip(y.shape, node.attrs.perm, strides(y.shape), strict=True)
        )
        return [move_call(graph, node, 0, loops, add=0 in adding)]

    def gradient(
        self, graph: Graph, node: Node, inputs: Sequence[Array], output: Array, dy: Array, sums: Mapping[int, Array]
    ) -> None:
        sums[0][...] += dy.transpose(np.argsort(node.attrs.perm))

    def backward_int(
        self, graph: Graph, node: Node, wanted: frozenset[int], adding: frozenset[int]
    ) -> list[Call] | None:
        x, y = graph[node.inputs[0]], graph[node.output]
        steps = strides(x.shape)
        loops = merge_loops(
            (count, steps[axis], step)
            for count, axis, step in zip(y.shape, node.attrs.perm, strides(y.shape), strict=True)
        )
        return move_calls_int(graph, node, 0, loops, add=0 in adding)

    def gradient_int(
        self, graph: Graph, node: Node, inputs: Sequence[Array], output: Array, dy: Fixed, sums: Mapping[int, Fixed]
    ) -> None:
        moved = move(dy)
        sums[0].put(Fixed(moved.values.transpose(np.argsort(node.attrs.perm)), moved.scale, True))
