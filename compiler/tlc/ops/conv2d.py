# SPDX-License-Identifier: Apache-2.0
"""Two-dimensional convolution, grouped or not; padding reads real zero."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tlc.graph import Graph, Node, Shape
from tlc.ops.base import Activation, Address, Array, Call, Operator, Reads, Scratch, Table, apply_activation
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
    exact_float,
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

SMALL_WINDOW = 64
"""Values up to which it pays to gather a window for all output channels."""


def whole_groups(graph: Graph, node: Node) -> str | None:
    """The groups must divide the channels of input and output, and the weight be (out, height, width, in / groups)."""
    groups, x, w = node.attrs.groups, graph[node.inputs[0]].shape, graph[node.inputs[1]].shape
    if len(x) != 4 or len(w) != 4:
        return f"the input is {x} and the weight is {w}"
    if w[0] % groups or w[3] * groups != x[3]:
        return f"there are {groups} groups, the input is {x}, and the weight is {w}"
    return None


@dataclass(frozen=True)
class Attrs:
    """Inputs: x (N, H, W, C), weight (OC, KH, KW, C / groups), optionally bias (OC).

    ``pads``: top, left, bottom, right.
    """

    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: Pads = (0, 0, 0, 0)
    groups: int = 1
    activation: Activation = Activation.NONE


class Conv2d(Operator):
    """x (N, H, W, C), weight (OC, KH, KW, C / groups), bias (OC) → (N, OH, OW, OC)."""

    name = "conv2d"
    Attrs = Attrs
    rules = (constant_weight, constant_bias, whole_groups, positive_pads, fitting_sum)

    def infer(self, graph: Graph, node: Node) -> Shape:
        x, w, a = graph[node.inputs[0]].shape, graph[node.inputs[1]].shape, node.attrs
        return (x[0], *output_hw(x[1:3], w[1:3], a.strides, a.dilations, a.pads), w[0])

    def macs(self, graph: Graph, node: Node) -> int:
        w = graph[node.inputs[1]].shape
        return graph[node.output].elements * w[1] * w[2] * w[3]

    def work(self, graph: Graph, node: Node) -> tuple[int, int]:
        w = graph[node.inputs[1]].shape
        return self.macs(graph, node), graph[node.output].elements * w[1] * w[2]

    def weight_axis(self, node: Node) -> int | None:
        return 0

    def tf(self, node: Node, inputs: Sequence[Any]) -> Any:
        import tensorflow as tf

        a = node.attrs
        x, kernel = tf_pad_hw(inputs[0], a.pads), tf.transpose(dilate(inputs[1], a.dilations), [1, 2, 3, 0])
        # TensorFlow has no gradient of a grouped or dilated convolution on a CPU, but one of its parts.
        parts = zip(tf.split(x, a.groups, axis=3), tf.split(kernel, a.groups, axis=3), strict=True)
        y = tf.concat([tf.nn.conv2d(part, k, a.strides, "VALID") for part, k in parts], axis=3)
        if len(inputs) > 2:
            y = y + inputs[2]
        return apply_activation(a.activation, y)

    def int8(self, graph: Graph, node: Node, inputs: Sequence[Array]) -> Array:
        x, w, a = inputs[0], inputs[1], node.attrs
        quant_in = graph[node.inputs[0]].quant
        assert quant_in
        channels, kh, kw, depth = w.shape
        hw = output_hw(x.shape[1:3], (kh, kw), a.strides, a.dilations, a.pads)
        real = exact_float(w)
        # (groups, products, channels of a group)
        matrix = w.reshape(a.groups, channels // a.groups, -1).transpose(0, 2, 1).astype(real)
        chunk = samples_at_once(hw[0] * hw[1] * kh * kw * x.shape[3])
        outputs = []
        for start in range(0, len(x), chunk):
            padded = pad_hw(x[start : start + chunk], a.pads, quant_in.zero_point)
            centred = padded.astype(real) - quant_in.zero_point
            patches = np.empty((len(centred), *hw, kh, kw, x.shape[3]), real)
            for i, j, seen in tap_slices((kh, kw), a.strides, a.dilations, hw):
                patches[:, :, :, i, j] = centred[seen]
            acc = np.empty((len(centred) * hw[0] * hw[1], channels), np.int64)
            for g in range(a.groups):
                rows = patches[..., g * depth : (g + 1) * depth].reshape(len(acc), -1)
                acc[:, g * matrix.shape[2] : (g + 1) * matrix.shape[2]] = rows @ matrix[g]
            if len(inputs) > 2:
                acc += inputs[2]
            outputs.append(int8_epilogue(graph, node, acc).reshape(len(centred), *hw, channels))
        return np.concatenate(outputs)

    def call(self, graph: Graph, node: Node) -> Call:
        w = graph.data(node.inputs[1])
        rows, bias = fold_bias(graph, node, w.reshape(len(w), -1))
        fields = geometry(graph, node, w.shape[1:3], node.attrs.groups) | quantized_fields(graph, node)
        x, y = Address(node.inputs[0]), Address(node.output, is_output=True)
        if graph[x.tensor].shape[3] == 1:  # one input channel for every output: runs of neighbours only when spread out
            scratch = Scratch(2 * (w.shape[1] * w.shape[2] + covered(graph, node, w.shape[1:3])))
            return Call("tlc_depthwise_conv2d_s8", "tlc_depthwise_conv2d_t", fields, (x, rows, bias, scratch, y))
        alone = w.shape[1:3] == node.attrs.strides == (1, 1) and not any(node.attrs.pads) and node.attrs.groups == 1
        if alone and w.shape[3] % 4 == 0 and graph[y.tensor].elements >= 4 * len(w):
            scratch = Scratch(8 * w.shape[3])  # four pixels as int16
            return Call("tlc_pointwise_conv2d_s8", "tlc_conv2d_t", fields, (x, rows, bias, scratch, y))
        values = w.shape[1] * w.shape[2] * w.shape[3]
        if not alone and node.attrs.groups == 1 and values <= SMALL_WINDOW:
            scratch = Scratch(9 * (-(-values // 4) * 4))  # four windows as int16, and one as it is gathered
            return Call("tlc_patch_conv2d_s8", "tlc_conv2d_t", fields, (x, rows, bias, scratch, y))
        return Call("tlc_conv2d_s8", "tlc_conv2d_t", fields, (x, rows, bias, y))

    def reads(self, graph: Graph, node: Node, first: int, last: int) -> Reads | None:
        return window_reads(graph, node, first, last, graph[node.inputs[1]].shape[1], node.attrs.dilations[0])

    def backward(self, graph: Graph, node: Node, wanted: frozenset[int], adding: frozenset[int]) -> list[Call] | None:
        w = graph.data(node.inputs[1])
        window = geometry(graph, node, w.shape[1:3], node.attrs.groups)
        rows, _ = fold_bias(graph, node, w.reshape(len(w), -1))
        if window["kernel_h"] == window["kernel_w"] == 1:
            rows = dataclasses.replace(rows, ahead=4)
        return convolution_calls(graph, node, wanted, adding, window, rows)

    def gradient(
        self, graph: Graph, node: Node, inputs: Sequence[Array], output: Array, dy: Array, sums: Mapping[int, Array]
    ) -> None:
        groups, quant = node.attrs.groups, graph[node.inputs[0]].quant
        assert quant
        dy = mask(graph, node, output, dy)[0]
        if 1 in sums:
            x = (inputs[0][0].astype(np.int32) - quant.zero_point).astype(np.float32)
            add_weight_gradient(node.attrs, x, dy, quant.s, groups, sums[1])
        if 2 in sums:
            sums[2][...] += sum_rows(dy)
        if 0 in sums:
            add_input_gradient(node.attrs, inputs[1], dy * weight_scale(graph, node), groups, sums[0][0])

    def backward_int(
        self, graph: Graph, node: Node, wanted: frozenset[int], adding: frozenset[int]
    ) -> list[Call] | None:
        w = graph.data(node.inputs[1])
        window = geometry(graph, node, w.shape[1:3], node.attrs.groups)
        rows, _ = fold_bias(graph, node, w.reshape(len(w), -1))
        return convolution_calls_int(graph, node, wanted, adding, window, rows)

    def gradient_int(
        self, graph: Graph, node: Node, inputs: Sequence[Array], output: Array, dy: Fixed, sums: Mapping[int, Fixed]
    ) -> None:
        groups, quant = node.attrs.groups, graph[node.inputs[0]].quant
        assert quant
        dy = masked(graph, node, output, dy)
        dy = replace(dy, values=dy.values[0])
        if 1 in sums:
            x = inputs[0][0].astype(np.int64) - quant.zero_point
            sums[1].add(*weight_gradient(node, node.attrs, x, dy, groups, inputs[1].shape[1:3]))
        if 2 in sums:
            add_bias_gradient(sums[2], dy)
        if 0 in sums:
            sums[0].add(*input_gradient(graph, node, node.attrs, inputs[1], dy, groups, inputs[0].shape[1:3]))


def dilate(kernel: Any, dilations: tuple[int, int]) -> Any:
    """A TensorFlow kernel (_, KH, KW, _) with zeros between its taps: a dilated convolution as a plain one."""
    import tensorflow as tf

    for axis, dilation in enumerate(dilations, 1):
        if dilation > 1:
            spread = tf.expand_dims(kernel, axis + 1)
            spread = tf.pad(spread, [[0, dilation - 1] if i == axis + 1 else [0, 0] for i in range(5)])
            size = [int(n) for n in kernel.shape]
            taps = size[axis]
            size[axis] = taps * dilation
            kernel = tf.gather(tf.reshape(spread, size), list(range((taps - 1) * dilation + 1)), axis=axis)
    return kernel


def covered(graph: Graph, node: Node, kernel: Sequence[int]) -> int:
    """How many pixels, padding included, the windows of all outputs cover: what a channel takes when spread out."""
    a = node.attrs
    outputs = graph[node.output].shape[1:3]
    height, width = (
        (n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(outputs, a.strides, kernel, a.dilations, strict=True)
    )
    return int(height * width)


def geometry(graph: Graph, node: Node, kernel: Sequence[int], groups: int) -> dict[str, int | float | Table]:
    """The fields of ``tlc_conv2d_t`` that say what is read and written."""
    a = node.attrs
    quant_in = graph[node.inputs[0]].quant
    assert quant_in
    _, in_h, in_w, in_c = graph[node.inputs[0]].shape
    _, out_h, out_w, out_c = graph[node.output].shape
    if tuple(kernel) == tuple(a.strides) == (1, 1) and not any(a.pads):
        # Every pixel by itself: one long row leaves no remainders at the ends of rows.
        in_h, in_w, out_h, out_w = 1, in_h * in_w, 1, out_h * out_w
    return {
        "in_h": in_h,
        "in_w": in_w,
        "in_c": in_c,
        "out_h": out_h,
        "out_w": out_w,
        "out_c": out_c,
        "groups": groups,
        "kernel_h": kernel[0],
        "kernel_w": kernel[1],
        "stride_h": a.strides[0],
        "stride_w": a.strides[1],
        "dilation_h": a.dilations[0],
        "dilation_w": a.dilations[1],
        "pad_top": a.pads[0],
        "pad_left": a.pads[1],
        "in_zp": quant_in.zero_point,
    }
