# SPDX-License-Identifier: Apache-2.0
"""Transposes at the model's edge become a note (:class:`~tlc.graph.Origin`) that tells the caller to convert."""

from __future__ import annotations

from tlc.build import attributes, emit
from tlc.graph import Graph, Node, Origin, Tensor
from tlc.layout import Move, inverse, origin_after
from tlc.passes.base import Rewrite
from tlc.passes.canonicalize.edges import inputs_behind


class AbsorbLayout(Rewrite):
    """An input that is transposed (maybe after element-wise arithmetic or padding) is taken in that layout; an output that
    is transposed last is given before."""

    name = "absorb_layout"

    def rewrite(self, graph: Graph, node: Node) -> bool:
        """Takes away a transpose at the edge."""
        if node.op != "transpose":
            return False
        return self._input(graph, node) or self._output(graph, node)

    @staticmethod
    def _input(graph: Graph, node: Node) -> bool:
        names = inputs_behind(graph, node.inputs[0])
        if not names or any(reader.op == "opaque" for name in names for reader in graph.consumers(name)):
            return False
        perm = tuple(node.attrs.perm)
        for name in names:
            _turn(graph, graph[name], perm)
        return True

    @staticmethod
    def _output(graph: Graph, node: Node) -> bool:
        output, source = graph[node.output], graph[node.inputs[0]]
        if output.name not in graph.outputs or graph.consumers(output.name):
            return False
        if source.name in graph.inputs or source.name in graph.outputs:
            return False
        origin = origin_after(
            output.origin, output.shape, inverse(source.shape, [Move("transpose", tuple(node.attrs.perm))])
        )
        if origin is None:
            return False
        source.origin = origin
        graph.nodes.remove(node)
        graph.replace_uses(output.name, source.name)
        return True


def _turn(graph: Graph, tensor: Tensor, perm: tuple[int, ...]) -> None:
    """Takes an input in another layout, and gives its readers the former one."""
    assert tensor.origin is not None
    former = tensor.shape
    readers = graph.consumers(tensor.name)
    tensor.shape = tuple(former[axis] for axis in perm)
    tensor.origin = Origin(tensor.origin.name, tensor.origin.shape, perm)
    (back,) = inverse(former, [Move("transpose", perm)])
    attrs = attributes("transpose", perm=back.value)
    kind, quant = tensor.dtype, tensor.quant
    turned = emit(graph, "transpose", [tensor.name], attrs, name=f"{tensor.name}/file", at=0, dtype=kind, quant=quant)
    for reader in readers:
        reader.inputs = [turned.name if name == tensor.name else name for name in reader.inputs]
