# SPDX-License-Identifier: Apache-2.0
"""A clamp goes into the operator before it."""

from __future__ import annotations

from tlc.graph import Graph, Node
from tlc.ops.base import Activation
from tlc.passes.base import Rewrite
from tlc.passes.canonicalize.edges import only_reader

FUSING = ("conv2d", "depthwise_conv2d", "dense", "add", "sub", "mul", "max_pool2d", "average_pool2d", "clamp")


class FuseActivation(Rewrite):
    """clamp(op(x)) → op(x) with that activation; two clamps in a row become one where an activation has their bounds."""

    name = "fuse_activation"

    def rewrite(self, graph: Graph, node: Node) -> bool:
        """Fuses the clamp that follows a node."""
        if node.op not in FUSING:
            return False
        clamp = only_reader(graph, node.output)
        if clamp is None or clamp.op != "clamp":
            return False
        both = intersection(node.attrs.activation, clamp.attrs.activation)
        if both is None:
            return False
        node.attrs = node.with_attrs(activation=both)
        graph.nodes.remove(clamp)
        node.outputs = [clamp.output]
        return True


def intersection(first: Activation, second: Activation) -> Activation | None:
    """The activation that is ``second`` after ``first``."""
    (low, high), (least, most) = first.bounds, second.bounds
    bounds = (min(max(low, least), most), max(min(high, most), least))
    return next((activation for activation in Activation if activation.bounds == bounds), None)
