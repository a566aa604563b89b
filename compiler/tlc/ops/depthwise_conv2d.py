# SPDX-License-Identifier: Apache-2.0
"""Depthwise convolution: each input channel gives M output channels of its own; padding reads real zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tlc.graph import Graph, Node, Shape
from tlc.ops.base import Activation, Address, Array, Call, Operator, Reads, Scratch, apply_activation
from tlc.ops.conv2d import covered, dilate, geometry
from tlc.ops.training import (
    add_input_gradient,
    add_weight_gradient,
    convolution_calls,
    mask,
    sum_rows,
    weight_scale,
)
from tlc.ops.training_int import (
    Fixed,
    add_bias_gradient,
    convolution_calls_int,
    input_gradient,
    masked,
    weight_gradient,
)
from tlc.ops.window import (
    Pads,
    constant_bias,
    constant_weight,
    fitting_sum,
    fold_bias,
    int8_epilogue,
    output_hw,
    pad_hw,
    positive_pads,
    quantized_fields,
    samples_at_once,
    tap_slices,
    tf_pad_hw,
    window_reads,
)


def whole_multiplier(graph: Graph, node: Node) -> str | None:
    """The weight must be (1, height, width, channels), with a multiple of the input's channels."""
    x, w = graph[node.inputs[0]].shape, graph[node.inputs[1]].shape
    holds = len(x) == len(w) == 4 and w[0] == 1 and w[3] % x[3] == 0
    return None if holds else f"the input is {x} and the weight is {w}"


@dataclass(frozen=True)
class Attrs:
    """Inputs: x (N, H, W, C), weight (1, KH, KW, C · M), optionally bias (C · M).

    ``pads``: top, left, bottom, right.
    """

    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: Pads = (0, 0, 0, 0)
    activation: Activation = Activation.NONE


