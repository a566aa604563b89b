# SPDX-License-Identifier: Apache-2.0
"""A transpose before a flatten and a dense layer goes into the columns of the weights."""

from __future__ import annotations

import numpy as np

from tlc.graph import Graph, Node
from tlc.layout import Move, apply
from tlc.passes.base import Rewrite
from tlc.passes.canonicalize.edges import chain_to, move_of, replace_constant, write_chain


class PermuteDense(Rewrite):
    """dense(flatten(transpose(x)), W) → dense(flatten(x), W′): a column of W stays with its element of x."""

    name = "permute_dense"

    def rewrite(self, graph: Graph, node: Node) -> bool:
        """Permutes the columns of one dense layer."""
        if node.op != "dense" or not graph[node.inputs[1]].is_constant:
            return False
        x = graph[node.inputs[0]]
        source, chain = chain_to(graph, x.name)
        if x.elements != x.shape[-1] or all(one.op == "reshape" for one in chain):
            return False
        elements = np.arange(x.elements).reshape(graph[source].shape)
        column = apply([move_of(one) for one in chain], elements).ravel()
        if np.array_equal(column, np.arange(x.elements)):
            return False
        weight = graph[node.inputs[1]]
        permuted = np.empty_like(graph.data(weight.name))
        permuted[:, column] = graph.data(weight.name)
        replace_constant(graph, node, 1, permuted, weight.quant)
        flat = [] if graph[source].shape == x.shape else [Move("reshape", x.shape)]
        node.inputs[0], _ = write_chain(graph, source, flat, name=f"{x.name}/flat", at=graph.nodes.index(node))
        return True
