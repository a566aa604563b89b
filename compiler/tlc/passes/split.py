# SPDX-License-Identifier: Apache-2.0
"""Where a model can be cut in two, and the cut itself.

A cut is one tensor: everything it depends on runs on the device, the rest on the host. It is legal where nothing else
crosses, every model input is on the device side, and every operator there is supported.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tlc.errors import ModelError, UnsupportedOperator, UsageError, nearest
from tlc.graph import Graph, Node
from tlc.names import first_name
from tlc.ops import REGISTRY

__all__ = ["Cut", "cut_named", "legal_cuts", "split", "with_tail"]


@dataclass(frozen=True)
class Cut:
    """A legal cut. ``tensor`` is None where the whole model runs on the device."""

    tensor: str | None
    file_name: str  # the tensor's name in the model file, or "none"
    nodes: tuple[str, ...]  # the names of the device's nodes
    tail: str | None = None
    """Of a U-shaped split: the tensor with which the device goes on, after the host's part."""
    tail_nodes: tuple[str, ...] = ()


def unsupported(graph: Graph, node: Node) -> UnsupportedOperator | None:
    """Why a node cannot run on the device; None where it can."""
    operator = REGISTRY.get(node.op)
    if operator is None:
        return UnsupportedOperator("no such operator on the device", where=f"{node.op} '{node.name}'")
    try:
        operator.check(graph, node)
    except UnsupportedOperator as error:
        return error
    return None


def legal_cuts(graph: Graph) -> list[Cut]:
    """Every legal cut in execution order; the uncut model, where it is supported throughout, comes last."""
    bad = {node.name for node in graph.nodes if unsupported(graph, node)}
    cuts = []
    for node in graph.nodes:
        tensor = graph[node.output]
        if tensor.origin is None or tensor.name in graph.outputs or 0 in tensor.shape:
            continue
        device = _ancestors(graph, tensor.name)
        if device & bad or not _crosses_alone(graph, tensor.name, device):
            continue
        cuts.append(Cut(tensor.name, tensor.origin.name, tuple(n.name for n in graph.nodes if n.name in device)))
    if not bad:
        cuts.append(Cut(None, "none", tuple(node.name for node in graph.nodes)))
    return cuts


def cut_named(graph: Graph, name: str) -> Cut:
    """The cut that a user names by a tensor of the model file, by the first of a fused tensor's names, or by ``none``.

    Raises:
        UsageError: no such tensor, or no legal cut there.
        UnsupportedOperator: an operator on the device side is not supported; names the deepest cut that avoids it.
    """
    cuts = legal_cuts(graph)
    by_name = {cut.file_name: cut for cut in cuts} | {cut.tensor: cut for cut in cuts if cut.tensor}
    if name in by_name:
        return by_name[name]
    called = [cut for cut in cuts if first_name(cut.file_name) == name]
    if len(called) == 1:
        return called[0]
    whole = name == "none"
    origins = {t.origin.name: t for t in graph.tensors.values() if t.origin}
    tensor = origins.get(name) or graph.tensors.get(name)
    if not whole and (tensor is None or tensor.is_constant):
        names = [cut.file_name for cut in cuts]
        raise UsageError(f"no tensor '{name}' to cut at", where="--cut", remedy=nearest(name, names))
    device = {n.name for n in graph.nodes} if whole or tensor is None else _ancestors(graph, tensor.name)
    for node in graph.nodes:
        if node.name in device and (error := unsupported(graph, node)):
            deepest = next((cut.file_name for cut in reversed(cuts)), None)
            remedy = f"the deepest cut that avoids it is --cut {deepest}" if deepest else "no cut avoids it"
            raise UnsupportedOperator(error.rule, where=error.where, remedy=remedy)
    assert tensor is not None
    if tensor.name in graph.inputs:
        raise UsageError(
            f"'{name}' is an input of the model, nothing would be left for the device",
            where="--cut",
            remedy=nearest(name, [cut.file_name for cut in cuts]),
        )
    if tensor.name in graph.outputs:
        raise UsageError(
            f"'{name}' is an output of the model, nothing would be left for the host",
            where="--cut",
            remedy="use --cut none to run all of it on the device",
        )
    crossing = sorted(
        other
        for other in {n for node in graph.nodes if node.name not in device for n in node.inputs} | set(graph.outputs)
        if other != tensor.name
        and not graph[other].is_constant
        and (other in graph.inputs or getattr(graph.producer(other), "name", None) in device)
    )
    raise UsageError(
        f"a cut at '{name}' is not the only tensor between the halves: {', '.join(crossing) or 'an input'} crosses too",
        where="--cut",
        remedy=nearest(name, [cut.file_name for cut in cuts]),
    )


