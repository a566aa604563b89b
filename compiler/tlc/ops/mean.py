# SPDX-License-Identifier: Apache-2.0
"""The average over whole axes; a global average pool is one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from tlc.graph import Graph, Node, Quant, Shape
from tlc.ops.base import Address, Array, Call, Operator, quantize_multiplier, requantize
from tlc.ops.loops import MAX_LOOPS, merge_loops, strides
from tlc.ops.training import mask, mask_call, move_call, real_range
from tlc.ops.training_int import Fixed, mask_call_int, masked, move, move_calls_int

MAX_VALUES = 1 << 23


def not_samples(graph: Graph, node: Node) -> str | None:
    """The average must not run over samples (axis 0)."""
    rank = len(graph[node.inputs[0]].shape)
    holds = all(0 < axis < rank for axis in node.attrs.axes)
    return None if holds else f"its axes are {node.attrs.axes} of {rank}"


def two_runs(graph: Graph, node: Node) -> str | None:
    """The axes averaged must form at most two runs of neighbours."""
    runs = _runs(graph[node.inputs[0]].shape, node.attrs.axes)
    return None if sum(is_reduced for is_reduced, _ in runs) <= 2 else f"they are {node.attrs.axes}"


def fitting_count(graph: Graph, node: Node) -> str | None:
    """At most 8388608 values may be averaged, so that int32 holds their sum."""
    count = _count(graph[node.inputs[0]].shape, node.attrs.axes)
    return None if count <= MAX_VALUES else f"there are {count}"


@dataclass(frozen=True)
class Attrs:
    """Input: x of any shape. ``axes`` are positive, and never 0; ``keep_dims`` keeps them as 1."""

    axes: tuple[int, ...]
    keep_dims: bool = False


class Mean(Operator):
    """x → x averaged over some axes, with a scale of its own."""

    name = "mean"
    Attrs = Attrs
    rules = (not_samples, two_runs, fitting_count)

    def infer(self, graph: Graph, node: Node) -> Shape:
        a = node.attrs
        shape = enumerate(graph[node.inputs[0]].shape)
        return tuple(1 if axis in a.axes else n for axis, n in shape if a.keep_dims or axis not in a.axes)

    def work(self, graph: Graph, node: Node) -> tuple[int, int]:
        return graph[node.inputs[0]].elements, 0

    def tf(self, node: Node, inputs: Sequence[Any]) -> Any:
        import tensorflow as tf

        return tf.reduce_mean(inputs[0], axis=list(node.attrs.axes), keepdims=node.attrs.keep_dims)

    def int8(self, graph: Graph, node: Node, inputs: Sequence[Array]) -> Array:
        quant_in, quant_out = graph[node.inputs[0]].quant, graph[node.output].quant
        assert quant_in and quant_out
        x, axes = inputs[0], node.attrs.axes
        count = _count(x.shape, axes)
        total = x.sum(axis=axes, keepdims=node.attrs.keep_dims, dtype=np.int64) - count * quant_in.zero_point
        y = requantize(total, *_multiplier(quant_in, quant_out, count)) + quant_out.zero_point
        clipped: Array = np.clip(y, -128, 127).astype(np.int8)
        return clipped

    def call(self, graph: Graph, node: Node) -> Call:
        x = graph[node.inputs[0]]
        quant_in, quant_out = x.quant, graph[node.output].quant
        assert quant_in and quant_out
        count = _count(x.shape, node.attrs.axes)
        multiplier, shift = _multiplier(quant_in, quant_out, count)
        runs = _runs(x.shape, node.attrs.axes)
        if runs[0][0]:
            runs.insert(0, (False, 1))
        if len(runs) < 4:  # a single run averaged is the inner one
            runs = [(False, 1), (True, 1), *runs]
        sizes = [size for _, size in runs] + [1] * (5 - len(runs))
        return Call(
            "tlc_mean_s8",
            "tlc_mean_t",
            {
                **dict(zip(("kept0", "reduced0", "kept1", "reduced1", "kept2"), sizes, strict=True)),
                "offset": -quant_in.zero_point * count,
                "out_zp": quant_out.zero_point,
                "mult": multiplier,
                "shift": shift,
            },
            (Address(x.name), Address(node.output, is_output=True)),
        )

    def backward(self, graph: Graph, node: Node, wanted: frozenset[int], adding: frozenset[int]) -> list[Call] | None:
        x = graph[node.inputs[0]]
        if len(_runs(x.shape, node.attrs.axes)) > MAX_LOOPS:
            return None
        share = float(np.float32(1) / np.float32(_count(x.shape, node.attrs.axes)))
        held = mask_call(graph, node, real_range(graph, x.name))
        return [*held, move_call(graph, node, 0, self._spread(graph, node), add=0 in adding, scale=share)]

    def gradient(
        self, graph: Graph, node: Node, inputs: Sequence[Array], output: Array, dy: Array, sums: Mapping[int, Array]
    ) -> None:
        shape, axes = inputs[0].shape, node.attrs.axes
        dy = mask(graph, node, output, dy, real_range(graph, node.inputs[0]))
        kept = [1 if axis in axes else n for axis, n in enumerate(shape)]
        sums[0][...] += dy.reshape(kept) * (np.float32(1) / np.float32(_count(shape, axes)))

    def backward_int(
        self, graph: Graph, node: Node, wanted: frozenset[int], adding: frozenset[int]
    ) -> list[Call] | None:
        x = graph[node.inputs[0]]
        if len(_runs(x.shape, node.attrs.axes)) > MAX_LOOPS:
            return None
        masking = mask_call_int(graph, node, real_range(graph, x.name))
        share = 1.0 / _count(x.shape, node.attrs.axes)
        return [*masking, *move_calls_int(graph, node, 0, self._spread(graph, node), add=0 in adding, scale=share)]

    def gradient_int(
        self, graph: Graph, node: Node, inputs: Sequence[Array], output: Array, dy: Fixed, sums: Mapping[int, Fixed]
    ) -> None:
        shape, axes = inputs[0].shape, node.attrs.axes
        dy = move(masked(graph, node, output, dy, real_range(graph, node.inputs[0])), 1.0 / _count(shape, axes))
        kept = [1 if axis in axes else n for axis, n in enumerate(shape)]
        spread = np.broadcast_to(dy.values.reshape(kept), shape)
        sums[0].put(Fixed(spread, dy.scale, True))

    def _spread(self, graph: Graph, node: Node) -> Any:
        """Loops over x: count, its step, and that of the output."""
        x = graph[node.inputs[0]]
        inner = iter(strides(tuple(n for axis, n in enumerate(x.shape) if axis not in node.attrs.axes)))
        from_y = [0 if axis in node.attrs.axes else next(inner) for axis in range(len(x.shape))]
        return merge_loops(zip(x.shape, strides(x.shape), from_y, strict=True))


def _count(shape: Sequence[int], axes: Sequence[int]) -> int:
    return math.prod(shape[axis] for axis in axes)


def _runs(shape: Sequence[int], axes: Sequence[int]) -> list[tuple[bool, int]]:
    """Whether each run of neighbouring axes of one kind is averaged, and its size; axes of size 1 do not count."""
    sizes = [(axis in axes, n) for axis, n in enumerate(shape) if n > 1]
    runs = [(kind, math.prod(n for _, n in run)) for kind, run in groupby(sizes, key=lambda item: item[0])]
    return runs or [(False, 1)]


def _multiplier(quant_in: Quant, quant_out: Quant, count: int) -> tuple[int, int]:
    """in_scale / out_scale / count in fixed point: TFLM divides the multiplier of the scales, truncating."""
    multiplier, shift = quantize_multiplier(quant_in.s / quant_out.s)
    bits = min(count.bit_length() - 1, 32, 31 + shift)
    return (multiplier << bits) // count, shift - bits
