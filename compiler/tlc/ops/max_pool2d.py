# SPDX-License-Identifier: Apache-2.0
"""The largest value under a sliding window; padding is left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlc.graph import Graph, Node, Shape
from tlc.ops.base import (
    Activation,
    Address,
    Array,
    Call,
    Grad,
    Operator,
    Reads,
    Table,
    activation_range,
    apply_activation,
)
from tlc.ops.training import mask, mask_call, real_range
from tlc.ops.training_int import Fixed, mask_call_int, masked, odd, through_part, times
from tlc.ops.window import Pads, output_hw, pad_hw, positive_pads, tap_slices, tf_pad_hw, window_reads


def small_pads(graph: Graph, node: Node) -> str | None:
    """Padding must be smaller than the kernel, so that every window holds a value."""
    kernel, pads = node.attrs.kernel, node.attrs.pads
    holds = all(pad < kernel[axis % 2] for axis, pad in enumerate(pads))
    return None if holds else f"the kernel is {kernel} and the padding is {pads} (top, left, bottom, right)"


@dataclass(frozen=True)
class Attrs:
    """Input: x (N, H, W, C). ``pads``: top, left, bottom, right."""

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: Pads = (0, 0, 0, 0)
    activation: Activation = Activation.NONE


class MaxPool2d(Operator):
    """x (N, H, W, C) → (N, OH, OW, C)."""

    name = "max_pool2d"
    Attrs = Attrs
    rules = (positive_pads, small_pads)
    same_quant = True

    def infer(self, graph: Graph, node: Node) -> Shape:
        x, a = graph[node.inputs[0]].shape, node.attrs
        return (x[0], *output_hw(x[1:3], a.kernel, a.strides, (1, 1), a.pads), x[3])

    def work(self, graph: Graph, node: Node) -> tuple[int, int]:
        outputs, (height, width) = graph[node.output].elements, node.attrs.kernel
        return outputs * height * width, outputs * height

    def tf(self, node: Node, inputs: Sequence[Any]) -> Any:
        import tensorflow as tf

        a = node.attrs
        x = tf_pad_hw(inputs[0], a.pads, float(np.finfo(np.float32).min))
        return apply_activation(a.activation, tf.nn.max_pool2d(x, a.kernel, a.strides, "VALID"))

    def int8(self, graph: Graph, node: Node, inputs: Sequence[Array]) -> Array:
        x, a, quant = inputs[0], node.attrs, graph[node.output].quant
        assert quant
        hw = output_hw(x.shape[1:3], a.kernel, a.strides, (1, 1), a.pads)
        padded = pad_hw(x, a.pads, -128)
        y = np.full((len(x), *hw, x.shape[3]), -128, np.int8)
        for _, _, seen in tap_slices(a.kernel, a.strides, (1, 1), hw):
            np.maximum(y, padded[seen], out=y)
        return np.clip(y, *activation_range(a.activation, quant)).astype(np.int8)

    def call(self, graph: Graph, node: Node) -> Call:
        return Call("tlc_max_pool2d_s8", "tlc_pool2d_t", pool_fields(graph, node), pool_args(node))

    def reads(self, graph: Graph, node: Node, first: int, last: int) -> Reads | None:
        return window_reads(graph, node, first, last, node.attrs.kernel[0])

    def backward(self, graph: Graph, node: Node, wanted: frozenset[int], adding: frozenset[int]) -> list[Call] | None:
        args = (Address(node.inputs[0]), Grad(node.output), Grad(node.inputs[0], is_output=True))
        call = Call("tlc_max_pool2d_grad_f32", "tlc_pool_grad_t", pool_grad_fields(graph, node, 0 in adding), args)
        return [*mask_call(graph, node, real_range(graph, node.inputs[0])), call]

    def gradient(
        self, graph: Graph, node: Node, inputs: Sequence[Array], output: Array, dy: Array, sums: Mapping[int, Array]
    ) -> None:
        x, dx = inputs[0][0], sums[0][0]
        dy = mask(graph, node, output, dy, real_range(graph, node.inputs[0]))[0]
        channels = np.arange(x.shape[2])
        for oy, ox, rows, columns in windows(node.attrs, x.shape, dy.shape):
            window = x[rows, columns].reshape(-1, x.shape[2])
            best = window.argmax(axis=0)  # the first of equals, as in C
            width = columns.stop - columns.start
            dx[rows.start + best // width, columns.start + best % width, channels] += dy[oy, ox]

    def backward_int(
        self, graph: Graph, node: Node, wanted: frozenset[int], adding: frozenset[int]
    ) -> list[Call] | None:
        x = node.inputs[0]
        args = (Address(x), Grad(node.output), Grad(x, is_output=True))
        fields = pool_grad_fields_int(graph, node, _meeting(graph, node))
        call = Call("tlc_max_pool2d_grad_s16", "tlc_pool_grad_s16_t", fields, args)
        masking = mask_call_int(graph, node, real_range(graph, x))
        return [*masking, *through_part(graph, call, x, 0 in adding)]

    def gradient_int(
        self, graph: Graph, node: Node, inputs: Sequence[Array], output: Array, dy: Fixed, sums: Mapping[int, Fixed]
    ) -> None:
        x, shift = inputs[0][0], _meeting(graph, node)
        dy = masked(graph, node, output, dy, real_range(graph, node.inputs[0]))
        gradients, result = odd(dy.values[0], shift), np.zeros(x.shape, np.int64)
        channels = np.arange(x.shape[2])
        for oy, ox, rows, columns in windows(node.attrs, x.shape, gradients.shape):
            best = x[rows, columns].reshape(-1, x.shape[2]).argmax(axis=0)
            width = columns.stop - columns.start
            result[rows.start + best // width, columns.start + best % width, channels] += gradients[oy, ox]
        sums[0].put(Fixed(result, times(dy.scale, shift), True))


def pool_fields(graph: Graph, node: Node) -> dict[str, int | float | Table]:
    """The fields of ``tlc_pool2d_t``."""
    a, quant = node.attrs, graph[node.output].quant
    assert quant
    _, in_h, in_w, channels = graph[node.inputs[0]].shape
    _, out_h, out_w, _ = graph[node.output].shape
    low, high = activation_range(a.activation, quant)
    return {
        "in_h": in_h,
        "in_w": in_w,
        "channels": channels,
        "out_h": out_h,
        "out_w": out_w,
        "kernel_h": a.kernel[0],
        "kernel_w": a.kernel[1],
        "stride_h": a.strides[0],
        "stride_w": a.strides[1],
        "pad_top": a.pads[0],
        "pad_left": a.pads[1],
        "act_min": low,
        "act_max": high,
    }


def pool_args(node: Node) -> tuple[Address, Address]:
    """x and y."""
    return Address(node.inputs[0]), Address(node.output, is_output=True)


def pool_grad_fields(graph: Graph, node: Node, add: bool) -> dict[str, int | float | Table]:
    """The fields of ``tlc_pool_grad_t``."""
    fields = pool_fields(graph, node)
    return {key: value for key, value in fields.items() if not key.startswith("act_")} | {"add": int(add)}


def _meeting(graph: Graph, node: Node) -> int:
    """Bits to take off the output's gradient, so that all windows that hold a value may give it theirs."""
    most = 1
    for axis, (kernel, stride) in enumerate(zip(node.attrs.kernel, node.attrs.strides, strict=True), 1):
        most *= min(-(-kernel // stride), graph[node.output].shape[axis])
    return (most - 1).bit_length()


def pool_grad_fields_int(graph: Graph, node: Node, shift: int) -> dict[str, int | float | Table]:
    """The fields of ``tlc_pool_grad_s16_t``."""
    fields = pool_fields(graph, node)
    return {key: value for key, value in fields.items() if not key.startswith("act_")} | {"shift": shift}


def windows(a: Any, size: Sequence[int], outputs: Sequence[int]) -> Iterator[tuple[int, int, slice, slice]]:
    """Each output position, and the rows and columns of the image that its window holds."""
    for oy in range(outputs[0]):
        for ox in range(outputs[1]):
            top, left = oy * a.strides[0] - a.pads[0], ox * a.strides[1] - a.pads[1]
            rows = slice(max(top, 0), min(top + a.kernel[0], size[0]))
            yield oy, ox, rows, slice(max(left, 0), min(left + a.kernel[1], size[1]))
