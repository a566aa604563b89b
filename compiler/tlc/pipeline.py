# SPDX-License-Identifier: Apache-2.0
"""From a model file to a project, pass by pass."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tlc import boards
from tlc.boards import Board, Transport
from tlc.bundle import HOST_FILE, LEARNED_FILE, Bundle, CutEntry, EdgeTensor, LearnedTensor, Tail
from tlc.codegen.expressions import identifier
from tlc.codegen.project import Emission, Settings, emit, initial_state, render_application, render_model, write_project
from tlc.cost import (
    Estimate,
    certificate,
    estimate,
    frozen_weights,
    layer_instructions,
    link_message_bytes,
    ram_limit,
    values_bytes,
)
from tlc.data import InputSpec, Samples, has_labels, samples_for
from tlc.errors import DataError, FitError, ModelError, UnsupportedOperator, UsageError
from tlc.extras import require
from tlc.frontends import read_model, write_host
from tlc.frontends.tflite_writer import write_tflite
from tlc.graph import Graph, Node, Quant, Tensor
from tlc.learn.cut_gradient import gradients_at
from tlc.learn.sensitivity import fisher_channels
from tlc.learning import Learning
from tlc.names import first_name
from tlc.ops import REGISTRY
from tlc.passes.aux_head import with_aux_head
from tlc.passes.backward import Plan, Selection, differentiate
from tlc.passes.calibrate import calibrate, fallback_samples, through_host
from tlc.passes.canonicalize import canonicalize
from tlc.passes.cuts import cut_parts, several_cuts
from tlc.passes.pack import DecodeCost, Packing, PackMode, pack
from tlc.passes.patches import fewest, least
from tlc.passes.quantize import quantize
from tlc.passes.schedule import schedule
from tlc.passes.select import ROLES, learnable, parse_spec
from tlc.passes.select_auto import Budget, Selector, Training
from tlc.passes.split import Cut, cut_named, legal_cuts, require_cuts, split, with_tail
from tlc.passes.static_scales import with_static_scales
from tlc.program import Program, learned_scale, rows_shape
from tlc.reference import run_int8
from tlc.reference_float import run_float
from tlc.reference_train_int import gradient_exponents
from tlc.strips import Strips

__all__ = ["Compiled", "Options", "Progress", "compile_model", "plan_model"]

MAX_SAMPLES = 4096
"""Of those that the head at the cut is fitted to."""
MOST_CALIBRATION = 32
"""Samples on which static scales of gradients are found."""
CHOSEN = ("auto", "random")
"""Forms of ``--train`` that choose by cost."""

Scales = Mapping[tuple[str, str, int], int]
"""The exponents of integer gradients, where they are static."""

Progress = Callable[[str, int, int], None]
"""Called with what is going on, and how much of it is done."""


@dataclass(frozen=True)
class Options:
    """What ``tlc compile`` is told."""

    model: Path
    board: str
    out: Path
    cut: str = "auto"
    calib: Path | None = None
    pack: PackMode = "auto"
    train: str = "none"
    transport: str | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    seed: int = 0
    train_ram: int | None = None
    """Bytes of RAM that training may take beyond inference; None: what the board has left."""
    train_macs: int | None = None
    learning: Learning = field(default_factory=Learning)
    """How what learns does; its arithmetic follows from the next."""
    train_arithmetic: Literal["auto", "float", "int"] = "auto"
    """``auto``: in float32 where the board's core has an FPU, else in integers."""
    tail: str | None = None
    """Of a U-shaped split: the tensor with which the device goes on behind the host's part."""
    aux_head: bool = False
    """A classifier at the cut, on the device."""
    patches: str = "auto"
    """Whether the first layers are computed in strips of rows: ``none``; ``auto``, where the RAM does not suffice; or in at most so
    many, whatever takes least."""
    ram: int | None = None
    """The most RAM that the device segment may take, bytes; None: what the board has."""
    cuts: tuple[str, ...] = ()
    """Several cuts instead of ``cut``; the device begins with the first."""


