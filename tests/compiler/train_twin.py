# SPDX-License-Identifier: Apache-2.0
"""The generated C of an integer graph that learns, on this machine, and small graphs to learn on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc import boards
from tlc.builder import Builder
from tlc.bundle import Bundle, EdgeTensor, LearnedTensor
from tlc.codegen.project import Settings, emit, render_model, write_project
from tlc.cost import certificate, frozen_weights, link_message_bytes
from tlc.graph import Graph
from tlc.learning import Learning
from tlc.ops import REGISTRY
from tlc.ops.base import Activation
from tlc.passes.backward import Plan, differentiate
from tlc.passes.calibrate import calibrate
from tlc.passes.pack import PackMode, pack
from tlc.passes.quantize import quantize
from tlc.passes.schedule import schedule
from tlc.passes.static_scales import with_static_scales
from tlc.program import rows_shape
from tlc.twin import TwinLibrary


def build_twin(
    graph: Graph,
    learned: dict[str, str],
    directory: Path,
    mode: PackMode = "none",
    learning: Learning | None = None,
    scales: Mapping[tuple[str, str, int], int] | None = None,
) -> tuple[TwinLibrary, Plan]:
    """Compiles the graph under UBSan, as ``tlc compile`` would."""
    board = boards.load("native")
    plan = differentiate(graph, learned, learning)
    if scales is not None:
        plan = with_static_scales(plan, scales)
    packing = pack(frozen_weights(schedule(graph, plan), board), mode)
    scratch = {name: packed.scratch_bytes for name, packed in packing.weights.items() if packed.code}
    program = schedule(graph, plan, scratch)
    emission = emit(program, packing)
    promise = certificate(program, board, packing, standalone=True)
    assert emission.constant_bytes <= promise.packed_bytes + promise.table_bytes
    bundle = Bundle(
        name=graph.name,
        board=board.id,
        model_sha256="0" * 64,
        cut="none",
        seed=0,
        inputs=tuple(_edge(graph, name) for name in graph.inputs),
        outputs=tuple(_edge(graph, name) for name in graph.outputs),
        model_inputs=tuple(graph.inputs),
        model_outputs=tuple(graph.outputs),
        learned=tuple(
            LearnedTensor(
                name=entry.tensor,
                kind=entry.kind,
                node=entry.node,
                shape=rows_shape(graph, entry),
                dtype="int8" if entry.kind == "weight" else "int32",
                scale=tuple(float(scale) for scale in graph[entry.tensor].quant.scale),
                offset=entry.offset,
                elements=entry.elements,
            )
            for entry in program.learned
        ),
        learning=plan.learning,
        layers=tuple(call.comment for call in emission.forward),
        message_bytes=link_message_bytes(graph),
        macs=program.macs,
        certificate=promise,
        weights_sha256=emission.weights_sha256,
        host_sha256=None,
        device_sha256=None,
    ).sealed()
    settings = Settings(graph.name, "none", "0" * 64, board, "none", mode, "some", 0, board.check_transport(None))
    write_project(directory, {**render_model(emission, bundle, settings), "bundle.json": bundle.to_json()})
    return TwinLibrary(directory, sanitize=True), plan


def _edge(graph: Graph, name: str) -> EdgeTensor:
    tensor = graph[name]
    assert tensor.quant is not None
    return EdgeTensor(
        name=name,
        file_name=name,
        shape=tensor.shape,
        file_shape=tensor.shape,
        perm=tuple(range(len(tensor.shape))),
        scale=tensor.quant.s,
        zero_point=tensor.quant.zero_point,
    )


def layers(graph: Graph, *kinds: str) -> dict[str, str]:
    """Every weight and bias of the graph; with ``kinds``, only "weight"s or "bias"es."""
    return {
        name: node.name
        for node in graph.nodes
        if REGISTRY[node.op].weight_axis(node) is not None
        for index, name in enumerate(node.inputs[1:3])
        if not kinds or ("weight", "bias")[index] in kinds
    }


def integer(net: Builder | Graph, samples: NDArray[np.float32]) -> Graph:
    """The int8 graph of a net, calibrated on samples."""
    graph = net.graph() if isinstance(net, Builder) else net
    return quantize(graph, calibrate(graph, {graph.inputs[0]: samples}))


def smooth(shape: tuple[int, ...], count: int, seed: int) -> NDArray[np.float32]:
    """Random images without sharp edges: (count, *shape)."""
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((count, *shape)).astype(np.float32)
    for axis in (1, 2):
        images = (images + np.roll(images, 1, axis) + np.roll(images, -1, axis)) / 2
    return images


def constant(net: Builder, name: str, shape: tuple[int, ...], low: float, high: float, seed: int = 3) -> str:
    """A random constant operand."""
    values = np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)
    return net._graph.constant(name, values).name


def attrs(op: str, **values: Any) -> Any:
    return REGISTRY[op].Attrs(**values)


RELU = Activation.RELU
