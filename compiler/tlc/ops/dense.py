# SPDX-License-Identifier: Apache-2.0
"""Fully connected layer: y = x · Wᵀ + b on the last axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tlc.graph import Graph, Node, Shape
from tlc.ops.base import (
    Accumulator,
    Activation,
    Address,
    Array,
    Call,
    Grad,
    Operator,
    Table,
    apply_activation,
)
from tlc.ops.training import bias_call, mask, mask_call, sum_rows, weight_scale
from tlc.ops.training_int import (
    Fixed,
    add_bias_gradient,
    convolution_calls_int,
    input_gradient,
    masked,
    weight_gradient,
)
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
class PointwiseAttrs:
    """Of a 1 × 1 convolution, which a dense layer is to the gradients in integers."""

    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)


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
        acc = ((x.astype(real) - quant_in.zero_point) @ w.astype(real).T).astype(np.int64)
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
            {"samples": x.elements // x.shape[-1], "in": x.shape[-1], "out": len(weights)}
            | quantized_fields(graph, node),
            (Address(x.name), rows, bias, Address(node.output, is_output=True)),
        )

    def backward(self, graph: Graph, node: Node, wanted: frozenset[int], adding: frozenset[int]) -> list[Call] | None:
        x, output = graph[node.inputs[0]], graph[node.output]
        assert x.quant
        calls = mask_call(graph, node)
        shape: dict[str, int | float | Table] = {
            "samples": x.elements // x.shape[-1],
            "in": x.shape[-1],
            "out": output.shape[-1],
        }
        if 1 in wanted:
            fields = {**shape, "in_zp": x.quant.zero_point, "in_scale": float(x.quant.s)}
            fields |= {"out_first": 0, "outs": output.shape[-1], "in_first": 0, "ins": x.shape[-1]}
            args = (Address(x.name), Grad(output.name), Accumulator(node.inputs[1]))
            calls.append(Call("tlc_dense_weight_grad_f32", "tlc_dense_grad_t", fields, args))
        if 2 in wanted:
            calls.append(bias_call(graph, node))
        if 0 in wanted:  # the last, because it rescales the output's gradient
            scale = weight_scale(graph, node)
            fields = {
                **shape,
                "w_scale": Table("w_scale", scale),
                "per_channel": int(len(scale) > 1),
                "add": int(0 in adding),
            }
            rows, _ = fold_bias(graph, node, graph.data(node.inputs[1]))
            through = (rows, Grad(output.name, is_output=True), Grad(x.name, is_output=True))
            calls.append(Call("tlc_dense_input_grad_f32", "tlc_dense_grad_t", fields, through))
        return calls

    def gradient(
        self, graph: Graph, node: Node, inputs: Sequence[Array], output: Array, dy: Array, sums: Mapping[int, Array]
    ) -> None:
        quant = graph[node.inputs[0]].quant
        assert quant
        dy = mask(graph, node, output, dy).reshape(-1, dy.shape[-1])
        if 1 in sums:
            x = (inputs[0].astype(np.int32) - quant.zero_point).astype(np.float32).reshape(len(dy), -1)
            total = np.zeros(inputs[1].shape, np.float32)
            for row, values in zip(dy, x, strict=True):
                total += row[:, None] * values
            sums[1][...] += total * np.float32(quant.s)
        if 2 in sums:
            sums[2][...] += sum_rows(dy)
        if 0 in sums:
            dx = sums[0].reshape(len(dy), -1)
            scaled = dy * weight_scale(graph, node)
            for o, weights in enumerate(inputs[1].astype(np.float32)):
                dx += scaled[:, o, None] * weights

    def backward_int(
        self, graph: Graph, node: Node, wanted: frozenset[int], adding: frozenset[int]
    ) -> list[Call] | None:
        x, output = graph[node.inputs[0]], graph[node.output]
        assert x.quant
        rows, _ = fold_bias(graph, node, graph.data(node.inputs[1]))
        samples = x.elements // x.shape[-1]
        window: dict[str, int | float | Table] = {  # a pointwise convolution of one row
            "in_h": 1,
            "in_w": samples,
            "in_c": x.shape[-1],
            "out_h": 1,
            "out_w": samples,
            "out_c": output.shape[-1],
            "groups": 1,
            "kernel_h": 1,
            "kernel_w": 1,
            "stride_h": 1,
            "stride_w": 1,
            "dilation_h": 1,
            "dilation_w": 1,
            "pad_top": 0,
            "pad_left": 0,
            "in_zp": x.quant.zero_point,
        }
        return convolution_calls_int(graph, node, wanted, adding, window, rows)

    def gradient_int(
        self, graph: Graph, node: Node, inputs: Sequence[Array], output: Array, dy: Fixed, sums: Mapping[int, Fixed]
    ) -> None:
        quant = graph[node.inputs[0]].quant
        assert quant
        dy = masked(graph, node, output, dy)
        dy = replace(dy, values=dy.values.reshape(1, -1, dy.values.shape[-1]))
        pointwise = PointwiseAttrs()
        if 1 in sums:
            x = (inputs[0].astype(np.int64) - quant.zero_point).reshape(1, dy.values.shape[1], -1)
            sums[1].add(*weight_gradient(node, pointwise, x, dy, 1, (1, 1)))
        if 2 in sums:
            add_bias_gradient(sums[2], dy)
        if 0 in sums:
            w = inputs[1][:, None, None, :]
            sums[0].add(*input_gradient(graph, node, pointwise, w, dy, 1, dy.values.shape[:2]))
