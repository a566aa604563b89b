# SPDX-License-Identifier: Apache-2.0
"""Padding by zeros goes into the convolution (or max-pool) after it."""

from __future__ import annotations

from tlc.graph import Graph, Node, Shape
from tlc.layout import Move
from tlc.ops.base import Activation
from tlc.passes.base import Rewrite
from tlc.passes.canonicalize.edges import only_reader, write_chain

NOT_NEGATIVE = (Activation.RELU, Activation.RELU6)


class FusePad(Rewrite):
    """conv(pad(x)) → conv(x) with larger pads, also through a reshape that only adds or removes axes of 1.

    A max-pool never takes its padding into account, so that zeros may become padding only where every window keeps a
    value of x and none of these is negative.
    """

    name = "fuse_pad"

    def rewrite(self, graph: Graph, node: Node) -> bool:
        """Fuses the padding before a node."""
        if node.op not in ("conv2d", "depthwise_conv2d", "max_pool2d"):
            return False
        x = graph[node.inputs[0]]
        producer = graph.producer(x.name)
        reshape = producer if producer is not None and producer.op == "reshape" else None
        pad = graph.producer(reshape.inputs[0]) if reshape is not None else producer
        if pad is None or pad.op != "pad" or pad.attrs.value != 0.0 or pad.attrs.pads[0] != (0, 0):
            return False
        if only_reader(graph, x.name) is None or only_reader(graph, pad.output) is None:
            return False
        pads = pad.attrs.pads if reshape is None else _through(graph[pad.output].shape, x.shape, pad.attrs.pads)
        if pads is None or pads[3] != (0, 0):
            return False
        (before_h, after_h), (before_w, after_w) = pads[1], pads[2]
        if node.op == "max_pool2d" and not self._harmless(graph, node, pad, pads):
            return False
        top, left, bottom, right = node.attrs.pads
        node.attrs = node.with_attrs(pads=(top + before_h, left + before_w, bottom + after_h, right + after_w))
        inner = tuple(n - a - b for n, (a, b) in zip(x.shape, pads, strict=True))
        moves = [] if graph[pad.inputs[0]].shape == inner else [Move("reshape", inner)]
        node.inputs[0], _ = write_chain(
            graph, pad.inputs[0], moves, name=f"{pad.inputs[0]}/image", at=graph.nodes.index(node)
        )
        return True

    @staticmethod
    def _harmless(graph: Graph, node: Node, pad: Node, pads: tuple[tuple[int, int], ...]) -> bool:
        maker = graph.producer(pad.inputs[0])
        positive = maker is not None and getattr(maker.attrs, "activation", None) in NOT_NEGATIVE
        kernel = node.attrs.kernel
        covered = all(max(pads[1 + axis]) < kernel[axis] for axis in (0, 1))
        return positive and covered and not any(node.attrs.pads)


def _through(padded: Shape, image: Shape, pads: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...] | None:
    """The pads per axis of ``image``, a reshape of ``padded`` that leaves every axis longer than 1 as it is."""
    long = [(n, pair) for n, pair in zip(padded, pads, strict=True) if n != 1]
    result: list[tuple[int, int]] = []
    for extent in image:
        if extent == 1:
            result.append((0, 0))
        elif long and long[0][0] == extent:
            result.append(long.pop(0)[1])
        else:
            return None
    return None if long else tuple(result)