@dataclass(frozen=True)
class Compiled:
    """What ``tlc compile`` tells."""

    bundle: Bundle
    board: Board
    estimate: Estimate
    packing: Packing
    warnings: tuple[str, ...]
    training: Training | None = None
    """Where what learns was chosen, or held to a budget."""
    cuts: tuple[Estimate, ...] = ()
    """Of several cuts what each costs; flash and RAM are those of all."""

    def to_json(self) -> dict[str, Any]:
        """The keys that scripts rely on, and the certificate."""
        promise = self.bundle.certificate
        return {
            "board": self.bundle.board,
            "cut": self.bundle.cut,
            "macs": self.bundle.macs,
            "weight_bytes": promise.weight_bytes,
            "packed_bytes": promise.packed_bytes,
            "flash_bytes": promise.flash_bytes,
            "arena_bytes": promise.arena_bytes,
            "ram_bytes": promise.ram_bytes,
            "bundle_hash": self.bundle.hash,
            "warnings": list(self.warnings),
            "link_bytes": self.estimate.link_bytes,
            "instructions_estimate": self.estimate.instructions,
            "strips": self.estimate.strips,
            "certificate": promise.model_dump(),
            "packing": [dataclasses.asdict(row) for row in self.packing.report],
            "training": self.training.to_json() if self.training else None,
            **({"cuts": [row.to_json() for row in self.cuts]} if self.cuts else {}),
        }


def compile_model(options: Options, progress: Progress | None = None) -> Compiled:
    """Compiles a model into a project directory, which appears whole or not at all."""
    say: Progress = progress or (lambda what, done, total: None)
    board = boards.load(options.board)
    transport = board.check_transport(options.transport)
    options = _with_arithmetic(_with_own_loss(options), board)
    _check_training(options)
    _check_cuts(options)
    say("reading the model", 0, 1)
    source = read_model(options.model, options.shapes)
    graph = canonicalize(source)
    warnings: list[str] = []

    say("choosing the cut", 0, 1)
    if options.tail is not None and options.tail == options.cut:
        raise UsageError(
            f"the tail at '{options.tail}' does not come after the cut, it is there",
            where="--tail",
            remedy="name a tensor that the host computes from the cut, or leave --tail out",
        )
    cuts: list[Cut] = []
    if options.cuts:
        cuts = several_cuts(source, graph, options.cuts)
        cut = cuts[-1]
    elif options.cut == "auto":
        cut = _automatic_cut(graph, board, options, transport)
    else:
        kept = _keeping(source, graph, options.tail) if options.tail is not None else None
        graph, cut = _named_cut(kept or source, canonicalize(kept) if kept else graph, options.cut)
        if kept:
            graph.outputs.pop()
    if options.tail is not None:
        cut = with_tail(graph, cut, options.tail)
    _check_loss(cut, options)
    device_float, host = split(graph, cut)
    host_bytes = write_host(options.model, graph, host, cut.tensor, options.shapes) if host and cut.tensor else None

    samples = _samples(graph, options, warnings)
    device = _to_integers(device_float, samples, options, say, warnings, host_bytes)
    if options.aux_head:
        device = _with_aux_head(device, device_float, graph, samples, options, say, warnings)
    say("packing", 0, 1)
    learned, training = _selection(graph, device, board, cut, samples, options, say)
    scales = _static_scales(graph, device, cut, learned, samples, options, say)
    program, packing = _fitted(device, board, options, learned, cut.file_name == "none", scales=scales, cuts=cuts)
    row = estimate(cut.file_name, program, board, packing, transport, options.ram)
    _require_fit(row, board, options.ram)

    say("writing the project", 0, 1)
    emission = emit(program, packing)
    device_bytes = _device_tflite(device, options.model.name, warnings)
    state = initial_state(emission)
    bundle = Bundle(
        name=options.model.stem,
        board=board.id,
        model_sha256=hashlib.sha256(options.model.read_bytes()).hexdigest(),
        cut=cut.file_name,
        seed=options.seed,
        inputs=tuple(_edge(device[name]) for name in device.inputs if name != device.tail),
        outputs=tuple(_edge(device[name]) for name in device.sent),
        tail=Tail(input=_edge(device[device.tail]), output=_edge(device[device.outputs[-1]])) if device.tail else None,
        model_inputs=tuple(_file_name(graph[name]) for name in graph.inputs),
        model_outputs=tuple(_file_name(graph[name]) for name in graph.outputs),
        aux=_edge(device[device.aux]) if device.aux else None,
        learned=_learned(program),
        learning=options.learning if program.learned else None,
        layers=tuple(call.comment.split(":")[0] for call in emission.forward),
        message_bytes=max(link_message_bytes(device), *(4 * device[part.tensor].elements for part in program.cuts), 0),
        macs=program.macs,
        certificate=certificate(program, board, packing, host is None),
        weights_sha256=emission.weights_sha256,
        host_sha256=hashlib.sha256(host_bytes).hexdigest() if host_bytes else None,
        device_sha256=hashlib.sha256(device_bytes).hexdigest() if device_bytes else None,
        learned_sha256=hashlib.sha256(state).hexdigest() if state else None,
    )
    hosts = {HOST_FILE: host_bytes} if host_bytes else {}
    rows: list[Estimate] = []
    if cuts:
        first = cut_named(graph, options.cuts[0]).file_name
        hosts = _hosts(graph, cuts, first, options)
        entries = _cut_entries(program, cuts, hosts, bundle.layers, emission)
        bundle = bundle.model_copy(update={"cuts": entries}).at(first)
        ends = zip(cuts, program.cuts, strict=True)
        rows = [estimate(each.file_name, program, board, packing, transport, options.ram, part) for each, part in ends]
        row = next(each for each in rows if each.cut == first)
    bundle = bundle.sealed()
    settings = Settings(
        model_name=options.model.stem,
        model_file=options.model.name,
        model_hash=bundle.model_sha256,
        board=board,
        cut=", ".join(c.file_name for c in cuts) or cut.file_name,
        pack=options.pack,
        train=options.train,
        seed=options.seed,
        transport=transport,
    )
    compiled = Compiled(bundle, board, row, packing, tuple(warnings), training, tuple(rows))
    files: dict[str, str | bytes] = {
        **render_model(emission, bundle, settings),
        **render_application(program, bundle, settings),
        boards.PROJECT_FILE: boards.path_of(options.board).read_text(),
        "bundle.json": bundle.to_json(),
        "report.json": json.dumps(_report(compiled, program), indent=2) + "\n",
    }
    files |= hosts
    if device_bytes:
        files["device.tflite"] = device_bytes
    if state:
        files[LEARNED_FILE] = state
    write_project(options.out, files)
    return compiled


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
    options = _with_arithmetic(options, board)
    graph = canonicalize(read_model(options.model, options.shapes))
    return _estimates(graph, board, options, transport)


