# SPDX-License-Identifier: Apache-2.0
"""Elementwise multiplication with broadcast."""

from __future__ import annotations

from collections.abc import Sequence
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
    Operator,
    Table,
    activation_range,
    apply_activation,
    broadcast_shape,
    quantize_multiplier,
    requantize,
)
from tlc.ops.loops import one_sample, pair_loops, rank_at_most_five


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


def _quants(graph: Graph, node: Node) -> tuple[Quant, Quant, Quant]:
    a, b, out = (graph[name].quant for name in (*node.inputs, node.output))
    assert a and b and out
    return a, b, out
