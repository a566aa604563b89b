# SPDX-License-Identifier: Apache-2.0
"""Transposes at the model's edge become a note (:class:`~tlc.graph.Origin`) that tells the caller to convert."""

from __future__ import annotations

from tlc.build import attributes, emit
from tlc.graph import Graph, Node, Origin
from tlc.layout import Move, inverse, origin_after
from tlc.passes.base import Rewrite
from tlc.passes.canonicalize.edges import input_behind


class AbsorbLayout(Rewrite):
    """An input that is transposed (maybe after element-wise arithmetic or padding) is taken in that layout; an output that
    is transposed last is given before."""

    name = "absorb_layout"

    def rewrite(self, graph: Graph, node: Node) -> bool:
        if node.op != "transpose":
            return False
        return self._input(graph, node) or self._output(graph, node)

    @staticmethod
    def _input(graph: Graph, node: Node) -> bool:
        name = input_behind(graph, node.inputs[0])
        if name is None or any(reader.op == "opaque" for reader in graph.consumers(name)):
            return False
        tensor = graph[name]
        perm = tuple(node.attrs.perm)
        assert tensor.origin is not None
        former = tensor.shape
        tensor.shape = tuple(former[axis] for axis in perm)
        tensor.origin = Origin(tensor.origin.name, tensor.origin.shape, perm)
        (back,) = inverse(former, [Move("transpose", perm)])
        readers = graph.consumers(tensor.name)
        turned = emit(
            graph, "transpose", [tensor.name], attributes("transpose", perm=back.value), name=f"{tensor.name}/file", at=0,
            dtype=tensor.dtype, quant=tensor.quant,
        )  # fmt: skip
        for reader in readers:
            reader.inputs = [turned.name if name == tensor.name else name for name in reader.inputs]
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