def _estimates(graph: Graph, board: Board, options: Options, transport: Transport) -> list[Estimate]:
    cuts = legal_cuts(graph)
    require_cuts(graph, cuts)
    deepest, _ = split(graph, cuts[-1])
    # Bytes do not depend on the activations' ranges, so no calibration is needed for a plan.
    integer = deepest if _is_integer(deepest) else quantize(deepest, _unit_ranges(deepest))
    rows: list[Estimate] = []
    refusals: list[UsageError] = []
    for cut in cuts:
        device, _ = split(integer, cut)
        try:
            # What is chosen by its cost comes later; the last layer stands for it.
            learned = parse_spec(device, "last" if options.train in CHOSEN else options.train)
            program, packing = _fitted(device, board, options, learned, cut.file_name == "none", strict=False)
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


def _named_cut(source: Graph, graph: Graph, name: str) -> tuple[Graph, Cut]:
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


def _keeping(source: Graph, graph: Graph, name: str) -> Graph | None:
    """The model with a tensor that canonicalization fused away as its last output, so that it stays; None: it is there."""
    if any(tensor.origin and tensor.origin.name == name for tensor in graph.tensors.values()):
        return None
    fused = next((t for t in source.tensors.values() if t.origin and t.origin.name == name), None)
    if fused is None or fused.name in source.outputs or source.producer(fused.name) is None:
        return None
    kept = source.copy()
    kept.outputs.append(fused.name)
    return kept


def _hosts(graph: Graph, cuts: Sequence[Cut], first: str, options: Options) -> dict[str, bytes]:
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


def _cut_entries(
    program: Program, cuts: Sequence[Cut], hosts: Mapping[str, bytes], layers: Sequence[str], emission: Emission
) -> tuple[CutEntry, ...]:
    return tuple(
        CutEntry(
            name=cut.file_name,
            output=_edge(program.graph[part.tensor]),
            layers=tuple(
                name for name, call in zip(layers, emission.forward, strict=True) if call.layer < part.forward
            ),
            macs=sum(step.macs for step in program.forward[: part.forward]),
            learned=part.learned,
            host=file,
            host_sha256=hashlib.sha256(content).hexdigest(),
        )
        for cut, part, (file, content) in zip(cuts, program.cuts, hosts.items(), strict=True)
    )


