# SPDX-License-Identifier: Apache-2.0
"""The average of the values under a sliding window; padding is left out and not counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlc.graph import Graph, Node, Shape
from tlc.ops.base import Activation, Array, Call, Grad, Operator, Reads, activation_range, apply_activation
from tlc.ops.max_pool2d import pool_args, pool_fields, pool_grad_fields, pool_grad_fields_int, small_pads, windows
from tlc.ops.training import mask, mask_call, real_range
from tlc.ops.training_int import BITS, Fixed, mask_call_int, masked, odd, through_part, times
from tlc.ops.window import Pads, output_hw, pad_hw, positive_pads, tap_slices, tf_pad_hw, window_reads


@dataclass(frozen=True)
class Attrs:
    """Input: x (N, H, W, C). ``pads``: top, left, bottom, right."""

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: Pads = (0, 0, 0, 0)
    activation: Activation = Activation.NONE


class AveragePool2d(Operator):
    """x (N, H, W, C) → (N, OH, OW, C)."""

    name = "average_pool2d"
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
        _, height, width, _ = inputs[0].shape
        count = _counts((int(height), int(width)), a)
        mean = tf.nn.avg_pool2d(tf_pad_hw(inputs[0], a.pads), a.kernel, a.strides, "VALID")
        share = (a.kernel[0] * a.kernel[1] / count).astype(np.float32)
        return apply_activation(a.activation, mean * tf.cast(share, mean.dtype) if any(a.pads) else mean)

    def int8(self, graph: Graph, node: Node, inputs: Sequence[Array]) -> Array:
        x, a, quant = inputs[0], node.attrs, graph[node.output].quant
        assert quant
        count = _counts(x.shape[1:3], a)
        hw = count.shape[1:3]
        padded = pad_hw(x, a.pads, 0)
        total = np.zeros((len(x), *hw, x.shape[3]), np.int32)
        for _, _, seen in tap_slices(a.kernel, a.strides, (1, 1), hw):
            total += padded[seen]
        # Ties away from zero, on the integers as they are: both sides have one zero point.
        y = np.sign(total) * ((np.abs(total) + count // 2) // count)
        clipped: Array = np.clip(y, *activation_range(a.activation, quant)).astype(np.int8)
        return clipped

    def call(self, graph: Graph, node: Node) -> Call:
        return Call("tlc_average_pool2d_s8", "tlc_pool2d_t", pool_fields(graph, node), pool_args(node))

    def reads(self, graph: Graph, node: Node, first: int, last: int) -> Reads | None:
        return window_reads(graph, node, first, last, node.attrs.kernel[0])

    def backward(self, graph: Graph, node: Node, wanted: frozenset[int], adding: frozenset[int]) -> list[Call] | None:
        args = (Grad(node.output), Grad(node.inputs[0], is_output=True))
        fields = pool_grad_fields(graph, node, 0 in adding)
        call = Call("tlc_average_pool2d_grad_f32", "tlc_pool_grad_t", fields, args)
        return [*mask_call(graph, node, real_range(graph, node.inputs[0])), call]

    def gradient(
        self, graph: Graph, node: Node, inputs: Sequence[Array], output: Array, dy: Array, sums: Mapping[int, Array]
    ) -> None:
        dy, dx = mask(graph, node, output, dy, real_range(graph, node.inputs[0]))[0], sums[0][0]
        for oy, ox, rows, columns in windows(node.attrs, dx.shape, dy.shape):
            count = (rows.stop - rows.start) * (columns.stop - columns.start)
            dx[rows, columns] += dy[oy, ox] * (np.float32(1) / np.float32(count))

    def backward_int(
        self, graph: Graph, node: Node, wanted: frozenset[int], adding: frozenset[int]
    ) -> list[Call] | None:
        x = node.inputs[0]
        fields = pool_grad_fields_int(graph, node, _share_shift(graph, node))
        args = (Grad(node.output), Grad(x, is_output=True))
        call = Call("tlc_average_pool2d_grad_s16", "tlc_pool_grad_s16_t", fields, args)
        masking = mask_call_int(graph, node, real_range(graph, x))
        return [*masking, *through_part(graph, call, x, 0 in adding)]

    def gradient_int(
        self, graph: Graph, node: Node, inputs: Sequence[Array], output: Array, dy: Fixed, sums: Mapping[int, Fixed]
    ) -> None:
        shift = _share_shift(graph, node)
        dy = masked(graph, node, output, dy, real_range(graph, node.inputs[0]))
        result = np.zeros(inputs[0].shape[1:], np.int64)
        for oy, ox, rows, columns in windows(node.attrs, result.shape, dy.values.shape[1:]):
            result[rows, columns] += odd(dy.values[0, oy, ox] * _share(rows, columns), shift)
        sums[0].put(Fixed(result, times(dy.scale, shift - 15), True))


def _share(rows: slice, columns: slice) -> int:
    """2^15 / n, rounded, for a window of n values."""
    return int(65536 // ((rows.stop - rows.start) * (columns.stop - columns.start)) + 1) >> 1


def _share_shift(graph: Graph, node: Node) -> int:
    """What comes off the shares so that all that meet in one value fit in int16, and no more."""
    size, outputs = graph[node.inputs[0]].shape[1:3], graph[node.output].shape[1:3]
    total, terms = np.zeros(size, np.int64), np.zeros(size, np.int64)
    for _, _, rows, columns in windows(node.attrs, size, outputs):
        total[rows, columns] += _share(rows, columns)
        terms[rows, columns] += 1
    shift = 0
    while (((total << BITS) >> shift) + terms).max() > 32767:
        shift += 1
    return shift


def _counts(size: Sequence[int], a: Attrs) -> Array:
    """How many values each window holds: (1, OH, OW, 1)."""
    hw = output_hw(size, a.kernel, a.strides, (1, 1), a.pads)
    inside = pad_hw(np.ones((1, *size, 1), np.int32), a.pads, 0)
    count = np.zeros((1, *hw, 1), np.int32)
    for _, _, seen in tap_slices(a.kernel, a.strides, (1, 1), hw):
        count += inside[seen]
    return count
