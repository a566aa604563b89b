# SPDX-License-Identifier: Apache-2.0
"""A ReLU or ReLU6 that could not be fused into the operator before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlc.graph import Graph, Node
from tlc.ops.base import Activation, Array, Call, activation_range, apply_activation, quantize_multiplier
from tlc.ops.quantize import Quantize
from tlc.ops.training import copy_call, mask, mask_call


@dataclass(frozen=True)
class Attrs:
    """Input: x."""

    activation: Activation


class Clamp(Quantize):
    """min(max(x, low), high), in the output's scale and zero point.

    ReLU is TFLM's RELU. TFLM's RELU6 ignores the output's quantization, so the other clamps are a QUANTIZE, whose
    multiplier differs from RELU's in its last bits, and then a clamp of integers.
    """

    name = "clamp"
    Attrs = Attrs

    def tf(self, node: Node, inputs: Sequence[Any]) -> Any:
        return apply_activation(node.attrs.activation, inputs[0])

    def clamp(self, graph: Graph, node: Node) -> tuple[int, int]:
        out = graph[node.output].quant
        assert out
        return activation_range(node.attrs.activation, out)

    def multiplier(self, graph: Graph, node: Node) -> tuple[int, int]:
        """As that of QUANTIZE; for ReLU divided in float32, like TFLM's ``CalculateReluOpData``."""
        if node.attrs.activation is not Activation.RELU:
            return super().multiplier(graph, node)
        x, y = graph[node.inputs[0]].quant, graph[node.output].quant
        assert x and y
        return quantize_multiplier(float(np.float32(x.s) / np.float32(y.s)))

    def backward(self, graph: Graph, node: Node, wanted: frozenset[int], adding: frozenset[int]) -> list[Call] | None:
        return [*mask_call(graph, node), copy_call(graph, node, 0, 0 in adding)]

    def gradient(
        self, graph: Graph, node: Node, inputs: Sequence[Array], output: Array, dy: Array, wanted: frozenset[int]
    ) -> dict[int, Array]:
        return {0: mask(graph, node, output, dy)}