def _check_cuts(options: Options) -> None:
    """What several cuts do not go with."""
    if not options.cuts:
        return
    where = f"--cuts {','.join(options.cuts)}"
    if options.cut != "auto":
        raise UsageError("and --cut are two answers to one question", where=where, remedy="leave --cut out")
    if options.tail is not None:
        raise UsageError(
            "the device goes on behind the host's part of one cut only",
            where=f"{where} --tail {options.tail}",
            remedy="give --cut with --tail, or leave --tail out",
        )
    if options.learning.scales == "static":
        raise UsageError(
            "static scales are found for the gradient at one cut",
            where=f"{where} --train-scales static",
            remedy="leave --train-scales out, or compile one --cut",
        )
    if options.aux_head:
        raise UsageError(
            "a head at the cut stands at one cut only",
            where=f"{where} --aux-head",
            remedy="give --cut with --aux-head, or leave --aux-head out",
        )
    if options.learning.loss != "none":
        raise UsageError(
            "the loss is where the network ends, and that is on the host",
            where=f"{where} --loss {options.learning.loss}",
            remedy="leave --loss to the host, or compile with --cut none",
        )


def _automatic_cut(graph: Graph, board: Board, options: Options, transport: Transport) -> Cut:
    """The cut with the least time per inference (device computing, then the link) among those that fit.

    A cut that leaves nothing to the host is taken only where there is no other: whoever wants that says ``--cut none``.
    The same holds, where the device learns, for one that leaves the host nothing to learn.
    """
    rows = _estimates(graph, board, options, transport)
    fitting = [row for row in rows if row.fits]
    if not fitting:
        nearest = min(rows, key=lambda row: max(row.over_flash, 0) + max(row.over_ram, 0))
        _require_fit(nearest, board, options.ram, any_cut=True)
    real = [row for row in fitting if row.cut != "none"] or fitting
    if options.train != "none":
        real = [row for row in real if _host_learns(graph, cut_named(graph, row.cut))] or real
    return cut_named(graph, min(real, key=lambda row: row.seconds).cut)


def _host_learns(graph: Graph, cut: Cut) -> bool:
    """Whether a layer with weights is left to the host."""
    _, host = split(graph, cut)
    return host is not None and any(_has_weights(node) for node in host.nodes)


def _has_weights(node: Node) -> bool:
    return node.op == "opaque" or REGISTRY[node.op].weight_axis(node) is not None


def _require_fit(row: Estimate, board: Board, ram: int | None, *, any_cut: bool = False) -> None:
    if row.fits:
        return
    over = []
    if row.over_flash > 0:
        over.append(f"{row.flash_bytes:,} bytes of flash where {board.memory.flash_bytes:,} are")
    if row.over_ram > 0:
        over.append(f"{row.ram_bytes:,} bytes of RAM where {ram_limit(board, ram):,} are")
    rule = f"the device segment needs {' and '.join(over)}"
    remedy = "choose an earlier cut (tlc plan lists them) or a larger board"
    if any_cut:
        rule = f"no cut fits (the nearest, --cut {row.cut}): {rule}"
        remedy = "choose a larger board, or a smaller model"
    raise FitError(rule, where=f"board '{board.id}'", remedy=remedy)


def _samples(graph: Graph, options: Options, warnings: list[str]) -> Samples | None:
    if options.calib is not None:
        specs = [InputSpec(*_file_edge(graph[name])) for name in graph.inputs]
        labelled = options.train == "auto" or options.learning.scales == "static"
        labelled = labelled or (options.aux_head and has_labels(options.calib))
        return samples_for(options.calib, specs, labelled=labelled)
    if not _is_integer(graph):
        warnings.append(
            "no --calib: activation ranges come from random inputs uniform on [0, 1), so expect a loss of accuracy; "
            "give a few hundred real samples with --calib FILE.npz"
        )
    return None


def _to_integers(
    device: Graph, samples: Samples | None, options: Options, say: Progress, warnings: list[str], host: bytes | None
) -> Graph:
    if _is_integer(device):
        read = options.train == "auto" or options.aux_head or options.learning.scales == "static"
        if options.calib is not None and not read:
            warnings.append("--calib is not used: the model is quantized already")
        return device
    head, tail = device.segments() if device.tail else (device, None)
    arrays = fallback_samples(head, options.seed) if samples is None else _input_arrays(head, samples)
    ranges = calibrate(head, arrays, progress=lambda done, total: say("calibrating", done, total))
    if tail is not None:
        assert host is not None
        ranges |= calibrate(tail, {device.tail: through_host(head, tail, arrays, host)})
    say("quantizing", 0, 1)
    return quantize(device, ranges)


