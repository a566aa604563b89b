# SPDX-License-Identifier: Apache-2.0
"""Biases as the kernels read them, with the input's zero point folded in, where weights or biases learn: b - zp * sum(w) is
made on the device, from weights that learn, or from what the frozen ones give."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tlc.ops.base import Bias
from tlc.program import Step, rows_of

if TYPE_CHECKING:
    from tlc.codegen.expressions import Emitter

__all__ = ["fold_lines"]


def fold_lines(emitter: Emitter, step: Step, place: str) -> list[str]:
    """The lines that fold the biases of a layer's step, where something of it learns, to an address of bytes."""
    program = emitter.program
    parts = {learned.tensor: learned for learned in program.learned if learned.part}
    sliced = [parts[name] for name in step.node.inputs[1:] if name in parts]
    return _fold_slices(emitter, step, place) if sliced else [_fold_line(emitter, step, place)]


def _fold_slices(emitter: Emitter, step: Step, place: str) -> list[str]:
    """The same where of a tensor only a slice learns: what is frozen, and then what each learned tensor adds."""
    program, graph, node = emitter.program, emitter.program.graph, step.node
    quant = graph[node.inputs[0]].quant
    assert quant is not None and step.call is not None
    whole = next(arg.values for arg in step.call.args if isinstance(arg, Bias))
    frozen = whole.astype(np.int64)
    lines = []
    for learned in (entry for entry in program.learned if entry.tensor in node.inputs[1:]):
        values = rows_of(graph, learned).astype(np.int64)
        first = learned.part.outs[0] if learned.part else 0
        to, rows = f"(int32_t *)({place} + {4 * first})", len(values)
        if learned.kind == "weight":
            size, weights = values.size // rows, f"(const int8_t *)(state + {learned.offset})"
            frozen[first : first + rows] += quant.zero_point * values.reshape(rows, -1).sum(axis=1)
            lines.append(f"tlc_fold_slice({weights}, {rows}, {size}, {quant.zero_point}, {to});")
        else:
            frozen[first : first + rows] -= values
            lines.append(f"tlc_add_bias({to}, {rows}, (const int32_t *)(state + {learned.offset}), {to});")
    part = frozen.astype(np.uint32).view(np.int32)  # modulo 2^32
    table = emitter.add_array(f"{step.name}_fold", part, f"what is frozen of the biases of {node.name}")
    return [f"memcpy({place}, {table}, sizeof {table});", *lines]


def _fold_line(emitter: Emitter, step: Step, place: str) -> str:
    program, graph, node = emitter.program, emitter.program.graph, step.node
    offsets = {learned.tensor: learned.offset for learned in program.learned}
    quant = graph[node.inputs[0]].quant
    assert quant is not None and step.call is not None
    name = node.inputs[2] if len(node.inputs) > 2 else None
    if name in offsets:
        bias = f"(const int32_t *)(state + {offsets[name]})"
    else:
        bias = emitter.add_array(f"{step.name}_true_bias", graph.data(name), f"{name}") if name else "NULL"
    folded = f"(int32_t *)({place})"
    if node.inputs[1] in offsets:
        rows, row_bytes = emitter.learned_rows[node.inputs[1]].shape
        weights = f"(const int8_t *)(state + {offsets[node.inputs[1]]})"
        return f"tlc_fold_bias({weights}, {rows}, {row_bytes}, {bias}, {quant.zero_point}, {folded});"
    assert name is not None
    whole = next(arg.values for arg in step.call.args if isinstance(arg, Bias))
    part = (whole.view(np.uint32) - graph.data(name).astype(np.int32).view(np.uint32)).view(np.int32)
    table = emitter.add_array(f"{step.name}_fold", part, f"what the input's zero point adds to {name}")
    return f"tlc_add_bias({table}, {len(part)}, {bias}, {folded});"
