# SPDX-License-Identifier: Apache-2.0
"""The backward graph: which C calls lead from the gradient at the cut to every tensor that learns.

Only what leads to a learned tensor is computed. Calls stand in the order in which they run.

Where updates are interleaved, the gradient of a learned tensor lives from the call that computes it to its update. A bias is
updated at once: nothing reads it in the backward pass. A weight is updated after its layer's input gradient, which wants the
weights of the forward pass; it cannot come before the weight's gradient, since it rescales the output's gradient in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from tlc.errors import UsageError
from tlc.graph import Graph, Node
from tlc.learning import Learning
from tlc.ops import REGISTRY
from tlc.ops.base import Accumulator, Call, Grad, Slice
from tlc.ops.losses import loss_head
from tlc.ops.training import narrowed

__all__ = ["UPDATE", "Plan", "Selection", "differentiate", "last_layer"]

COPIES = ("tlc_copy_grad_f32", "tlc_copy_grad_s16")
UPDATE = "update"
"""The function of a call that stands for an update of the learned tensor whose accumulator is its argument."""


class Selection(dict[str, str]):
    """What learns: tensor → its node; of the tensors in ``slices`` only that part."""

    def __init__(
        self, learned: Mapping[str, str] | Iterable[tuple[str, str]] = (), slices: Mapping[str, Slice] | None = None
    ) -> None:
        super().__init__(learned)
        self.slices = dict(slices or {})


@dataclass(frozen=True)
class Plan:
    """What learns (tensor → node), and the backward pass."""

    learned: dict[str, str]
    calls: tuple[tuple[Node, Call], ...]
    aliases: dict[str, str]
    """Activations whose gradient is the same bytes as another's: through a reshape, a residual addition, a clamp."""
    order: tuple[tuple[Node, frozenset[int]], ...] = ()
    """The nodes of the backward pass, each with the inputs whose gradients it gives."""
    learning: Learning = field(default_factory=Learning)
    top: str = ""
    """The activation whose gradient is handed in, or computed by the loss."""
    slices: Mapping[str, Slice] = field(default_factory=dict)
    """Of these learned tensors only a part learns."""
    loss: Call | None = None
    """Where the loss is on the device: from a label to the gradient of the top."""
    tail: Plan | None = None
    """Of a U-shaped segment: the second part's plan, which has the loss. Its calls and nodes come first in this one's,
    the gradient of its input is handed out, and the top is the first part's."""
    aux_top: str = ""
    """Of a segment with a head at the cut: the activation whose gradient the loss gives, with which the backward pass begins
    beside the top, the cut. The head's share of the cut's gradient is added to what is handed in there."""
    shifts: Mapping[tuple[str, str, int], tuple[int, int]] = field(default_factory=dict)
    """Static scales of gradients in integers (:func:`tlc.passes.static_scales.with_static_scales`): of a node, the tensor whose
    gradient it writes, and the how manieth time, by how much what comes and what is there are shifted."""


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


def differentiate(graph: Graph, learned: dict[str, str], learning: Learning | None = None) -> Plan:
    """The backward pass for the learned tensors of an integer graph with one output.

    Args:
        learning: the options of the training; None: gradients are summed up, the gradient at the output is handed in.

    Raises:
        UsageError: an operator between the output and a learned tensor has no gradient, a learned tensor belongs to
            several layers, or the output does not depend on it.
    """
    learning = learning or Learning()
    if graph.tail:
        return _both(graph, learned, learning)
    return _differentiate(graph, learned, learning)


def _both(graph: Graph, learned: dict[str, str], learning: Learning) -> Plan:
    """The plans of both parts of a U-shaped segment as one."""
    slices = learned.slices if isinstance(learned, Selection) else {}
    head, tail = graph.segments()

    def of(part: Graph) -> Selection:
        nodes = {node.name for node in part.nodes}
        return Selection({name: node for name, node in learned.items() if node in nodes}, slices)

    last = _differentiate(tail, of(tail), learning, graph.tail)
    first = _differentiate(head, of(head), replace(learning, loss="none"))
    return Plan(
        learned,
        (*last.calls, *first.calls),
        {**last.aliases, **first.aliases},
        (*last.order, *first.order),
        learning,
        first.top,
        slices,
        last.loss,
        last,
    )


