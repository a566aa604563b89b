# SPDX-License-Identifier: Apache-2.0
"""The C of the first layers where they are computed a strip of rows at a time: their calls in a loop, and a table that says for
each strip and layer which rows it reads, which it writes, and which are kept for the next strip."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tlc.ops.base import Address
from tlc.passes.schedule import kept_name
from tlc.strips import Strips

if TYPE_CHECKING:
    from tlc.codegen.expressions import CCall, Emitter
    from tlc.program import Step

__all__ = ["COLUMNS", "StripTable", "strip_call", "strip_table"]

COLUMNS = ("kind", "x", "x2", "y", "keep_from", "keep")


@dataclass(frozen=True)
class StripTable:
    """What the template prints."""

    c_type: str
    rows: tuple[tuple[tuple[int, ...], ...], ...]
    """By strip and layer, :data:`COLUMNS`."""


def strip_table(strips: Strips) -> StripTable:
    """The table of all strips and layers."""
    which = [strips.kinds(index)[1] for index in range(strips.steps)]
    rows = []
    for number in range(strips.count):
        row = []
        for index, part in enumerate(strips.parts[number]):
            node = strips.graph.nodes[index]
            reads = [strips.place(name, number, part.reads.first) for name in _operands(strips, index)]
            keep = (
                strips.kept(node.output, number + 1) if node.output in strips.held and number + 1 < strips.count else 0
            )
            first = strips.held[node.output][number + 1][0] if keep else 0
            keep_from = strips.place(node.output, number, first) if keep else 0
            written = strips.place(node.output, number, part.new[0])
            row.append((which[index][number], *[*reads, 0][:2], written, keep_from, keep))
        rows.append(tuple(row))
    most = max(value for row in rows for values in row for value in values)
    return StripTable("uint8_t" if most < 256 else "uint16_t", tuple(rows))


def strip_call(emitter: Emitter, step: Step, comment: str, index: int) -> CCall:
    """The call of a layer as it stands in the loop; ``at`` points to its row of the table."""
    strips = emitter.program.strips
    assert strips is not None
    calls, _ = strips.kinds(index)
    call = strips.call(index)
    rows = {
        name: f" + at->{('x', 'x2')[i]} * {strips.row_bytes(name)}" for i, name in enumerate(_operands(strips, index))
    }
    rows[step.node.output] = f" + at->y * {strips.row_bytes(step.node.output)}"
    out = emitter.call(replace(step, call=call), comment, index, rows)
    out.kinds = [emitter.fields(step, kind) for kind in calls]
    if len(calls) > 1:
        out.text = out.text.replace(f"(&{step.name},", f"(&{step.name}[at->kind],", 1)
    tensor = step.node.output
    if tensor in strips.held and strips.kept_bytes(tensor):
        buffer, kept = emitter.program.offset(tensor), emitter.program.offset(kept_name(tensor))
        out.after = f"join_rows(at, a + {buffer}, a + {kept}, {strips.row_bytes(tensor)});"
    return out


def _operands(strips: Strips, index: int) -> list[str]:
    """The activations that a layer reads, each once."""
    args = strips.calls[index][0].args
    names = [arg.tensor for arg in args if isinstance(arg, Address) and not arg.is_output]
    return [name for name in dict.fromkeys(names) if not strips.graph[name].is_constant]