def _input_arrays(graph: Graph, samples: Samples) -> dict[str, NDArray[Any]]:
    """Samples in the graph's layout, by its inputs' names."""
    arrays: dict[str, NDArray[Any]] = {}
    for name in graph.inputs:
        tensor = graph[name]
        given = samples.inputs[_file_name(tensor)]
        arrays[name] = tensor.origin.from_file(given, tensor.shape) if tensor.origin else given
    return arrays


def _check_training(options: Options) -> None:
    """What is missing for training is said before any work is done."""
    if options.train == "auto":
        if options.calib is None:
            raise DataError(
                "labelled samples are needed to choose what learns",
                where="--train auto",
                remedy="give --calib FILE.npz with x and y, or name what learns: --train SPEC",
            )
        require("tensorflow")
    if options.learning.scales == "static":
        if options.train == "none":
            raise UsageError("nothing learns", where="--train-scales static", remedy="add --train, or leave it out")
        if options.aux_head:
            raise UsageError(
                "with a head at the cut two gradients come together, whose scales have nothing to do with each other",
                where="--train-scales static",
                remedy="leave --aux-head or --train-scales out",
            )
        if options.calib is None:
            raise DataError(
                "labelled samples are needed to find the scales of gradients",
                where="--train-scales static",
                remedy="give --calib FILE.npz with x and y, or leave --train-scales out",
            )
    if options.train == "none" and (options.train_ram is not None or options.train_macs is not None):
        raise UsageError(
            "a budget for training, but nothing learns",
            where="--train-ram" if options.train_ram is not None else "--train-macs",
            remedy="add --train auto",
        )


def _with_own_loss(options: Options) -> Options:
    """A head at the cut that learns has a loss."""
    if not options.aux_head or options.train == "none" or options.learning.loss != "none":
        return options
    return dataclasses.replace(options, learning=dataclasses.replace(options.learning, loss="softmax-ce"))


def _with_arithmetic(options: Options, board: Board) -> Options:
    """With the arithmetic of the training settled."""
    learning, asked = options.learning, options.train_arithmetic
    if asked == "auto":
        asked = "float" if options.tail is not None or "fpu" in board.cpu.features else "int"
    if learning.scales == "static" and asked == "float":
        raise UsageError(
            "static scales are of gradients in integers, and these are float32",
            where="--train-scales static",
            remedy="add --train-arithmetic int, or leave --train-scales out",
        )
    return dataclasses.replace(options, learning=dataclasses.replace(learning, arithmetic=asked))


def _check_loss(cut: Cut, options: Options) -> None:
    if cut.tail is not None:
        if options.aux_head:
            raise UsageError(
                "the device's second part ends the network: there is no use for a head at the cut",
                where=f"--tail {options.tail} --aux-head",
                remedy="leave one of them out",
            )
        _check_tail(options)
        return
    if options.aux_head:
        _check_aux_head(cut, options)
        return
    if options.learning.loss == "none":
        return
    if options.train == "none":
        raise UsageError(
            "a loss, but nothing learns", where=f"--loss {options.learning.loss}", remedy="add --train last"
        )
    if cut.tensor is not None:
        raise UsageError(
            f"the loss is where the network ends, and that is on the host: the device ends at '{cut.file_name}'",
            where=f"--loss {options.learning.loss}",
            remedy="add --cut none, or leave the loss to the host",
        )


def _check_aux_head(cut: Cut, options: Options) -> None:
    where = "--aux-head"
    if cut.tensor is None:
        raise UsageError(
            "the whole network is on the device: there is no cut for a head to be at",
            where=where,
            remedy="add --cut TENSOR (tlc plan lists them), or leave --aux-head out",
        )
    if options.learning.loss == "mse":
        raise UsageError(
            "the head's loss is softmax cross-entropy", where=f"{where} --loss mse", remedy="leave --loss out"
        )
    if options.train in CHOSEN or options.train_ram is not None or options.train_macs is not None:
        raise UsageError(
            "what learns beside a head is not chosen by cost",
            where=where,
            remedy="name what learns: --train full, or --train last for the head alone",
        )


