# SPDX-License-Identifier: Apache-2.0
"""A multiplication and an addition by constants → a 1×1 depthwise convolution, whose weights have a scale per channel."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tlc.build import attributes, emit, set_output
from tlc.graph import Graph, Node
from tlc.layout import Move
from tlc.ops.base import Activation
from tlc.passes.base import Rewrite
from tlc.passes.canonicalize.edges import constant_operand, only_reader, write_chain
from tlc.passes.canonicalize.fold_affine import affine_ending_at

MAX_CHANNELS = 4096
"""More would take more flash than two element-wise operators with one constant each."""


class AffineToDepthwise(Rewrite):
    """y = scale · x + offset that varies along the axes from k on → reshape to (1, positions, 1, channels), convolve,
    reshape back: normalisation at the input, per channel or per feature.

    A single operator stays as it is unless its constant is per channel.
    """

    name = "affine_to_depthwise"

    def rewrite(self, graph: Graph, node: Node) -> bool:
        """Replaces the run of arithmetic that ends at a node."""
        if constant_operand(graph, node) is None or graph[node.output].dtype != "float32":
            return False
        following = only_reader(graph, node.output)
        if (
            node.attrs.activation is Activation.NONE
            and following is not None
            and constant_operand(graph, following) is not None
        ) and graph[following.output].shape == graph[node.output].shape:
            return False  # the run goes on
        affine = affine_ending_at(graph, node.output, clamped=True)
        if affine is None:
            return False
        shape = graph[affine.source].shape
        varying = [a for a in range(len(shape)) if max(affine.scale.shape[a], affine.offset.shape[a]) > 1]
        multiplies = any(one.op == "mul" for one in affine.nodes)
        per_channel = bool(varying) and varying[0] == len(shape) - 1
        if not (per_channel or (multiplies and len(affine.nodes) > 1)):
            return False
        first = varying[0] if varying else len(shape) - 1
        channels = math.prod(shape[first:])
        if len(shape) < 2 or channels > MAX_CHANNELS:
            return False
        self._replace(graph, node, affine.source, affine.scale, affine.offset, first, channels)
        return True

    @staticmethod
    def _replace(
        graph: Graph,
        node: Node,
        source: str,
        scale: NDArray[np.float64],
        offset: NDArray[np.float64],
        first: int,
        channels: int,
    ) -> None:
        output = graph[node.output]
        shape = output.shape
        picked = (slice(0, 1),) * first  # it does not vary along these axes
        weight, bias = (np.broadcast_to(one, shape)[picked].ravel().astype(np.float32) for one in (scale, offset))
        inputs = [graph.constant(f"{output.name}/scale", weight.reshape(1, 1, 1, channels)).name]
        if bias.any():
            inputs.append(graph.constant(f"{output.name}/offset", bias).name)
        image = shape if len(shape) == 4 and first == 3 else (1, math.prod(shape[1:first]), 1, channels)
        at = graph.nodes.index(node)
        graph.nodes.remove(node)
        moves = [] if shape == image else [Move("reshape", image)]
        x, at = write_chain(graph, source, moves, name=f"{output.name}/image", at=at)
        attrs = attributes("depthwise_conv2d", activation=node.attrs.activation)
        made = emit(
            graph, "depthwise_conv2d", [x, *inputs], attrs, name=f"{output.name}/affine", node_name=node.name, at=at
        )
        if moves:
            _, end = write_chain(graph, made.name, [Move("reshape", shape)], name=f"{output.name}/back", at=at + 1)
            at = end - 1
        set_output(graph, graph.nodes[at], output.name)
