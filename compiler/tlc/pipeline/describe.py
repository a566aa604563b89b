# SPDX-License-Identifier: Apache-2.0
"""What ``bundle.json`` and ``report.json`` say of a program."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from tlc.bundle import CutEntry, LearnedTensor
from tlc.codegen.project import Emission
from tlc.cost import layer_instructions
from tlc.errors import UnsupportedOperator
from tlc.frontends.tflite_writer import write_tflite
from tlc.graph import Graph
from tlc.ops import REGISTRY
from tlc.passes.split import Cut
from tlc.pipeline.edges import edge_tensor
from tlc.pipeline.options import Compiled
from tlc.program import Program, learned_scale, rows_shape


def cut_entries(
    program: Program, cuts: Sequence[Cut], hosts: Mapping[str, bytes], layers: Sequence[str], emission: Emission
) -> tuple[CutEntry, ...]:
    """What the bundle says of each of several cuts."""
    return tuple(
        CutEntry(
            name=cut.file_name,
            output=edge_tensor(program.graph[part.tensor]),
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


def device_tflite(device: Graph, name: str, warnings: list[str]) -> bytes | None:
    """The device segment as a .tflite file; None, with a warning, where that format has no such operator."""
    try:
        return write_tflite(device, description=f"device segment of {name}, by tlc")
    except UnsupportedOperator as error:
        warnings.append(f"device.tflite is not written: {error}")
        return None


def learned_tensors(program: Program) -> tuple[LearnedTensor, ...]:
    """What learns, as the bundle lists it."""
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


def report(compiled: Compiled, program: Program) -> dict[str, Any]:
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
