# SPDX-License-Identifier: Apache-2.0
"""A constant around a tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlc.graph import Graph, Node, Quant, Shape
from tlc.ops.base import Address, Array, Call, Operator, Reads, Table
from tlc.ops.loops import merge_loops, one_sample, rank_at_most_five, same_quantization, strides
from tlc.ops.training import move_call
from tlc.ops.training_int import Fixed, move, move_calls_int


def pads_not_negative(graph: Graph, node: Node) -> str | None:
    """Pads must not be negative (that would be a crop)."""
    return f"they are {node.attrs.pads}" if min(min(pair) for pair in node.attrs.pads) < 0 else None


@dataclass(frozen=True)
class Attrs:
    """Input: x. ``pads`` per axis: how many values before and after; ``value`` is a real, saturated to x's range."""

    pads: tuple[tuple[int, int], ...]
    value: float = 0.0


class Pad(Operator):
    """x with ``value`` around it."""

    name = "pad"
    Attrs = Attrs
    rules = (rank_at_most_five, pads_not_negative, one_sample, same_quantization)
    same_quant = True

    def infer(self, graph: Graph, node: Node) -> Shape:
        shape = graph[node.inputs[0]].shape
        return tuple(before + n + after for n, (before, after) in zip(shape, node.attrs.pads, strict=True))

    def tf(self, node: Node, inputs: Sequence[Any]) -> Any:
        import tensorflow as tf

        return tf.pad(inputs[0], node.attrs.pads, constant_values=node.attrs.value)

    def int8(self, graph: Graph, node: Node, inputs: Sequence[Array]) -> Array:
        return np.pad(inputs[0], node.attrs.pads, constant_values=_value(graph[node.output].quant, node.attrs.value))

    def call(self, graph: Graph, node: Node) -> Call:
        x, y = graph[node.inputs[0]], graph[node.output]
        steps = strides(y.shape)
        loops = merge_loops(zip(x.shape, strides(x.shape), steps, strict=True))
        return Call(
            "tlc_pad_s8",
            "tlc_pad_t",
            {
                "rank": len(loops),
                "loops": Table("loops", loops),
                "count": y.elements,
                "offset": sum(before * step for (before, _), step in zip(node.attrs.pads, steps, strict=True)),
                "value": _value(y.quant, node.attrs.value),
            },
            (Address(x.name), Address(y.name, is_output=True)),
        )

    def reads(self, graph: Graph, node: Node, first: int, last: int) -> Reads | None:
        (before, _), height = node.attrs.pads[1], graph[node.inputs[0]].shape[1]
        inside = max(first - before, 0), min(last - before, height)
        if len(node.attrs.pads) != 4 or inside[0] >= inside[1]:
            return None
        rows = (inside[0] + before - first, last - inside[1] - before)
        return Reads(*inside, node.with_attrs(pads=(node.attrs.pads[0], rows, *node.attrs.pads[2:])))

    def backward(self, graph: Graph, node: Node, wanted: frozenset[int], adding: frozenset[int]) -> list[Call] | None:
        x, y = graph[node.inputs[0]], graph[node.output]
        steps = strides(y.shape)
        loops = merge_loops(zip(x.shape, strides(x.shape), steps, strict=True))
        offset = sum(before * step for (before, _), step in zip(node.attrs.pads, steps, strict=True))
        return [move_call(graph, node, 0, loops, add=0 in adding, offset=offset)]

    def gradient(
        self, graph: Graph, node: Node, inputs: Sequence[Array], output: Array, dy: Array, sums: Mapping[int, Array]
    ) -> None:
        inside = tuple(
            slice(before, before + n) for (before, _), n in zip(node.attrs.pads, inputs[0].shape, strict=True)
        )
        sums[0][...] += dy[inside]

    def backward_int(
        self, graph: Graph, node: Node, wanted: frozenset[int], adding: frozenset[int]
    ) -> list[Call] | None:
        x, y = graph[node.inputs[0]], graph[node.output]
        steps = strides(y.shape)
        loops = merge_loops(zip(x.shape, strides(x.shape), steps, strict=True))
        offset = sum(before * step for (before, _), step in zip(node.attrs.pads, steps, strict=True))
        return move_calls_int(graph, node, 0, loops, add=0 in adding, offset=offset)

    def gradient_int(
        self, graph: Graph, node: Node, inputs: Sequence[Array], output: Array, dy: Fixed, sums: Mapping[int, Fixed]
    ) -> None:
        inside = tuple(
            slice(before, before + n) for (before, _), n in zip(node.attrs.pads, inputs[0].shape, strict=True)
        )
        moved = move(dy)
        sums[0].put(Fixed(moved.values[inside], moved.scale, True))


def _value(quant: Quant | None, real: float) -> int:
    assert quant
    return int(quant.quantize(np.array(real)))