def _with_aux_head(
    device: Graph,
    device_float: Graph,
    graph: Graph,
    samples: Samples | None,
    options: Options,
    say: Progress,
    warnings: list[str],
) -> Graph:
    """The device segment with its head, fitted to labelled samples."""
    say("fitting the head", 0, 1)
    output = graph[graph.outputs[0]]
    if len(graph.outputs) != 1 or output.elements < 2 or output.elements != output.shape[-1]:
        raise UsageError(
            f"the head classifies as the network does, but the network's outputs are {', '.join(graph.outputs)} and the first "
            f"has shape {output.shape}",
            where="--aux-head",
            remedy="take a model with one output, a value for each class",
        )
    classes = output.elements
    arrays = fallback_samples(device, options.seed) if samples is None else _input_arrays(device, samples)
    arrays = {name: values[:MAX_SAMPLES] for name, values in arrays.items()}
    if _is_integer(device_float):
        q = {name: _quant(device[name]).quantize(np.asarray(values)) for name, values in arrays.items()}
        z = _quant(device[device.outputs[0]]).dequantize(run_int8(device, q)[device.outputs[0]])
    else:
        z = run_float(device_float, arrays)[device.outputs[0]]
    labels = None if samples is None or samples.labels is None else samples.labels[:MAX_SAMPLES]
    if labels is None:
        warnings.append(
            "no labels: the head at the cut begins with random weights; give labelled samples with --calib FILE.npz (x and y)"
        )
    elif labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"holds labels from {labels.min()} to {labels.max()}, but the network has {classes} classes",
            where=str(options.calib),
            remedy="number the classes from 0",
        )
    return with_aux_head(device, z, labels, classes, _file_edge(output)[1], options.seed)


def _quant(tensor: Tensor) -> Quant:
    assert tensor.quant is not None
    return tensor.quant


def _check_tail(options: Options) -> None:
    where, learning = f"--tail {options.tail}", options.learning
    if options.train in CHOSEN or options.train_ram is not None or options.train_macs is not None:
        raise UsageError(
            "what learns of two parts is not chosen by cost",
            where=where,
            remedy="name what learns: --train full, or layers of both parts",
        )
    if (options.train == "none") != (learning.loss == "none"):
        raise UsageError(
            "the loss is where the network ends, on the device, and it takes a loss and something that learns",
            where=where,
            remedy="add --loss softmax-ce and --train full, or leave out both",
        )
    if learning.interleaved:
        raise UsageError(
            "two backward passes make a sample's gradient, so there are no updates inside them",
            where=f"{where} --train-batch 1",
            remedy="leave --train-batch out",
        )
    if learning.arithmetic == "int":
        raise UsageError(
            "the gradient between the parts travels as float32",
            where=f"{where} --train-arithmetic int",
            remedy="leave --train-arithmetic out",
        )


def _selection(
    graph: Graph, device: Graph, board: Board, cut: Cut, samples: Samples | None, options: Options, say: Progress
) -> tuple[dict[str, str], Training | None]:
    """What learns; and its table, where it was chosen or a budget was given."""
    if options.train not in CHOSEN and options.train_ram is None and options.train_macs is None:
        return parse_spec(device, options.train), None
    say("choosing what learns", 0, 1)
    selector, budget = _selector(device, board, cut, options)
    if options.train == "auto":
        assert samples is not None and samples.labels is not None
        training = selector.auto(_scores(graph, device, selector, samples, options), budget)
    else:
        if options.train == "random":
            chosen = selector.learned(selector.random(options.seed, budget))
        else:
            chosen = parse_spec(device, options.train)
            differentiate(device, chosen, options.learning)  # refuses what cannot learn
        training = selector.fixed(chosen, budget)
    return selector.learned(training.chosen), training


def _selector(device: Graph, board: Board, cut: Cut, options: Options) -> tuple[Selector, Budget]:
    standalone = cut.tensor is None
    program, packing = _fitted(device, board, options, {}, standalone)
    frozen = certificate(program, board, packing, standalone)
    scratch = _row_bytes(packing)

    def cost(learned: dict[str, str]) -> tuple[int, bool]:
        """Without packing anew what stays frozen."""
        slices = learned.slices if isinstance(learned, Selection) else {}
        left = {name: size for name, size in scratch.items() if name not in learned or name in slices}
        plan = differentiate(device, learned, options.learning)
        trained = schedule(device, plan, left, program.forward, strips=program.strips)
        size = trained.arena_bytes + trained.state_bytes + values_bytes(trained, standalone)
        return size - frozen.arena_bytes - frozen.state_bytes - frozen.values_bytes, True

    def exact(learned: dict[str, str]) -> tuple[int, bool]:
        program, packing = _fitted(device, board, options, learned, standalone)
        promise = certificate(program, board, packing, standalone)
        return promise.ram_bytes - frozen.ram_bytes, promise.flash_bytes <= board.memory.flash_bytes

    left = max(0, ram_limit(board, options.ram) - frozen.ram_bytes)
    given = left if options.train_ram is None else options.train_ram
    return Selector(device, cost, exact, options.learning), Budget(given, options.train_macs)


