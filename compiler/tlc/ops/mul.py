# SPDX-License-Identifier: Apache-2.0
"""Elementwise multiplication with broadcast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlc.graph import Graph, Node, Quant, Shape
from tlc.ops.add import activations_of_full_rank
from tlc.ops.base import (
    Activation,
    Address,
    Array,
    Call,
    Grad,
    Operator,
    Reads,
    Scratch,
    Table,
    activation_range,
    apply_activation,
    broadcast_shape,
    quantize_multiplier,
    requantize,
)
from tlc.ops.loops import one_sample, pair_loops, rank_at_most_five, same_rows
from tlc.ops.training import Range, add_over, mask, mask_call, real_range
from tlc.ops.training_int import Fixed, factor, mask_call_int, masked, odd, reduce_to, sum_shift, times

PRODUCT_BITS = 23
"""Of an int16 gradient times an int8 value less its zero point."""


@dataclass(frozen=True)
class Attrs:
    """Inputs: a, b; either may be constant."""

    activation: Activation = Activation.NONE


class Mul(Operator):
    """a · b by NumPy's broadcast."""

    name = "mul"
    Attrs = Attrs
    rules = (rank_at_most_five, activations_of_full_rank, one_sample)
    in_place = True

    def infer(self, graph: Graph, node: Node) -> Shape:
        return broadcast_shape(graph[node.inputs[0]], graph[node.inputs[1]])

    def macs(self, graph: Graph, node: Node) -> int:
        return graph[node.output].elements

    def tf(self, node: Node, inputs: Sequence[Any]) -> Any:
        return apply_activation(node.attrs.activation, inputs[0] * inputs[1])

    def int8(self, graph: Graph, node: Node, inputs: Sequence[Array]) -> Array:
        a, b, out = _quants(graph, node)
        product = (inputs[0].astype(np.int64) - a.zero_point) * (inputs[1].astype(np.int64) - b.zero_point)
        y = requantize(product, *quantize_multiplier(a.s * b.s / out.s)) + out.zero_point
        clamped: Array = np.clip(y, *activation_range(node.attrs.activation, out)).astype(np.int8)
        return clamped

    def call(self, graph: Graph, node: Node) -> Call:
        a, b, out = _quants(graph, node)
        multiplier, shift = quantize_multiplier(a.s * b.s / out.s)
        low, high = activation_range(node.attrs.activation, out)
        loops = pair_loops(graph[node.inputs[0]].shape, graph[node.inputs[1]].shape)
        return Call(
            "tlc_mul_s8",
            "tlc_mul_t",
            {
                "rank": len(loops),
                "loops": Table("loops", loops),
                "a_zp": a.zero_point,
                "b_zp": b.zero_point,
                "out_zp": out.zero_point,
                "mult": multiplier,
                "shift": shift,
                "act_min": low,
                "act_max": high,
            },
            (Address(node.inputs[0]), Address(node.inputs[1]), Address(node.output, is_output=True)),
        )

    def reads(self, graph: Graph, node: Node, first: int, last: int) -> Reads | None:
        return same_rows(graph, node, first, last)

    def backward(self, graph: Graph, node: Node, wanted: frozenset[int], adding: frozenset[int]) -> list[Call] | None:
        calls = mask_call(graph, node, self._reach(graph, node))
        for index in sorted(wanted):
            x, other = graph[node.inputs[index]], graph[node.inputs[1 - index]]
            assert other.quant
            loops = pair_loops(x.shape, other.shape)
            fields: dict[str, int | float | Table] = {
                "rank": len(loops),
                "loops": Table(f"loops{index}", loops),
                "clear": 0 if index in adding else x.elements,
                "other_zp": other.quant.zero_point,
                "other_scale": float(other.quant.s),
            }
            args = (Address(other.name), Grad(node.output), Grad(x.name, is_output=True))
            calls.append(Call("tlc_mul_grad_f32", "tlc_mul_grad_t", fields, args))
        return calls

    def gradient(
        self, graph: Graph, node: Node, inputs: Sequence[Array], output: Array, dy: Array, sums: Mapping[int, Array]
    ) -> None:
        dy = mask(graph, node, output, dy, self._reach(graph, node))
        for index, dx in sums.items():
            quant = graph[node.inputs[1 - index]].quant
            assert quant
            factor = (inputs[1 - index].astype(np.int32) - quant.zero_point).astype(np.float32)
            add_over(dx, dy * np.float32(quant.s) * factor)

    def backward_int(
        self, graph: Graph, node: Node, wanted: frozenset[int], adding: frozenset[int]
    ) -> list[Call] | None:
        calls = mask_call_int(graph, node, self._reach(graph, node))
        for index in sorted(wanted):
            x, other = graph[node.inputs[index]], graph[node.inputs[1 - index]]
            assert other.quant
            loops = pair_loops(x.shape, other.shape)
            mult, exponent = factor(other.quant.s)
            shift = sum_shift(graph[node.output].elements // x.elements, PRODUCT_BITS)
            fields: dict[str, int | float | Table] = {
                "rank": len(loops),
                "loops": Table(f"loops{index}", loops),
                "elements": x.elements,
                "other_zp": other.quant.zero_point,
                "shift": shift,
                "mult": mult,
                "exponent": shift + exponent + 15,
                "add": int(index in adding),
            }
            args = (Address(other.name), Grad(node.output), Grad(x.name, is_output=True), Scratch(4 * x.elements))
            calls.append(Call("tlc_mul_grad_s16", "tlc_mul_grad_s16_t", fields, args))
        return calls

    def gradient_int(
        self, graph: Graph, node: Node, inputs: Sequence[Array], output: Array, dy: Fixed, sums: Mapping[int, Fixed]
    ) -> None:
        dy = masked(graph, node, output, dy, self._reach(graph, node))
        for index, dx in sums.items():
            quant = graph[node.inputs[1 - index]].quant
            assert quant
            mult, exponent = factor(quant.s)
            shift = sum_shift(dy.values.size // dx.values.size, PRODUCT_BITS)
            products = odd(dy.values, shift) * (inputs[1 - index].astype(np.int64) - quant.zero_point)
            total = odd(reduce_to(products, dx.values.shape) * mult, 15)
            dx.add(total, times(dy.scale, shift + exponent + 15))

    def _reach(self, graph: Graph, node: Node) -> Range:
        a, b = (real_range(graph, name) for name in node.inputs)
        products = [x * y for x in a for y in b]
        return min(products), max(products)


def _quants(graph: Graph, node: Node) -> tuple[Quant, Quant, Quant]:
    a, b, out = (graph[name].quant for name in (*node.inputs, node.output))
    assert a and b and out
    return a, b, out
