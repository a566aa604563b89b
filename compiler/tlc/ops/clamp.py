# SPDX-License-Identifier: Apache-2.0
"""A ReLU or ReLU6 that could not be fused into the operator before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tlc.graph import Graph, Node
from tlc.ops.base import Activation, activation_range, apply_activation
from tlc.ops.quantize import Quantize


@dataclass(frozen=True)
class Attrs:
    """Input: x."""

    activation: Activation


class Clamp(Quantize):
    """min(max(x, low), high), in the output's scale and zero point.

    TFLM's RELU for every pair of quantizations. Its RELU6 ignores the output's quantization: there, this is a QUANTIZE
    and then a RELU6.
    """

    name = "clamp"
    Attrs = Attrs

    def tf(self, node: Node, inputs: Sequence[Any]) -> Any:
        return apply_activation(node.attrs.activation, inputs[0])

    def clamp(self, graph: Graph, node: Node) -> tuple[int, int]:
        out = graph[node.output].quant
        assert out
        return activation_range(node.attrs.activation, out)
