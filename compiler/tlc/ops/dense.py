# SPDX-License-Identifier: Apache-2.0
"""Fully connected layer: y = x · Wᵀ + b on the last axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlc.graph import Graph, Node, Shape
from tlc.ops.base import Activation, Address, Array, Call, Operator, apply_activation
from tlc.ops.window import (
    constant_bias,
    constant_weight,
    exact_float,
    fitting_sum,
    fold_bias,
    int8_epilogue,
    quantized_fields,
)


@dataclass(frozen=True)
class Attrs:
    """Inputs: x (..., in), weight (out, in), optionally bias (out)."""

    activation: Activation = Activation.NONE


class Dense(Operator):
    """x (..., in), weight (out, in), bias (out) → (..., out)."""

    name = "dense"
    Attrs = Attrs
    rules = (constant_weight, constant_bias, fitting_sum)

    def infer(self, graph: Graph, node: Node) -> Shape:
        x, w = graph[node.inputs[0]], graph[node.inputs[1]]
        return (*x.shape[:-1], w.shape[0])

    def macs(self, graph: Graph, node: Node) -> int:
        return graph[node.inputs[0]].elements * graph[node.inputs[1]].shape[0]

    def weight_axis(self, node: Node) -> int | None:
        return 0

    def tf(self, node: Node, inputs: Sequence[Any]) -> Any:
        import tensorflow as tf

        y = tf.linalg.matmul(inputs[0], inputs[1], transpose_b=True)
        if len(inputs) > 2:
            y = y + inputs[2]
        return apply_activation(node.attrs.activation, y)

    def int8(self, graph: Graph, node: Node, inputs: Sequence[Array]) -> Array:
        x, w = inputs[0], inputs[1]
        quant_in = graph[node.inputs[0]].quant
        assert quant_in
        # Integer products summed in floating point are exact while it holds every partial sum, and BLAS is fast there.
        real = exact_float(w)
        acc = ((x.astype(real) - real(quant_in.zero_point)) @ w.astype(real).T).astype(np.int64)
        if len(inputs) > 2:
            acc = acc + inputs[2]
        return int8_epilogue(graph, node, acc)

    def call(self, graph: Graph, node: Node) -> Call:
        x = graph[node.inputs[0]]
        weights = graph.data(node.inputs[1])
        rows, bias = fold_bias(graph, node, weights)
        return Call(
            "tlc_dense_s8",
            "tlc_dense_t",
            {"samples": x.elements // x.shape[-1], "in": x.shape[-1], "out": len(weights)} | quantized_fields(graph, node),
            (Address(x.name), rows, bias, Address(node.output, is_output=True)),
        )
