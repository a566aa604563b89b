# SPDX-License-Identifier: Apache-2.0
"""The backward graph: which C calls lead from the gradient at the cut to every tensor that learns.

Only what leads to a learned tensor is computed. Calls stand in the order in which they run.
"""

from __future__ import annotations

from dataclasses import dataclass

from tlc.errors import UsageError
from tlc.graph import Graph, Node
from tlc.ops import REGISTRY
from tlc.ops.base import Call

__all__ = ["Plan", "differentiate", "last_layer"]


@dataclass(frozen=True)
class Plan:
    """What learns (tensor → node), and the backward pass."""

    learned: dict[str, str]
    calls: tuple[tuple[Node, Call], ...]
    aliases: dict[str, str]
    """Activations whose gradient is the same bytes as another's (through a reshape)."""


def last_layer(graph: Graph) -> dict[str, str]:
    """Weight and bias of the last layer that has weights."""
    for node in reversed(graph.nodes):
        if REGISTRY[node.op].weight_axis(node) is not None:
            return {name: node.name for name in node.inputs[1:3]}
    raise UsageError(
        "nothing can learn: the device segment has no layer with weights",
        where="--train last",
        remedy="choose a deeper --cut, or --train none",
    )


def differentiate(graph: Graph, learned: dict[str, str]) -> Plan:
    """The backward pass for the learned tensors of an integer graph with one output.

    Raises:
        UsageError: an operator between the output and a learned tensor has no gradient.
    """
    leads = set(learned)  # tensors through which a learned tensor influences the output
    for node in graph.nodes:
        if leads & set(node.inputs):
            leads.update(node.outputs)
    calls: list[tuple[Node, Call]] = []
    aliases: dict[str, str] = {}
    has_gradient = set(graph.outputs) & leads
    for node in reversed(graph.nodes):
        if node.output not in has_gradient:
            continue
        wanted = frozenset(index for index, name in enumerate(node.inputs) if name in leads)
        adding = frozenset(index for index in wanted if node.inputs[index] in has_gradient)
        if REGISTRY[node.op].alias and not adding:
            aliases[node.inputs[0]] = node.output
            has_gradient.add(node.inputs[0])
            continue
        made = REGISTRY[node.op].backward(graph, node, wanted, adding) if wanted else []
        if made is None:
            raise UsageError(
                f"{node.op} has no gradient, and it stands between the cut and a tensor that learns",
                where=f"{node.op} '{node.name}'",
                remedy="cut before it, or let a later layer learn",
            )
        calls += [(node, call) for call in made]
        has_gradient.update(node.inputs[index] for index in wanted)
    return Plan(learned, tuple(calls), aliases)
