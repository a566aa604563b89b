# SPDX-License-Identifier: Apache-2.0
"""Tensors get the name that the model file gives them, as far as it is free."""

from __future__ import annotations

from tlc.graph import Graph
from tlc.passes.base import Pass, Result


class RestoreNames(Pass):
    """Names nodes' outputs after their origin; what is left over loses no name."""

    name = "restore_names"

    def call(self, graph: Graph) -> Result:
        """Renames every tensor at once."""
        result = graph.copy()
        wanted = {
            name: tensor.origin.name
            for node in result.nodes
            for name in node.outputs
            if (tensor := result[name]).origin is not None
        }
        # An output of the model has the first claim on its name.
        claims = sorted(wanted, key=lambda name: name not in result.outputs)
        taken = {name for name in result.tensors if name not in wanted} | {n.name for n in result.nodes}
        names: dict[str, str] = {}
        for old in claims:
            if wanted[old] not in taken:
                names[old] = wanted[old]
                taken.add(wanted[old])
        kept = {old for old in wanted if old not in names}
        for old in kept:  # a name that another one now has must give way
            number = 1
            while (new := old if number == 1 else f"{old}_{number}") in taken:
                number += 1
            names[old] = new
            taken.add(new)
        if all(old == new for old, new in names.items()):
            return Result(graph, False)
        result.tensors = {names.get(name, name): tensor for name, tensor in result.tensors.items()}
        for name, tensor in result.tensors.items():
            tensor.name = name
        for node in result.nodes:
            node.inputs = [names.get(name, name) for name in node.inputs]
            node.outputs = [names.get(name, name) for name in node.outputs]
        result.outputs = [names.get(name, name) for name in result.outputs]
        return Result(result, True)
