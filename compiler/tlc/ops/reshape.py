# SPDX-License-Identifier: Apache-2.0
"""The same bytes under another shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlc.errors import ModelError
from tlc.graph import Graph, Node, Shape
from tlc.ops.base import Array, Call, Operator
from tlc.ops.loops import one_sample, rank_at_most_five, same_quantization
from tlc.ops.training import copy_call
from tlc.ops.training_int import Fixed, copy_call_int


@dataclass(frozen=True)
class Attrs:
    """Input: x. ``shape`` is the output's, its leading axis 1."""

    shape: Shape


class Reshape(Operator):
    """x under another shape; the batch axis stays."""

    name = "reshape"
    Attrs = Attrs
    rules = (rank_at_most_five, one_sample, same_quantization)
    same_quant = True
    alias = True

    def infer(self, graph: Graph, node: Node) -> Shape:
        x, shape = graph[node.inputs[0]], tuple(node.attrs.shape)
        if int(np.prod(shape, dtype=np.int64)) != x.elements:
            raise ModelError(
                f"a reshape must keep the number of values, but {x.shape} becomes {shape}",
                where=f"reshape '{node.name}'",
            )
        return shape

    def tf(self, node: Node, inputs: Sequence[Any]) -> Any:
        import tensorflow as tf

        return tf.reshape(inputs[0], (-1, *node.attrs.shape[1:]))

    def int8(self, graph: Graph, node: Node, inputs: Sequence[Array]) -> Array:
        return inputs[0].reshape(len(inputs[0]), *node.attrs.shape[1:])

    def call(self, graph: Graph, node: Node) -> None:
        return None

    def backward(self, graph: Graph, node: Node, wanted: frozenset[int], adding: frozenset[int]) -> list[Call] | None:
        return [copy_call(graph, node, 0, 0 in adding)]

    def gradient(
        self, graph: Graph, node: Node, inputs: Sequence[Array], output: Array, dy: Array, sums: Mapping[int, Array]
    ) -> None:
        sums[0][...] += dy.reshape(inputs[0].shape)

    def backward_int(
        self, graph: Graph, node: Node, wanted: frozenset[int], adding: frozenset[int]
    ) -> list[Call] | None:
        return [copy_call_int(graph, node, 0, 0 in adding)]

    def gradient_int(
        self, graph: Graph, node: Node, inputs: Sequence[Array], output: Array, dy: Fixed, sums: Mapping[int, Fixed]
    ) -> None:
        sums[0].put(dy)