class DepthwiseConv2d(Operator):
    """x (N, H, W, C), weight (1, KH, KW, C · M), bias (C · M) → (N, OH, OW, C · M).

    Output channel c · M + m reads input channel c.
    """

    name = "depthwise_conv2d"
    in_place = True
    shrinks = True
    Attrs = Attrs
    rules = (constant_weight, constant_bias, whole_multiplier, positive_pads, fitting_sum)

    def infer(self, graph: Graph, node: Node) -> Shape:
        x, w, a = graph[node.inputs[0]].shape, graph[node.inputs[1]].shape, node.attrs
        return (x[0], *output_hw(x[1:3], w[1:3], a.strides, a.dilations, a.pads), w[3])

    def macs(self, graph: Graph, node: Node) -> int:
        w = graph[node.inputs[1]].shape
        return graph[node.output].elements * w[1] * w[2]

    def work(self, graph: Graph, node: Node) -> tuple[int, int]:
        return self.macs(graph, node), graph[node.output].shape[-1]  # each channel is spread out before

    def weight_axis(self, node: Node) -> int | None:
        return 3

    def tf(self, node: Node, inputs: Sequence[Any]) -> Any:
        import tensorflow as tf

        a = node.attrs
        x, w = tf_pad_hw(inputs[0], a.pads), dilate(inputs[1], a.dilations)
        channels = int(x.shape[3])
        kernel = tf.reshape(w, [int(w.shape[1]), int(w.shape[2]), channels, int(w.shape[3]) // channels])
        if a.strides[0] == a.strides[1]:
            y = tf.nn.depthwise_conv2d(x, kernel, [1, *a.strides, 1], "VALID")
        else:  # TensorFlow has only equal strides
            y = tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "VALID")[:, :: a.strides[0], :: a.strides[1]]
        if len(inputs) > 2:
            y = y + inputs[2]
        return apply_activation(a.activation, y)

    def int8(self, graph: Graph, node: Node, inputs: Sequence[Array]) -> Array:
        x, w, a = inputs[0], inputs[1][0].astype(np.int32), node.attrs
        quant_in = graph[node.inputs[0]].quant
        assert quant_in
        channels, outputs = x.shape[3], w.shape[2]
        hw = output_hw(x.shape[1:3], w.shape[:2], a.strides, a.dilations, a.pads)
        chunk = samples_at_once(hw[0] * hw[1] * outputs)
        results = []
        for start in range(0, len(x), chunk):
            padded = pad_hw(x[start : start + chunk], a.pads, quant_in.zero_point)
            centred = padded.astype(np.int32) - quant_in.zero_point
            acc = np.zeros((len(centred), *hw, channels, outputs // channels), np.int32)
            for i, j, seen in tap_slices(w.shape[:2], a.strides, a.dilations, hw):
                acc += centred[seen][..., None] * w[i, j].reshape(channels, -1)
            total = acc.reshape(*acc.shape[:3], outputs).astype(np.int64)
            if len(inputs) > 2:
                total += inputs[2]
            results.append(int8_epilogue(graph, node, total))
        return np.concatenate(results)

    def call(self, graph: Graph, node: Node) -> Call:
        w = graph.data(node.inputs[1])
        rows, bias = fold_bias(graph, node, w.reshape(-1, w.shape[3]).T)
        return Call(
            "tlc_depthwise_conv2d_s8",
            "tlc_depthwise_conv2d_t",
            geometry(graph, node, w.shape[1:3], graph[node.inputs[0]].shape[3]) | quantized_fields(graph, node),
            (
                Address(node.inputs[0]),
                rows,
                bias,
                Scratch(2 * (w.shape[1] * w.shape[2] + covered(graph, node, w.shape[1:3]))),
                Address(node.output, is_output=True),
            ),
        )

    def reads(self, graph: Graph, node: Node, first: int, last: int) -> Reads | None:
        return window_reads(graph, node, first, last, graph[node.inputs[1]].shape[1], node.attrs.dilations[0])

    def backward(self, graph: Graph, node: Node, wanted: frozenset[int], adding: frozenset[int]) -> list[Call] | None:
        w = graph.data(node.inputs[1])
        window = geometry(graph, node, w.shape[1:3], graph[node.inputs[0]].shape[3])
        rows, _ = fold_bias(graph, node, w.reshape(-1, w.shape[3]).T)
        return convolution_calls(graph, node, wanted, adding, window, rows, plane_bytes(graph, node, w.shape[1:3]))

    def gradient(
        self, graph: Graph, node: Node, inputs: Sequence[Array], output: Array, dy: Array, sums: Mapping[int, Array]
    ) -> None:
        groups, quant = inputs[0].shape[3], graph[node.inputs[0]].quant
        assert quant
        dy = mask(graph, node, output, dy)[0]
        if 1 in sums:
            x = (inputs[0][0].astype(np.int32) - quant.zero_point).astype(np.float32)
            add_weight_gradient(node.attrs, x, dy, quant.s, groups, np.moveaxis(sums[1], 1, -1))
        if 2 in sums:
            sums[2][...] += sum_rows(dy)
        if 0 in sums:
            rows = inputs[1].transpose(3, 1, 2, 0)
            add_input_gradient(node.attrs, rows, dy * weight_scale(graph, node), groups, sums[0][0])

    def backward_int(
        self, graph: Graph, node: Node, wanted: frozenset[int], adding: frozenset[int]
    ) -> list[Call] | None:
        w = graph.data(node.inputs[1])
        window = geometry(graph, node, w.shape[1:3], graph[node.inputs[0]].shape[3])
        rows, _ = fold_bias(graph, node, w.reshape(-1, w.shape[3]).T)
        return convolution_calls_int(graph, node, wanted, adding, window, rows)

    def gradient_int(
        self, graph: Graph, node: Node, inputs: Sequence[Array], output: Array, dy: Fixed, sums: Mapping[int, Fixed]
    ) -> None:
        groups, quant = inputs[0].shape[3], graph[node.inputs[0]].quant
        assert quant
        dy = masked(graph, node, output, dy)
        dy = replace(dy, values=dy.values[0])
        if 1 in sums:
            x = inputs[0][0].astype(np.int64) - quant.zero_point
            sums[1].add(*weight_gradient(node, node.attrs, x, dy, groups, inputs[1].shape[1:3]))
        if 2 in sums:
            add_bias_gradient(sums[2], dy)
        if 0 in sums:
            rows = inputs[1].transpose(3, 1, 2, 0)
            sums[0].add(*input_gradient(graph, node, node.attrs, rows, dy, groups, inputs[0].shape[1:3]))


def plane_bytes(graph: Graph, node: Node, kernel: Sequence[int]) -> int:
    """What the form of the input's gradient that works a channel at a time, and in place, needs beside it: a channel's
    gradient with zeros around it, and its taps, as float32; 0 where it cannot be used."""
    a = node.attrs
    _, height, width, channels = graph[node.inputs[0]].shape
    shifted = any(pad >= k for pad, k in zip(a.pads, (*kernel, *kernel), strict=True))
    if a.strides != (1, 1) or a.dilations != (1, 1) or graph[node.output].shape[-1] != channels or shifted:
        return 0
    return 4 * ((height + kernel[0] - 1) * (width + kernel[1] - 1) + kernel[0] * kernel[1])
