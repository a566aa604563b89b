# SPDX-License-Identifier: Apache-2.0
"""The backward graph: which C calls lead from the gradient at the cut to every tensor that learns.

Only what leads to a learned tensor is computed. Calls stand in the order in which they run.
"""

from __future__ import annotations

from dataclasses import dataclass

from tlc.errors import UsageError
from tlc.graph import Graph, Node
from tlc.ops import REGISTRY
from tlc.ops.base import Call, Grad

__all__ = ["Plan", "differentiate", "last_layer"]

COPY = "tlc_copy_grad_f32"


@dataclass(frozen=True)
class Plan:
    """What learns (tensor → node), and the backward pass."""

    learned: dict[str, str]
    calls: tuple[tuple[Node, Call], ...]
    aliases: dict[str, str]
    """Activations whose gradient is the same bytes as another's: through a reshape, a residual addition, a clamp."""
    order: tuple[tuple[Node, frozenset[int]], ...] = ()
    """The nodes of the backward pass, each with the inputs whose gradients it gives."""


def last_layer(graph: Graph) -> dict[str, str]:
    """Weight and bias of the last layer that has weights."""
    for node in reversed(graph.nodes):
        if REGISTRY[node.op].weight_axis(node) is not None:
            return dict.fromkeys(node.inputs[1:3], node.name)
    raise UsageError(
        "nothing can learn: the device segment has no layer with weights",
        where="--train last",
        remedy="choose a deeper --cut, or --train none",
    )


def differentiate(graph: Graph, learned: dict[str, str]) -> Plan:
    """The backward pass for the learned tensors of an integer graph with one output.

    Raises:
        UsageError: an operator between the output and a learned tensor has no gradient, a learned tensor belongs to
            several layers, or the output does not depend on it.
    """
    leads = _leads(graph, learned)
    calls: list[tuple[Node, Call]] = []
    order: list[tuple[Node, frozenset[int]]] = []
    aliases: dict[str, str] = {}
    has_gradient = set(graph.outputs[:1]) & leads
    for node in reversed(graph.nodes):
        if node.output not in has_gradient:
            continue
        wanted = frozenset(index for index, name in enumerate(node.inputs) if name in leads)
        adding = frozenset(
            index for index in wanted if node.inputs[index] in has_gradient or node.inputs[index] in node.inputs[:index]
        )
        made = REGISTRY[node.op].backward(graph, node, wanted, adding) if wanted else []
        if made is None:
            raise UsageError(
                f"{node.op} has no gradient, and it stands between the cut and a tensor that learns",
                where=f"{node.op} '{node.name}'",
                remedy="cut before it, or let a later layer learn",
            )
        copied = next((call for call in made if call.function == COPY and not call.fields["add"]), None)
        if copied is not None:  # the output's gradient has no other reader: one input's may be the same bytes
            source, target = (_tensor(arg) for arg in copied.args)
            aliases[target] = source
            made = [call for call in made if call is not copied]
        calls += [(node, call) for call in made]
        order.append((node, wanted))
        has_gradient.update(node.inputs[index] for index in wanted)
    return Plan(learned, tuple(calls), aliases, tuple(order))


def _leads(graph: Graph, learned: dict[str, str]) -> set[str]:
    """The tensors through which a learned tensor influences the output, the learned ones included."""
    for name in learned:
        readers = [node.name for node in graph.consumers(name)]
        if len(readers) != 1:
            raise UsageError(
                f"a tensor that learns must belong to one layer, but it belongs to {len(readers)}",
                where=f"tensor '{name}'",
            )
    leads = set(learned)
    for node in graph.nodes:
        if leads & set(node.inputs):
            leads.update(node.outputs)
    reached = set(graph.outputs[:1])  # what influences the output
    for node in reversed(graph.nodes):
        if node.output in reached:
            reached.update(node.inputs)
    for name in learned:
        if name not in reached:
            raise UsageError(
                f"it cannot learn: the gradient comes in at '{graph.outputs[0]}', which does not depend on it",
                where=f"tensor '{name}'",
                remedy="leave it out of --train",
            )
    return leads


def _tensor(arg: object) -> str:
    assert isinstance(arg, Grad), arg
    return arg.tensor
