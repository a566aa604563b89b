# SPDX-License-Identifier: Apache-2.0
"""Where a model is cut: by name, at several places, or by what each place costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tlc import boards
from tlc.boards import Board, Transport
from tlc.bundle import HOST_FILE
from tlc.codegen.expressions import identifier
from tlc.cost import Estimate, estimate
from tlc.errors import UnsupportedOperator, UsageError
from tlc.frontends import read_model, write_host
from tlc.graph import Graph, Node
from tlc.names import first_name
from tlc.ops import REGISTRY
from tlc.passes.canonicalize import canonicalize
from tlc.passes.quantize import quantize
from tlc.passes.select import parse_spec
from tlc.passes.split import Cut, cut_named, legal_cuts, require_cuts, split
from tlc.pipeline.checks import with_arithmetic
from tlc.pipeline.edges import is_integer
from tlc.pipeline.fit import fitted, require_fit
from tlc.pipeline.integers import unit_ranges
from tlc.pipeline.options import CHOSEN, Options


def plan_model(options: Options) -> list[Estimate]:
    """Every legal cut on a board, in execution order, the Pareto-optimal ones marked."""
    board = boards.load(options.board)
    transport = board.check_transport(options.transport)
    if options.train in CHOSEN:
        raise UsageError(
            f"--train {options.train} is for tlc compile, which sees the data",
            where="tlc plan",
            remedy="plan with --train last, which it would take at least",
        )
    options = with_arithmetic(options, board)
    graph = canonicalize(read_model(options.model, options.shapes))
    return _estimates(graph, board, options, transport)


def _estimates(graph: Graph, board: Board, options: Options, transport: Transport) -> list[Estimate]:
    cuts = legal_cuts(graph)
    require_cuts(graph, cuts)
    deepest, _ = split(graph, cuts[-1])
    # Bytes do not depend on the activations' ranges, so no calibration is needed for a plan.
    integer = deepest if is_integer(deepest) else quantize(deepest, unit_ranges(deepest))
    rows: list[Estimate] = []
    refusals: list[UsageError] = []
    for cut in cuts:
        device, _ = split(integer, cut)
        try:
            # What is chosen by its cost comes later; the last layer stands for it.
            learned = parse_spec(device, "last" if options.train in CHOSEN else options.train)
            program, packing = fitted(device, board, options, learned, cut.file_name == "none", strict=False)
        except UsageError as error:  # nothing can learn there
            refusals.append(error)
            continue
        rows.append(estimate(cut.file_name, program, board, packing, transport, options.ram))
    if not rows:
        raise refusals[0]
    return [dataclasses.replace(row, pareto=row.fits and not any(_dominates(o, row) for o in rows)) for row in rows]


def _dominates(a: Estimate, b: Estimate) -> bool:
    """No worse in anything that a user pays for, and better in something."""
    one = (a.flash_bytes, a.ram_bytes, a.instructions, a.link_bytes)
    two = (b.flash_bytes, b.ram_bytes, b.instructions, b.link_bytes)
    return a.fits and one != two and all(x <= y for x, y in zip(one, two, strict=True))


def named_cut(source: Graph, graph: Graph, name: str) -> tuple[Graph, Cut]:
    """A cut at any tensor of the file: one that canonicalization fused away is kept by making it an output meanwhile."""
    try:
        return graph, cut_named(graph, name)
    except UnsupportedOperator:
        raise
    except UsageError:
        fused = next((t for t in source.tensors.values() if t.origin and t.origin.name == name), None)
        if fused is None or fused.name in source.outputs or source.producer(fused.name) is None:
            raise
        kept = source.copy()
        kept.outputs.append(fused.name)
        graph = canonicalize(kept)
        graph.outputs.pop()
        return graph, cut_named(graph, name)


def keeping(source: Graph, graph: Graph, name: str) -> Graph | None:
    """The model with a tensor that canonicalization fused away as its last output, so that it stays; None: it is there."""
    if any(tensor.origin and tensor.origin.name == name for tensor in graph.tensors.values()):
        return None
    fused = next((t for t in source.tensors.values() if t.origin and t.origin.name == name), None)
    if fused is None or fused.name in source.outputs or source.producer(fused.name) is None:
        return None
    kept = source.copy()
    kept.outputs.append(fused.name)
    return kept


def host_files(graph: Graph, cuts: Sequence[Cut], first: str, options: Options) -> dict[str, bytes]:
    """What lies behind each of several cuts, by the files' names: that of the first-named is the plain one."""
    hosts: dict[str, bytes] = {}
    for cut in cuts:
        _, host = split(graph, cut)
        assert host is not None and cut.tensor is not None
        name = f"host_{identifier(first_name(cut.file_name))}"
        name += f"_{len(hosts)}" if f"{name}.onnx" in hosts else ""
        name = HOST_FILE if cut.file_name == first else f"{name}.onnx"
        hosts[name] = write_host(options.model, graph, host, cut.tensor, options.shapes)
    return hosts


def automatic_cut(graph: Graph, board: Board, options: Options, transport: Transport) -> Cut:
    """The cut with the least time per inference (device computing, then the link) among those that fit.

    A cut that leaves nothing to the host is taken only where there is no other: whoever wants that says ``--cut none``.
    The same holds, where the device learns, for one that leaves the host nothing to learn; and for one that fits by strips
    alone: it leaves no RAM to the application.
    """
    rows = _estimates(graph, board, options, transport)
    fitting = [row for row in rows if row.fits]
    if not fitting:
        nearest = min(rows, key=lambda row: max(row.over_flash, 0) + max(row.over_ram, 0))
        require_fit(nearest, board, options.ram, any_cut=True)
    whole = [row for row in fitting if not row.strips] or fitting
    real = [row for row in whole if row.cut != "none"] or whole
    if options.train != "none":
        real = [row for row in real if _host_learns(graph, cut_named(graph, row.cut))] or real
    return cut_named(graph, min(real, key=lambda row: row.seconds).cut)


def _host_learns(graph: Graph, cut: Cut) -> bool:
    """Whether a layer with weights is left to the host."""
    _, host = split(graph, cut)
    return host is not None and any(_has_weights(node) for node in host.nodes)


def _has_weights(node: Node) -> bool:
    return node.op == "opaque" or REGISTRY[node.op].weight_axis(node) is not None