def _scores(graph: Graph, device: Graph, selector: Selector, samples: Samples, options: Options) -> dict[str, float]:
    """Scores of tensors and slices by the device's names; quantization may have given a shared constant another."""
    assert samples.labels is not None
    whole = {node.name: node for node in graph.nodes}
    roles = learnable(device)
    names = {}
    for name, node in selector.tensors.items():
        names[name] = whole[node].inputs[ROLES.index(roles[name][1]) + 1]
    scores = fisher_channels(
        graph,
        _input_arrays(graph, samples),
        samples.labels,
        {names[name]: selector.axis(name) for name in selector.tensors},
        seed=options.seed,
        where=str(options.calib),
    )
    return selector.slices({name: scores[other] for name, other in names.items()})


def _static_scales(
    graph: Graph,
    device: Graph,
    cut: Cut,
    learned: dict[str, str],
    samples: Samples | None,
    options: Options,
    say: Progress,
) -> dict[tuple[str, str, int], int] | None:
    """The exponents that gradients come to on calibration samples; None: they are found at each step."""
    if options.learning.scales == "dynamic" or not learned:
        return None
    assert samples is not None and samples.labels is not None
    plan = differentiate(device, learned, options.learning)
    chosen = np.unique(np.linspace(0, len(samples.labels) - 1, MOST_CALIBRATION).astype(np.int64))
    labels = samples.labels[chosen]
    arrays = {name: values[chosen] for name, values in _input_arrays(graph, samples).items()}
    say("finding the scales of gradients", 0, 1)
    told: list[Any] = [int(label) for label in labels]
    if options.learning.loss == "none":
        top = cut.tensor or graph.outputs[0]
        told = list(gradients_at(graph, top, arrays, labels, where=str(options.calib)))
    inputs = [_quantized(device, name, arrays[name]) for name in device.inputs]
    rows = (tuple(values[index : index + 1] for values in inputs) for index in range(len(chosen)))
    return gradient_exponents(device, plan, zip(rows, told, strict=True))


def _quantized(device: Graph, name: str, values: NDArray[Any]) -> NDArray[np.int8]:
    quant = device[name].quant
    assert quant is not None
    return quant.quantize(values)


def _plan(device: Graph, learned: dict[str, str], learning: Learning, scales: Scales | None) -> Plan | None:
    plan = differentiate(device, learned, learning) if learned else None
    return with_static_scales(plan, scales) if plan and scales is not None else plan


def _program(
    device: Graph,
    board: Board,
    mode: PackMode,
    learned: dict[str, str],
    learning: Learning,
    scales: Scales | None = None,
) -> tuple[Program, Packing]:
    plan = _plan(device, learned, learning, scales)
    program = schedule(device, plan)
    packing = pack(frozen_weights(program, board), mode, DecodeCost(**board.decode.model_dump()))
    scratch = _row_bytes(packing)
    return (schedule(device, plan, scratch) if scratch else program), packing


def _fitted(
    device: Graph,
    board: Board,
    options: Options,
    learned: dict[str, str],
    standalone: bool,
    *,
    scales: Scales | None = None,
    strict: bool = True,
    cuts: Sequence[Cut] = (),
) -> tuple[Program, Packing]:
    """The program, its first layers in strips where it is told, or where it would not fit otherwise; ``strict``: refuses where
    it is told, and does not help. Of several ``cuts`` the first one is behind all strips."""
    program, packing = _program(device, board, options.pack, learned, options.learning, scales)
    program.cuts = cut_parts(program, cuts)
    over = certificate(program, board, packing, standalone).ram_bytes - ram_limit(board, options.ram)
    if options.patches == "none" or (options.patches == "auto" and over <= 0):
        return program, packing
    scratch, plan = _row_bytes(packing), _plan(device, learned, options.learning, scales)

    def place(strips: Strips) -> Program:
        return schedule(device, plan, scratch, program.forward, strips=strips)

    if options.patches == "auto":
        made = fewest(program, program.arena_bytes - over, place, scratch)
    else:
        made = least(program, int(options.patches), place, scratch, strict=strict)
    if made.strips is None:
        return program, packing
    # Decoding is done in each strip, so fewer weights may be worth it.
    packing = pack(frozen_weights(made, board), options.pack, DecodeCost(**board.decode.model_dump()))
    result = schedule(device, plan, _row_bytes(packing), program.forward, strips=made.strips)
    result.cuts = cut_parts(result, cuts)
    return result, packing


