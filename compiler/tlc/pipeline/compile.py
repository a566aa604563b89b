# SPDX-License-Identifier: Apache-2.0
"""From a model file to a project, pass by pass."""

from __future__ import annotations

import hashlib
import json

from tlc import boards
from tlc.bundle import HOST_FILE, LEARNED_FILE, Bundle, Tail
from tlc.codegen.project import Settings, emit, initial_state, render_application, render_model, write_project
from tlc.cost import Estimate, certificate, estimate, link_message_bytes
from tlc.errors import UsageError
from tlc.frontends import read_model, write_host
from tlc.passes.canonicalize import canonicalize
from tlc.passes.cuts import several_cuts
from tlc.passes.split import Cut, cut_named, split, with_tail
from tlc.pipeline.checks import check_cuts, check_loss, check_training, with_arithmetic, with_own_loss
from tlc.pipeline.cuts import automatic_cut, host_files, keeping, named_cut
from tlc.pipeline.describe import cut_entries, device_tflite, learned_tensors, report
from tlc.pipeline.edges import edge_tensor, file_name
from tlc.pipeline.fit import fitted, require_fit
from tlc.pipeline.head import fit_aux_head
from tlc.pipeline.integers import read_samples, to_integers
from tlc.pipeline.options import Compiled, Options, Progress
from tlc.pipeline.training import choose_learned, static_scales


def compile_model(options: Options, progress: Progress | None = None) -> Compiled:
    """Compiles a model into a project directory, which appears whole or not at all."""
    say: Progress = progress or (lambda what, done, total: None)
    board = boards.load(options.board)
    transport = board.check_transport(options.transport)
    options = with_arithmetic(with_own_loss(options), board)
    check_training(options)
    check_cuts(options)
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
        cut = automatic_cut(graph, board, options, transport)
    else:
        kept = keeping(source, graph, options.tail) if options.tail is not None else None
        graph, cut = named_cut(kept or source, canonicalize(kept) if kept else graph, options.cut)
        if kept:
            graph.outputs.pop()
    if options.tail is not None:
        cut = with_tail(graph, cut, options.tail)
    check_loss(cut, options)
    device_float, host = split(graph, cut)
    host_bytes = write_host(options.model, graph, host, cut.tensor, options.shapes) if host and cut.tensor else None

    samples = read_samples(graph, options, warnings)
    device = to_integers(device_float, samples, options, say, warnings, host_bytes)
    if options.aux_head:
        device = fit_aux_head(device, device_float, graph, samples, options, say, warnings)
    say("packing", 0, 1)
    learned, training = choose_learned(graph, device, board, cut, samples, options, say)
    scales = static_scales(graph, device, cut, learned, samples, options, say)
    program, packing = fitted(device, board, options, learned, cut.file_name == "none", scales=scales, cuts=cuts)
    row = estimate(cut.file_name, program, board, packing, transport, options.ram)
    require_fit(row, board, options.ram)

    say("writing the project", 0, 1)
    emission = emit(program, packing)
    device_bytes = device_tflite(device, options.model.name, warnings)
    state = initial_state(emission)
    bundle = Bundle(
        name=options.model.stem,
        board=board.id,
        model_sha256=hashlib.sha256(options.model.read_bytes()).hexdigest(),
        cut=cut.file_name,
        seed=options.seed,
        inputs=tuple(edge_tensor(device[name]) for name in device.inputs if name != device.tail),
        outputs=tuple(edge_tensor(device[name]) for name in device.sent),
        tail=Tail(input=edge_tensor(device[device.tail]), output=edge_tensor(device[device.outputs[-1]]))
        if device.tail
        else None,
        model_inputs=tuple(file_name(graph[name]) for name in graph.inputs),
        model_outputs=tuple(file_name(graph[name]) for name in graph.outputs),
        aux=edge_tensor(device[device.aux]) if device.aux else None,
        learned=learned_tensors(program),
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
        hosts = host_files(graph, cuts, first, options)
        entries = cut_entries(program, cuts, hosts, bundle.layers, emission)
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
        "report.json": json.dumps(report(compiled, program), indent=2) + "\n",
    }
    files |= hosts
    if device_bytes:
        files["device.tflite"] = device_bytes
    if state:
        files[LEARNED_FILE] = state
    write_project(options.out, files)
    return compiled
