# SPDX-License-Identifier: Apache-2.0
"""Chains of reshapes and transposes in their shortest form: merged, cancelled, or turned into a reshape, which is free."""

from __future__ import annotations

from tlc.build import set_output
from tlc.graph import Graph, Node
from tlc.layout import Move, shortest
from tlc.passes.base import Rewrite
from tlc.passes.canonicalize.edges import chain_to, inputs_behind, is_move, move_of, only_reader, write_chain


class MergeMoves(Rewrite):
    """Replaces the chain that ends at a node where a shorter one does the same."""

    name = "merge_moves"

    def rewrite(self, graph: Graph, node: Node) -> bool:
        """Shortens the chain that ends at a node."""
        if not is_move(node):
            return False
        readers = graph.consumers(node.output)
        if node.output not in graph.outputs and readers and all(is_move(reader) for reader in readers):
            return False  # a longer chain ends further on
        source, chain = chain_to(graph, node.output)
        quant = graph[source].quant
        if quant is not None and not all(quant.same(graph[one.output].quant) for one in chain):
            return False  # an integer graph in which a move changes the meaning of the values
        moves = [move_of(one) for one in chain]
        from_input = node.output not in graph.outputs and bool(inputs_behind(graph, source))
        best = shortest(graph[source].shape, moves, transpose_first=from_input)
        if best == moves or _cost(best) > _cost(moves):
            return False
        own = list(chain)  # what only this chain needs, and would go
        while len(own) > 1 and any(only_reader(graph, one.output) is None for one in own[:-1]):
            own = own[1:]
        if _cost(best)[0] > _cost([move_of(one) for one in own])[0]:
            return False
        if not best:
            return self._drop(graph, node, source)
        at = graph.nodes.index(node)
        graph.nodes.remove(node)
        _, end = write_chain(graph, source, best, name=f"{node.output}/moved", at=at)
        set_output(graph, graph.nodes[end - 1], node.output)
        graph.nodes[end - 1].name = node.name
        return True

    @staticmethod
    def _drop(graph: Graph, node: Node, source: str) -> bool:
        if node.output in graph.outputs:
            if source in graph.inputs or source in graph.outputs:
                return False
            graph[source].origin = graph[node.output].origin  # an output is known by the name that the file gives it
        graph.nodes.remove(node)
        graph.replace_uses(node.output, source)
        return True


def _cost(moves: list[Move]) -> tuple[int, int]:
    return sum(move.kind == "transpose" for move in moves), len(moves)