def _row_bytes(packing: Packing) -> dict[str, int]:
    """What a row of each packed tensor takes where it is decoded."""
    return {name: packed.scratch_bytes for name, packed in packing.weights.items() if packed.code}


def _device_tflite(device: Graph, name: str, warnings: list[str]) -> bytes | None:
    try:
        return write_tflite(device, description=f"device segment of {name}, by tlc")
    except UnsupportedOperator as error:
        warnings.append(f"device.tflite is not written: {error}")
        return None


def _is_integer(graph: Graph) -> bool:
    kinds = {graph[name].dtype for name in graph.inputs}
    return kinds == {"int8"}


def _unit_ranges(graph: Graph) -> dict[str, tuple[float, float]]:
    return dict.fromkeys(graph.tensors, (-1.0, 1.0))


def _file_name(tensor: Tensor) -> str:
    return tensor.origin.name if tensor.origin else tensor.name


def _file_edge(tensor: Tensor) -> tuple[str, tuple[int, ...]]:
    return (tensor.origin.name, tensor.origin.shape) if tensor.origin else (tensor.name, tensor.shape)


def _edge(tensor: Tensor) -> EdgeTensor:
    if tensor.quant is None:
        raise ModelError("has no quantization", where=f"tensor '{tensor.name}'")
    name, shape = _file_edge(tensor)
    perm = tensor.origin.perm if tensor.origin else tuple(range(len(shape)))
    return EdgeTensor(
        name=tensor.name,
        file_name=name,
        shape=tensor.shape,
        file_shape=shape,
        perm=perm,
        scale=tensor.quant.s,
        zero_point=tensor.quant.zero_point,
    )


def _learned(program: Program) -> tuple[LearnedTensor, ...]:
    result = []
    for learned in program.learned:
        tensor = program.graph[learned.tensor]
        assert tensor.quant is not None
        result.append(
            LearnedTensor(
                name=learned.tensor,
                kind=learned.kind,
                node=learned.node,
                shape=rows_shape(program.graph, learned),
                dtype="int8" if learned.kind == "weight" else "int32",
                outs=learned.part.outs if learned.part else None,
                ins=learned.part.ins if learned.part else None,
                scale=tuple(float(scale) for scale in learned_scale(program.graph, learned)),
                offset=learned.offset,
                elements=learned.elements,
            )
        )
    return tuple(result)


def _strips_report(program: Program) -> dict[str, Any] | None:
    """Which first layers are computed in strips of rows, and what lies between them; None: none."""
    strips = program.strips
    if strips is None:
        return None
    whole = sum(step.macs for step in program.forward[: strips.steps])
    return {
        "layers": [node.name for node in strips.nodes],
        "strips": strips.count,
        # Fewer than whole, where the last rows of a layer are read by nobody.
        "recomputed_macs": max(0, sum(strips.macs(index) for index in range(strips.steps)) - whole),
        "kept_bytes": sum(strips.kept_bytes(name) for name in strips.held),
        "between": {
            name: {"bytes": strips.held_bytes(name), "whole": program.graph[name].bytes} for name in strips.held
        },
    }


def _report(compiled: Compiled, program: Program) -> dict[str, Any]:
    """What ``report.json`` holds beside the summary: layers and buffers."""
    graph = program.graph
    return {
        **compiled.to_json(),
        "layers": [
            {
                "node": step.node.name,
                "op": step.node.op,
                "output": list(graph[step.node.output].shape),
                "macs": step.macs,
                "instructions_estimate": round(layer_instructions(program, step, compiled.board)),
                "weights": sum(graph[n].elements for n in step.node.inputs[1:2])
                if REGISTRY[step.node.op].weight_axis(step.node) is not None
                else 0,
            }
            for step in program.forward
        ],
        "patches": _strips_report(program),
        "buffers": [
            {
                "name": buffer.name,
                "offset": program.offset(buffer.name),
                "bytes": buffer.bytes,
                "first": buffer.first,
                "last": buffer.last,
            }
            for buffer in program.buffers.values()
        ],
    }
