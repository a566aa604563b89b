# SPDX-License-Identifier: Apache-2.0
"""Elementwise addition with broadcast; :mod:`tlc.ops.sub` differs in a sign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlc.graph import Graph, Node, Quant, Shape
from tlc.ops.base import (
    Activation,
    Address,
    Array,
    Call,
    Operator,
    Reads,
    Table,
    activation_range,
    apply_activation,
    broadcast_shape,
    quantize_multiplier,
    requantize,
)
from tlc.ops.loops import one_sample, pair_loops, rank_at_most_five, same_rows
from tlc.ops.training import Range, add_over, copy_call, mask, mask_call, move_call, real_range
from tlc.ops.training_int import (
    Fixed,
    add_many_to_one,
    copy_call_int,
    mask_call_int,
    masked,
    move,
    move_calls_int,
    sum_call_int,
)

LEFT_SHIFT = 20
"""Both terms get this many fraction bits before they are rescaled: 255 · 2^20 leaves room for a sum in int32."""

Multipliers = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""(multiplier, shift) of the first input, of the second, and of the output."""


def activations_of_full_rank(graph: Graph, node: Node) -> str | None:
    """An input that is computed must have as many axes as the output (a constant may have fewer)."""
    rank = len(graph[node.output].shape)
    names = [name for name in graph.activations(node) if len(graph[name].shape) != rank]
    return f"'{names[0]}' has shape {graph[names[0]].shape}" if names else None


@dataclass(frozen=True)
class Attrs:
    """Inputs: a, b; either may be constant."""

    activation: Activation = Activation.NONE


class Add(Operator):
    """a + b by NumPy's broadcast."""

    name = "add"
    Attrs = Attrs
    rules = (rank_at_most_five, activations_of_full_rank, one_sample)
    in_place = True
    sign = 1

    def infer(self, graph: Graph, node: Node) -> Shape:
        return broadcast_shape(graph[node.inputs[0]], graph[node.inputs[1]])

    def multipliers(self, a: Quant, b: Quant, out: Quant) -> Multipliers:
        """Inputs relative to twice the larger scale, the output from there back (TFLM's ``CalculateOpDataAdd``)."""
        twice = 2.0 * max(a.s, b.s)
        return (
            quantize_multiplier(a.s / twice),
            quantize_multiplier(b.s / twice),
            quantize_multiplier(twice / ((1 << LEFT_SHIFT) * out.s)),
        )

    def tf(self, node: Node, inputs: Sequence[Any]) -> Any:
        return apply_activation(node.attrs.activation, inputs[0] + self.sign * inputs[1])

    def int8(self, graph: Graph, node: Node, inputs: Sequence[Array]) -> Array:
        a, b, out = _quants(graph, node)
        of_a, of_b, of_out = self.multipliers(a, b, out)
        first = requantize((inputs[0].astype(np.int64) - a.zero_point) << LEFT_SHIFT, *of_a)
        second = requantize((inputs[1].astype(np.int64) - b.zero_point) << LEFT_SHIFT, *of_b)
        y = requantize(first + self.sign * second, *of_out) + out.zero_point
        clamped: Array = np.clip(y, *activation_range(node.attrs.activation, out)).astype(np.int8)
        return clamped

    def call(self, graph: Graph, node: Node) -> Call:
        a, b, out = _quants(graph, node)
        of_a, of_b, of_out = self.multipliers(a, b, out)
        low, high = activation_range(node.attrs.activation, out)
        loops = pair_loops(graph[node.inputs[0]].shape, graph[node.inputs[1]].shape)
        return Call(
            f"tlc_{self.name}_s8",
            "tlc_add_t",
            {
                "rank": len(loops),
                "loops": Table("loops", loops),
                "a_zp": a.zero_point,
                "a_mult": of_a[0],
                "a_shift": of_a[1],
                "b_zp": b.zero_point,
                "b_mult": of_b[0],
                "b_shift": of_b[1],
                "out_zp": out.zero_point,
                "out_mult": of_out[0],
                "out_shift": of_out[1],
                "act_min": low,
                "act_max": high,
            },
            (Address(node.inputs[0]), Address(node.inputs[1]), Address(node.output, is_output=True)),
        )

    def reads(self, graph: Graph, node: Node, first: int, last: int) -> Reads | None:
        return same_rows(graph, node, first, last)

    def backward(self, graph: Graph, node: Node, wanted: frozenset[int], adding: frozenset[int]) -> list[Call] | None:
        y = graph[node.output].shape
        calls = mask_call(graph, node, self._reach(graph, node))
        for index in sorted(wanted):
            shape, sign = graph[node.inputs[index]].shape, self.sign if index else 1
            if shape == y and sign > 0:
                calls.append(copy_call(graph, node, index, index in adding))
            else:
                loops = pair_loops(shape, y)
                add = index in adding
                calls.append(move_call(graph, node, index, loops, add=add, scale=sign, many_to_one=shape != y))
        return calls

    def gradient(
        self, graph: Graph, node: Node, inputs: Sequence[Array], output: Array, dy: Array, sums: Mapping[int, Array]
    ) -> None:
        dy = mask(graph, node, output, dy, self._reach(graph, node))
        for index, dx in sums.items():
            add_over(dx, dy if index == 0 or self.sign > 0 else -dy)

    def backward_int(
        self, graph: Graph, node: Node, wanted: frozenset[int], adding: frozenset[int]
    ) -> list[Call] | None:
        y = graph[node.output].shape
        calls = mask_call_int(graph, node, self._reach(graph, node))
        for index in sorted(wanted):
            shape, sign, add = graph[node.inputs[index]].shape, self.sign if index else 1, index in adding
            if shape != y:
                calls.append(sum_call_int(graph, node, index, pair_loops(shape, y), add=add, sign=sign))
            elif sign > 0:
                calls.append(copy_call_int(graph, node, index, add))
            else:
                calls += move_calls_int(graph, node, index, pair_loops(shape, y), add=add, scale=-1.0)
        return calls

    def gradient_int(
        self, graph: Graph, node: Node, inputs: Sequence[Array], output: Array, dy: Fixed, sums: Mapping[int, Fixed]
    ) -> None:
        dy = masked(graph, node, output, dy, self._reach(graph, node))
        for index, dx in sums.items():
            sign = self.sign if index else 1
            if dx.values.shape != dy.values.shape:
                add_many_to_one(dx, dy, sign)
            else:
                dx.put(dy if sign > 0 else move(dy, -1.0))

    def _reach(self, graph: Graph, node: Node) -> Range:
        a, b = (real_range(graph, name) for name in node.inputs)
        return (a[0] + b[0], a[1] + b[1]) if self.sign > 0 else (a[0] - b[1], a[1] - b[0])


def _quants(graph: Graph, node: Node) -> tuple[Quant, Quant, Quant]:
    a, b, out = (graph[name].quant for name in (*node.inputs, node.output))
    assert a and b and out
    return a, b, out
