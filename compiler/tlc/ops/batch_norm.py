# SPDX-License-Identifier: Apache-2.0
"""Batch normalization with fixed statistics: float only, folded before quantization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.errors import UnsupportedOperator
from tlc.graph import Graph, Node, Shape
from tlc.ops.base import Array, Call, Operator

__all__ = ["Attrs", "BatchNorm", "as_affine"]


def constant_parameters(graph: Graph, node: Node) -> str | None:
    """Gamma, beta, mean and variance must be constants."""
    return next((f"'{name}' is computed" for name in node.inputs[1:] if not graph[name].is_constant), None)


@dataclass(frozen=True)
class Attrs:
    """Inputs: x (..., C), gamma (C), beta (C), mean (C), variance (C)."""

    epsilon: float = 1e-5


def as_affine(graph: Graph, node: Node) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The scale and the offset, each (C), with which y = x · scale + offset. Folding passes use them."""
    gamma, beta, mean, variance = (graph.data(name).astype(np.float64) for name in node.inputs[1:])
    scale = gamma / np.sqrt(variance + node.attrs.epsilon)
    return scale.astype(np.float32), (beta - mean * scale).astype(np.float32)


class BatchNorm(Operator):
    """gamma · (x − mean) / √(variance + epsilon) + beta on the last axis."""

    name = "batch_norm"
    Attrs = Attrs
    rules = (constant_parameters,)

    def infer(self, graph: Graph, node: Node) -> Shape:
        return graph[node.inputs[0]].shape

    def tf(self, node: Node, inputs: Sequence[Any]) -> Any:
        import tensorflow as tf

        x, gamma, beta, mean, variance = inputs
        return tf.nn.batch_normalization(x, mean, variance, beta, gamma, node.attrs.epsilon)

    def int8(self, graph: Graph, node: Node, inputs: Sequence[Array]) -> Array:
        raise _not_folded(node)

    def call(self, graph: Graph, node: Node) -> Call:
        raise _not_folded(node)


def _not_folded(node: Node) -> UnsupportedOperator:
    return UnsupportedOperator(
        "a batch normalization must be folded into its neighbours before quantization, but it was not",
        where=f"batch_norm '{node.name}'",
        remedy="export the model in float, or cut before it",
    )