def _differentiate(graph: Graph, learned: dict[str, str], learning: Learning, wanted_input: str = "") -> Plan:
    """The plan of one part; also gives the gradient of an input, where one is named."""
    slices = learned.slices if isinstance(learned, Selection) else {}
    top, loss = loss_head(graph, learning.loss)
    aux_top, tops = "", {top}
    if graph.aux:
        aux_top, top = top, graph.outputs[0]
        tops = {top, aux_top}
    leads = _leads(graph, learned, aux_top or top, wanted_input)
    calls: list[tuple[Node, Call]] = []
    order: list[tuple[Node, frozenset[int]]] = []
    aliases: dict[str, str] = {}
    has_gradient = tops & leads
    for node in reversed(graph.nodes):
        if node.output not in has_gradient:
            continue
        wanted = frozenset(index for index, name in enumerate(node.inputs) if name in leads)
        adding = frozenset(
            index for index in wanted if node.inputs[index] in has_gradient or node.inputs[index] in node.inputs[:index]
        )
        operator, in_integers = REGISTRY[node.op], learning.arithmetic == "int"
        derive = operator.backward_int if in_integers else operator.backward
        made = derive(graph, node, wanted, adding) if wanted else []
        if made is None:
            raise UsageError(
                f"{node.op} has no gradient{' in integers' if in_integers else ''}, and it stands between the cut and a tensor that learns",
                where=f"{node.op} '{node.name}'",
                remedy="cut before it, or let a later layer learn",
            )
        copied = next((call for call in made if call.function in COPIES and not call.fields["add"]), None)
        if copied is not None:  # the output's gradient has no other reader: one input's may be the same bytes
            source, target = (_tensor(arg) for arg in copied.args)
            aliases[target] = source
            made = [call for call in made if call is not copied]
        made = [narrowed(call, slices[name]) if (name := _summed(call)) in slices else call for call in made]
        calls += [(node, call) for call in (_with_updates(made) if learning.interleaved else made)]
        order.append((node, wanted))
        has_gradient.update(node.inputs[index] for index in wanted)
    return Plan(learned, tuple(calls), aliases, tuple(order), learning, top, slices, loss, aux_top=aux_top)


def _with_updates(calls: list[Call]) -> list[Call]:
    """A layer's calls, the update of its bias behind its gradient, that of its weight behind all."""
    result: list[Call] = []
    late: list[Call] = []
    for call in calls:
        result.append(call)
        sums = [arg for arg in call.args if isinstance(arg, Accumulator)]
        updates = [Call(UPDATE, "", {}, (arg,)) for arg in sums]
        if call.function in ("tlc_bias_grad_f32", "tlc_bias_grad_s16"):
            result += updates
        else:
            late += updates
    return result + late


def _summed(call: Call) -> str:
    """The learned tensor whose gradient a call gives; empty where it gives none."""
    return next((arg.tensor for arg in call.args if isinstance(arg, Accumulator)), "")


def _leads(graph: Graph, learned: dict[str, str], top: str, wanted_input: str) -> set[str]:
    """The tensors through which a learned tensor influences the output, the learned ones included."""
    for name in learned:
        readers = [node.name for node in graph.consumers(name)]
        if len(readers) != 1:
            raise UsageError(
                f"a tensor that learns must belong to one layer, but it belongs to {len(readers)}",
                where=f"tensor '{name}'",
            )
    leads = {*learned, *([wanted_input] if wanted_input else [])}
    for node in graph.nodes:
        if leads & set(node.inputs):
            leads.update(node.outputs)
    reached = {top}  # what influences the loss
    for node in reversed(graph.nodes):
        if node.output in reached:
            reached.update(node.inputs)
    for name in learned:
        if name not in reached:
            raise UsageError(
                f"it cannot learn: the gradient comes in at '{top}', which does not depend on it",
                where=f"tensor '{name}'",
                remedy="leave it out of --train",
            )
    return leads


def _tensor(arg: object) -> str:
    assert isinstance(arg, Grad), arg
    return arg.tensor
