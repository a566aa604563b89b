# SPDX-License-Identifier: Apache-2.0
"""Batch normalization → a multiplication and an addition, which the other rewrites fold into what stands beside them."""

from __future__ import annotations

import numpy as np

from tlc.build import emit, set_output
from tlc.graph import Graph, Node
from tlc.passes.base import Rewrite


class FoldBatchNorm(Rewrite):
    """y = γ · (x − μ) / √(σ² + ε) + β is y = x · s + (β − μ · s) with s = γ / √(σ² + ε)."""

    name = "fold_batch_norm"

    def rewrite(self, graph: Graph, node: Node) -> bool:
        """Replaces one batch normalization."""
        if node.op != "batch_norm":
            return False
        gamma, beta, mean, variance = (graph.data(name).astype(np.float64) for name in node.inputs[1:])
        scale = gamma / np.sqrt(variance + node.attrs.epsilon)
        offset = beta - mean * scale
        output, at = node.output, graph.nodes.index(node)
        factor = graph.constant(f"{output}/scale", scale.astype(np.float32))
        term = graph.constant(f"{output}/offset", offset.astype(np.float32))
        scaled = emit(graph, "mul", [node.inputs[0], factor.name], name=f"{output}/scaled", at=at)
        graph.nodes.remove(node)
        emit(graph, "add", [scaled.name, term.name], name=f"{output}/normalised", node_name=node.name, at=at + 1)
        set_output(graph, graph.nodes[at + 1], output)
        return True
