# SPDX-License-Identifier: Apache-2.0
"""Fully connected layer: y = x · Wᵀ + b on the last axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlc.graph import Graph, Node, Shape
from tlc.ops.base import (
    Accumulator,
    Activation,
    Address,
    Array,
    Bias,
    Call,
    Grad,
    Operator,
    Rows,
    Table,
    activation_range,
    apply_activation,
    quantize_multipliers,
    requantize,
)
from tlc.ops.training import bias_call, mask, mask_call, sum_rows


def constant_weight(graph: Graph, node: Node) -> str | None:
    """The weight must be a constant."""
    return None if graph[node.inputs[1]].is_constant else f"'{node.inputs[1]}' is computed"


@dataclass(frozen=True)
class Attrs:
    """Inputs: x (..., in), weight (out, in), optionally bias (out)."""

    activation: Activation = Activation.NONE


class Dense(Operator):
    """x (..., in), weight (out, in), bias (out) → (..., out)."""

    name = "dense"
    Attrs = Attrs
    rules = (constant_weight,)

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
        quant_in, quant_w, quant_out = (graph[name].quant for name in (*node.inputs[:2], node.output))
        assert quant_in and quant_w and quant_out
        # Products of int8 summed in double are exact below 2^53, and BLAS is fast there.
        acc = (x.astype(np.float64) - quant_in.zero_point) @ w.astype(np.float64).T
        if len(inputs) > 2:
            acc = acc + inputs[2]
        multiplier, shift = quantize_multipliers(quant_in.s * quant_w.scale.astype(np.float64) / quant_out.s)
        low, high = activation_range(node.attrs.activation, quant_out)
        y = requantize(acc.astype(np.int64), multiplier, shift) + quant_out.zero_point
        return np.clip(y, low, high).astype(np.int8)

    def call(self, graph: Graph, node: Node) -> Call:
        x, w = graph[node.inputs[0]], graph[node.inputs[1]]
        quant_in, quant_out = x.quant, graph[node.output].quant
        assert quant_in and quant_out and w.quant
        weights = graph.data(w.name)
        bias_name = node.inputs[2] if len(node.inputs) > 2 else None
        bias = graph.data(bias_name) if bias_name else np.zeros(len(weights), np.int32)
        folded = bias.astype(np.int64) - quant_in.zero_point * weights.sum(axis=1, dtype=np.int64)
        multiplier, shift = quantize_multipliers(quant_in.s * w.quant.scale.astype(np.float64) / quant_out.s)
        low, high = activation_range(node.attrs.activation, quant_out)
        return Call(
            "tlc_dense_s8",
            "tlc_dense_t",
            {
                "samples": x.elements // x.shape[-1],
                "in": x.shape[-1],
                "out": len(weights),
                "out_zp": quant_out.zero_point,
                "act_min": low,
                "act_max": high,
                "per_channel": int(len(multiplier) > 1),
                "mult": Table("mult", multiplier),
                "shift": Table("shift", shift),
            },
            (
                Address(x.name),
                Rows(w.name, weights),
                Bias(bias_name, folded.astype(np.int32)),
                Address(node.output, is_output=True),
            ),
        )

    def backward(self, graph: Graph, node: Node, wanted: frozenset[int], adding: frozenset[int]) -> list[Call] | None:
        if 0 in wanted:
            return None
        x, output = graph[node.inputs[0]], graph[node.output]
        assert x.quant
        calls = mask_call(graph, node)
        if 1 in wanted:
            fields: dict[str, int | float | Table] = {
                "samples": x.elements // x.shape[-1],
                "in": x.shape[-1],
                "out": output.shape[-1],
                "in_zp": x.quant.zero_point,
                "in_scale": float(x.quant.s),
            }
            args = (Address(x.name), Grad(output.name), Accumulator(node.inputs[1]))
            calls.append(Call("tlc_dense_weight_grad_f32", "tlc_dense_grad_t", fields, args))
        return calls + ([bias_call(graph, node)] if 2 in wanted else [])

    def gradient(
        self, graph: Graph, node: Node, inputs: Sequence[Array], output: Array, dy: Array, wanted: frozenset[int]
    ) -> dict[int, Array]:
        quant = graph[node.inputs[0]].quant
        assert quant
        dy = mask(graph, node, output, dy).reshape(-1, dy.shape[-1])
        result: dict[int, Array] = {}
        if 1 in wanted:
            x = (inputs[0].astype(np.int32) - quant.zero_point).astype(np.float32).reshape(len(dy), -1)
            g = dy * np.float32(quant.s)
            total = np.zeros(inputs[1].shape, np.float32)
            for row, values in zip(g, x, strict=True):
                total += np.where(row[:, None] != 0, row[:, None] * values, np.float32(0))
            result[1] = total
        if 2 in wanted:
            result[2] = sum_rows(dy)
        return result
