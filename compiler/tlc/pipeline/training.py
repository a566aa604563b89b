# SPDX-License-Identifier: Apache-2.0
"""What learns, and by which scales."""

from __future__ import annotations

from typing import Any

import numpy as np

from tlc.boards import Board
from tlc.cost import certificate, ram_limit, values_bytes
from tlc.data import Samples
from tlc.graph import Graph
from tlc.learn.cut_gradient import gradients_at
from tlc.learn.sensitivity import fisher_channels
from tlc.passes.backward import Selection, differentiate
from tlc.passes.schedule import schedule
from tlc.passes.select import ROLES, learnable, parse_spec
from tlc.passes.select_auto import Budget, Selector, Training
from tlc.passes.split import Cut
from tlc.pipeline.edges import input_arrays, quantized
from tlc.pipeline.fit import fitted, row_bytes
from tlc.pipeline.options import CHOSEN, Options, Progress
from tlc.reference_train_int import gradient_exponents

MOST_CALIBRATION = 32
"""Samples on which static scales of gradients are found."""


def choose_learned(
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
    program, packing = fitted(device, board, options, {}, standalone)
    frozen = certificate(program, board, packing, standalone)
    scratch = row_bytes(packing)

    def cost(learned: dict[str, str]) -> tuple[int, bool]:
        """Without packing anew what stays frozen."""
        slices = learned.slices if isinstance(learned, Selection) else {}
        left = {name: size for name, size in scratch.items() if name not in learned or name in slices}
        plan = differentiate(device, learned, options.learning)
        trained = schedule(device, plan, left, program.forward, strips=program.strips)
        size = trained.arena_bytes + trained.state_bytes + values_bytes(trained, standalone)
        return size - frozen.arena_bytes - frozen.state_bytes - frozen.values_bytes, True

    def exact(learned: dict[str, str]) -> tuple[int, bool]:
        program, packing = fitted(device, board, options, learned, standalone)
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
        input_arrays(graph, samples),
        samples.labels,
        {names[name]: selector.axis(name) for name in selector.tensors},
        seed=options.seed,
        where=str(options.calib),
    )
    return selector.slices({name: scores[other] for name, other in names.items()})


def static_scales(
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
    arrays = {name: values[chosen] for name, values in input_arrays(graph, samples).items()}
    say("finding the scales of gradients", 0, 1)
    told: list[Any] = [int(label) for label in labels]
    if options.learning.loss == "none":
        top = cut.tensor or graph.outputs[0]
        told = list(gradients_at(graph, top, arrays, labels, where=str(options.calib)))
    inputs = [quantized(device, name, arrays[name]) for name in device.inputs]
    rows = (tuple(values[index : index + 1] for values in inputs) for index in range(len(chosen)))
    return gradient_exponents(device, plan, zip(rows, told, strict=True))
