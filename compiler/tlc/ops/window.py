# SPDX-License-Identifier: Apache-2.0
"""What operators with a sliding window share: sizes, padding, patches, rules, and the weights' side of a C call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tlc.graph import Graph, Node, Quant, Shape
from tlc.ops.base import Array, Bias, Reads, Rows, Table, activation_range, quantize_multipliers, requantize

__all__ = [
    "constant_bias",
    "constant_weight",
    "exact_float",
    "fitting_sum",
    "fold_bias",
    "int8_epilogue",
    "output_hw",
    "pad_hw",
    "positive_pads",
    "quantized_fields",
    "samples_at_once",
    "tap_slices",
    "tf_pad_hw",
    "window_reads",
]

Pads = tuple[int, int, int, int]
"""top, left, bottom, right"""

MAX_PRODUCTS = 1 << 16
CHUNK_VALUES = 1 << 22


def constant_weight(graph: Graph, node: Node) -> str | None:
    """The weight must be a constant."""
    return None if graph[node.inputs[1]].is_constant else f"'{node.inputs[1]}' is computed"


def constant_bias(graph: Graph, node: Node) -> str | None:
    """The bias must be a constant."""
    computed = [name for name in node.inputs[2:] if not graph[name].is_constant]
    return f"'{computed[0]}' is computed" if computed else None


def fitting_sum(graph: Graph, node: Node) -> str | None:
    """At most 65536 products may be summed into one output, so that int32 holds them."""
    weight = graph[node.inputs[1]]
    outputs = graph[node.output].shape[-1]
    products = weight.elements // max(1, outputs)
    return f"there are {products}" if products > MAX_PRODUCTS else None


def positive_pads(graph: Graph, node: Node) -> str | None:
    """Padding must not be negative."""
    return f"it is {node.attrs.pads} (top, left, bottom, right)" if min(node.attrs.pads) < 0 else None


def output_hw(
    size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pads: Pads
) -> Shape:
    """Height and width that a window of a kernel leaves."""
    return tuple(
        (n + pads[axis] + pads[axis + 2] - (k - 1) * d - 1) // s + 1
        for axis, (n, k, s, d) in enumerate(zip(size, kernel, strides, dilations, strict=True))
    )


def pad_hw(x: Array, pads: Pads, value: int) -> Array:
    """x (N, H, W, C) with a border of one value."""
    top, left, bottom, right = pads
    if not any(pads):
        return x
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=value)


def tf_pad_hw(x: Any, pads: Pads, value: float = 0.0) -> Any:
    """The same on a TensorFlow tensor."""
    import tensorflow as tf

    top, left, bottom, right = pads
    return tf.pad(x, [[0, 0], [top, bottom], [left, right], [0, 0]], constant_values=value) if any(pads) else x


def window_reads(graph: Graph, node: Node, first: int, last: int, kernel: int, dilation: int = 1) -> Reads | None:
    """The input's rows under the windows of output rows [first, last); None where one of those lies in the padding."""
    a, height = node.attrs, graph[node.inputs[0]].shape[1]
    begin = first * a.strides[0] - a.pads[0]
    end = (last - 1) * a.strides[0] - a.pads[0] + (kernel - 1) * dilation + 1
    inside = max(begin, 0), min(end, height)
    if inside[0] >= inside[1]:
        return None
    pads = (inside[0] - begin, a.pads[1], end - inside[1], a.pads[3])
    return Reads(*inside, node.with_attrs(pads=pads))


def tap_slices(
    kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], outputs: Sequence[int]
) -> Iterator[tuple[int, int, tuple[slice, slice, slice]]]:
    """Each tap of a window, with what selects from the padded x (N, H, W, C) the value it sees for every output."""
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            first = (i * dilations[0], j * dilations[1])
            rows, columns = (
                slice(start, start + (count - 1) * stride + 1, stride)
                for start, count, stride in zip(first, outputs, strides, strict=True)
            )
            yield i, j, (slice(None), rows, columns)


def exact_float(weights: Array) -> np.dtype[Any]:
    """A float type in which rows of int8 weights times int8 activations less a zero point sum without rounding."""
    worst = 255 * np.abs(weights.astype(np.int64)).reshape(len(weights), -1).sum(axis=1).max(initial=0)
    return np.dtype(np.float32 if worst < 1 << 24 else np.float64)


def samples_at_once(values_per_sample: int) -> int:
    """How many samples to take at a time so that their patches stay small."""
    return max(1, CHUNK_VALUES // max(1, values_per_sample))


def multipliers(graph: Graph, node: Node) -> tuple[Array, Array]:
    """Multiplier and shift of each output channel, or one of each."""
    quant_in, quant_w, quant_out = (graph[name].quant for name in (*node.inputs[:2], node.output))
    assert quant_in and quant_w and quant_out
    return quantize_multipliers(quant_in.s * quant_w.scale.astype(np.float64) / quant_out.s)


def int8_epilogue(graph: Graph, node: Node, acc: Array) -> Array:
    """Accumulators (..., channels), bias included, to the output's int8."""
    quant: Quant | None = graph[node.output].quant
    assert quant
    low, high = activation_range(node.attrs.activation, quant)
    y = requantize(acc, *multipliers(graph, node)) + quant.zero_point
    clipped: Array = np.clip(y, low, high).astype(np.int8)
    return clipped


def quantized_fields(graph: Graph, node: Node) -> dict[str, int | float | Table]:
    """The fields of a C struct that requantization reads."""
    quant: Quant | None = graph[node.output].quant
    assert quant
    multiplier, shift = multipliers(graph, node)
    low, high = activation_range(node.attrs.activation, quant)
    return {
        "out_zp": quant.zero_point,
        "act_min": low,
        "act_max": high,
        "per_channel": int(len(multiplier) > 1),
        "mult": Table("mult", multiplier),
        "shift": Table("shift", shift),
    }


def fold_bias(graph: Graph, node: Node, rows: Array) -> tuple[Rows, Bias]:
    """Weights (channels, products) as rows, and biases with the input's zero point folded in."""
    quant: Quant | None = graph[node.inputs[0]].quant
    assert quant
    name = node.inputs[2] if len(node.inputs) > 2 else None
    bias = graph.data(name).astype(np.int64) if name else np.zeros(len(rows), np.int64)
    folded = bias - quant.zero_point * rows.sum(axis=1, dtype=np.int64)
    wrapped = (folded & 0xFFFFFFFF).astype(np.uint32).view(np.int32)  # sums are modulo 2^32, as in C
    return Rows(node.inputs[1], np.ascontiguousarray(rows)), Bias(name, wrapped)