def with_tail(graph: Graph, cut: Cut, name: str) -> Cut:
    """A cut after whose host part the device goes on, from a tensor that a user names as for :func:`cut_named`.

    Raises:
        UsageError: no such tensor, nothing between the cut and it, it is an output, or more than it goes on to the tail.
        UnsupportedOperator: an operator behind it is not supported on the device.
    """
    where, names = "--tail", [t.origin.name for t in graph.tensors.values() if t.origin and graph.producer(t.name)]
    found = {t.name: t for t in graph.tensors.values() if graph.producer(t.name)}
    found |= {t.origin.name: t for t in found.values() if t.origin}
    tensor = found.get(name) or next((t for n, t in found.items() if first_name(n) == name), None)
    if cut.tensor is None:
        raise UsageError("the whole network is on the device", where=where, remedy="add --cut TENSOR, before the tail")
    if tensor is None or tensor.origin is None:
        raise UsageError(f"no tensor '{name}' to go on from", where=where, remedy=nearest(name, names))
    before = _ancestors(graph, tensor.name)
    made = {name for node in graph.nodes if node.name in before for name in node.outputs}
    if tensor.name == cut.tensor or cut.tensor not in made:
        raise UsageError(
            f"the tail at '{name}' does not come after the cut at '{cut.file_name}'",
            where=where,
            remedy="name a tensor that the host computes from the cut, or leave --tail out",
        )
    if tensor.name in graph.outputs:
        raise UsageError(
            f"'{name}' is an output of the model: nothing would be left for the tail",
            where=where,
            remedy="name a tensor before it, or leave --tail out",
        )
    if not _crosses_alone(graph, tensor.name, before):
        read = {name for node in graph.nodes if node.name not in before for name in node.inputs} | set(graph.outputs)
        others = sorted(name for name in read if name in made and name != tensor.name)
        raise UsageError(
            f"the tail at '{name}' needs more than that tensor: {', '.join(others) or 'an input'} goes there too",
            where=where,
            remedy="name a later tensor, where everything comes together",
        )
    if len(graph.outputs) != 1:
        raise UsageError(f"the model has {len(graph.outputs)} outputs, a tail has one", where=where)
    rest = [node for node in graph.nodes if node.name not in before]
    for node in rest:
        if error := unsupported(graph, node):
            raise UnsupportedOperator(error.rule, where=error.where, remedy="name a tensor after it for --tail")
    return replace(cut, tail=tensor.name, tail_nodes=tuple(node.name for node in rest))


def split(graph: Graph, cut: Cut) -> tuple[Graph, Graph | None]:
    """The device's graph, and the host's (None where nothing is left for it). With a tail the device's holds both of its
    parts, the first one's nodes first, and the host's ends where the tail begins."""
    device = graph.copy()
    if cut.tensor is None:
        return device, None
    names = {*cut.nodes, *cut.tail_nodes}
    host = graph.copy()
    device.nodes = [node for node in device.nodes if node.name in names]
    device.outputs = [cut.tensor]
    host.nodes = [node for node in host.nodes if node.name not in names]
    host.inputs = [cut.tensor]
    if cut.tail is not None:
        device.inputs.append(cut.tail)
        device.outputs += graph.outputs
        device.tail = cut.tail
        host.outputs = [cut.tail]
    device.prune()
    host.prune()
    return device, host


def require_cuts(graph: Graph, cuts: list[Cut]) -> None:
    """Raises for the first operator in the way where a model has no legal cut at all."""
    if cuts:
        return
    for node in graph.nodes:
        if error := unsupported(graph, node):
            raise UnsupportedOperator(error.rule, where=error.where, remedy="no cut avoids it")
    raise ModelError("the model has no operator to place on the device", where=graph.name)


def _ancestors(graph: Graph, tensor: str) -> set[str]:
    needed = {tensor}
    nodes = set()
    for node in reversed(graph.nodes):
        if needed & set(node.outputs):
            nodes.add(node.name)
            needed.update(node.inputs)
    return nodes


def _crosses_alone(graph: Graph, tensor: str, device: set[str]) -> bool:
    made = {name for node in graph.nodes if node.name in device for name in node.outputs}
    read_by_host = {name for node in graph.nodes if node.name not in device for name in node.inputs}
    crossing = {name for name in read_by_host | set(graph.outputs) if name in made or name in graph.inputs}
    read_by_device = {name for node in graph.nodes if node.name in device for name in node.inputs}
    return crossing == {tensor} and set(graph.inputs) <= read_by_device
