# SPDX-License-Identifier: Apache-2.0
"""int8 to int8 with another scale and zero point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tlc.graph import Graph, Node, Shape
from tlc.ops.base import Address, Array, Call, Operator, Reads, quantize_multiplier, requantize
from tlc.ops.loops import same_rows
from tlc.ops.training import copy_call, mask, mask_call, real_range
from tlc.ops.training_int import Fixed, copy_call_int, mask_call_int, masked


@dataclass(frozen=True)
class Attrs:
    """Input: x."""


class Quantize(Operator):
    """x, in the output's scale and zero point."""

    name = "quantize"
    Attrs: ClassVar[type] = Attrs
    in_place = True

    def infer(self, graph: Graph, node: Node) -> Shape:
        return graph[node.inputs[0]].shape

    def tf(self, node: Node, inputs: Sequence[Any]) -> Any:
        return inputs[0]

    def clamp(self, graph: Graph, node: Node) -> tuple[int, int]:
        """The least and the greatest integer of the output."""
        return -128, 127

    def multiplier(self, graph: Graph, node: Node) -> tuple[int, int]:
        """From the input's scale to the output's."""
        x, y = graph[node.inputs[0]].quant, graph[node.output].quant
        assert x and y
        return quantize_multiplier(x.s / y.s)

    def int8(self, graph: Graph, node: Node, inputs: Sequence[Array]) -> Array:
        x, y = graph[node.inputs[0]].quant, graph[node.output].quant
        assert x and y
        centered = inputs[0].astype(np.int64) - x.zero_point
        rescaled = requantize(centered, *self.multiplier(graph, node)) + y.zero_point
        clamped: Array = np.clip(rescaled, *self.clamp(graph, node)).astype(np.int8)
        return clamped

    def call(self, graph: Graph, node: Node) -> Call:
        x, y = graph[node.inputs[0]].quant, graph[node.output].quant
        assert x and y
        multiplier, shift = self.multiplier(graph, node)
        low, high = self.clamp(graph, node)
        return Call(
            "tlc_quantize_s8",
            "tlc_quantize_t",
            {
                "count": graph[node.output].elements,
                "in_zp": x.zero_point,
                "out_zp": y.zero_point,
                "mult": multiplier,
                "shift": shift,
                "act_min": low,
                "act_max": high,
            },
            (Address(node.inputs[0]), Address(node.output, is_output=True)),
        )

    def reads(self, graph: Graph, node: Node, first: int, last: int) -> Reads | None:
        return same_rows(graph, node, first, last)

    def backward(self, graph: Graph, node: Node, wanted: frozenset[int], adding: frozenset[int]) -> list[Call] | None:
        return [*mask_call(graph, node, real_range(graph, node.inputs[0])), copy_call(graph, node, 0, 0 in adding)]

    def gradient(
        self, graph: Graph, node: Node, inputs: Sequence[Array], output: Array, dy: Array, sums: Mapping[int, Array]
    ) -> None:
        sums[0][...] += mask(graph, node, output, dy, real_range(graph, node.inputs[0]))

    def backward_int(
        self, graph: Graph, node: Node, wanted: frozenset[int], adding: frozenset[int]
    ) -> list[Call] | None:
        masking = mask_call_int(graph, node, real_range(graph, node.inputs[0]))
        return [*masking, copy_call_int(graph, node, 0, 0 in adding)]

    def gradient_int(
        self, graph: Graph, node: Node, inputs: Sequence[Array], output: Array, dy: Fixed, sums: Mapping[int, Fixed]
    ) -> None:
        sums[0].put(masked(graph, node, output, dy, real_range(graph, node.inputs[0])))
