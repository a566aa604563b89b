# SPDX-License-Identifier: Apache-2.0
"""What a device segment costs on a board, before anything is built: bytes exactly, instructions by the board's table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tlc.boards import Board, Transport
from tlc.bundle import Certificate
from tlc.graph import Graph, Node
from tlc.ops import REGISTRY
from tlc.ops.base import Bias, Call, Rows, Table
from tlc.passes.pack import FrozenWeights, Packing
from tlc.program import CutPart, Program, Step, align

__all__ = [
    "Estimate",
    "certificate",
    "estimate",
    "frozen_weights",
    "instructions",
    "link_message_bytes",
    "ram_limit",
    "weight_bytes",
]

LINK_OVERHEAD = 48
"""Header, checksum, framing and message head that go with one tensor, bytes; PROTOCOL.md has the exact count."""


DEVICE_BYTES = {4: 1344, 8: 1536}
"""``sizeof(tlc_device_t)`` by the size of a pointer, rounded up to 64 bytes; the generated main.c does not compile where
it is more."""

LINK_SLOT = 20
LINK_HEADER = 28
LINK_CHECKSUM = 4
"""``sizeof(tlc_link_slot_t)`` and a frame's overhead: firmware/include/tlc/link.h."""

JOURNAL_OVERHEAD = 96
JOURNAL_UNIT = 32
"""firmware/include/tlc/journal.h."""
JOURNAL_SECTOR = 4096
"""Where the board has no journal, but its ``native`` device has: a file."""

WIDE_CODE = 20
"""What a ``tlc_huffman_t`` takes more where pointers have 8 bytes."""

CALL_CODE = 96
CALL_CONSTANTS = 16
MODEL_CODE = 512
STRIP_BYTES = 12
"""Budget: instructions and fixed constants of one generated call, and of what a model has once."""

CUT_CODE = 384
"""The same of one of several cuts: a ``tlc_model_t``, its tensors, and where the passes end."""


@dataclass(frozen=True)
class Estimate:
    """One row of ``tlc plan``."""

    cut: str
    macs: int
    instructions: int
    flash_bytes: int
    ram_bytes: int
    link_bytes: int
    """Sent up per inference."""
    seconds: float
    """Device computing plus the link, one inference."""
    over_flash: int
    over_ram: int
    pareto: bool = False
    strips: int = 0
    """In how many strips the first layers are computed; 0: whole."""

    @property
    def fits(self) -> bool:
        """Whether flash and RAM suffice."""
        return self.over_flash <= 0 and self.over_ram <= 0

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "fits": self.fits}


def weight_bytes(graph: Graph) -> int:
    """Weights and biases of an integer graph as the model has them."""
    names = {
        name for node in graph.nodes if REGISTRY[node.op].weight_axis(node) is not None for name in node.inputs[1:]
    }
    return sum(graph[name].bytes for name in names)


def instructions(program: Program, board: Board, packing: Packing, steps: Sequence[Step] | None = None) -> int:
    """Instructions of one forward pass, or of these steps of it, by the board's cost table."""
    steps = program.forward if steps is None else steps
    layers = sum(layer_instructions(program, step, board) for step in steps)
    read = {arg.tensor for step in steps if step.call for arg in step.call.args if isinstance(arg, Rows)}
    return round(layers + sum(packed.instructions for name, packed in packing.weights.items() if name in read))


def frozen_weights(program: Program, board: Board) -> dict[str, FrozenWeights]:
    """The weight tensors that never learn, with what their layers cost on a board."""
    learned = {entry.tensor for entry in program.learned if entry.part is None}
    found: dict[str, FrozenWeights] = {}
    for step in program.forward:
        for arg in step.call.args if step.call else ():
            if isinstance(arg, Rows) and arg.tensor not in learned:
                cost = layer_instructions(program, step, board)
                known = found.get(arg.tensor)
                times = program.strips.count if program.strips and _strip_index(program, step) is not None else 1
                found[arg.tensor] = FrozenWeights(
                    arg.values, cost + (known.instructions if known else 0.0), times + (known.uses if known else 0)
                )
    return found


def layer_instructions(program: Program, step: Step, board: Board) -> float:
    """Instructions of one layer, by the board's cost table, without decoding weights."""
    if step.call is None:
        return 0.0
    index, strips = _strip_index(program, step), program.strips
    if index is None or strips is None:
        return _instructions(program.graph, step.node, board)
    return sum(_instructions(*strips.single(strip, index), board) for strip in range(strips.count))


def _instructions(graph: Graph, node: Node, board: Board) -> float:
    elements, runs = REGISTRY[node.op].work(graph, node)
    return board.instructions(node.op, elements, graph[node.output].elements, runs)


def _strip_index(program: Program, step: Step) -> int | None:
    """The number of a step that is computed a strip at a time; None: it is not."""
    names = [other.name for other in program.forward[: program.in_strips]]
    return names.index(step.name) if step.name in names else None


def link_message_bytes(graph: Graph) -> int:
    """The largest tensor that crosses the link: an input, the outputs together, or their float32 gradient."""
    outputs = sum(graph[name].elements for name in graph.sent)
    inputs = sum(graph[name].elements for name in graph.inputs if name != graph.tail)
    return max(inputs, 4 * outputs, graph[graph.tail].elements if graph.tail else 0)


def link_ram_bytes(program: Program, board: Board) -> int:
    """``tlc_device_t``, the link's windows and buffers, and a counter a layer: what the generated main.c has."""
    link = board.link
    received = align(LINK_HEADER + link.fragment + LINK_CHECKSUM, 4)
    plain = LINK_HEADER + link.fragment + LINK_CHECKSUM
    sent = plain + plain // 254 + 2 + 8  # COBS, and both delimiters with room for the checksum
    layers = sum(step.call is not None for step in program.forward)
    return DEVICE_BYTES[_pointer_bytes(board)] + align(link.window * LINK_SLOT + received + sent, 4) + 4 * layers


def _pointer_bytes(board: Board) -> int:
    return 8 if board.cpu.isa == "host" else 4


def values_bytes(program: Program, standalone: bool) -> int:
    """Floats of a whole model's result for the application's hook; 0 where the arena has room for them, or the host has
    the result. A model with a loss still needs its arena when the result is told."""
    if program.graph.aux:  # of its head: the cut's result is the host's
        size = 4 * program.graph[program.graph.aux].elements
        return size if size > program.arena_bytes else 0
    size = 4 * program.graph[program.result].elements
    if program.tail:  # it learns only from samples whose result is not told
        return size if size > program.arena_bytes else 0
    return size if standalone and (size > program.arena_bytes or program.loss) else 0


def journal_slot_bytes(program: Program, board: Board) -> int:
    """One slot of the journal of learned tensors: what they and the optimizer's memory can take at most, in whole sectors; 0
    where nothing learns."""
    if not program.learned:
        return 0
    coded = sum(1 + entry.elements * (1 if entry.kind == "weight" else 4) for entry in program.learned)
    coded += program.memory_bytes
    return align(JOURNAL_OVERHEAD + align(coded, JOURNAL_UNIT), board.memory.journal_sector_bytes or JOURNAL_SECTOR)


def model_code_bytes(program: Program) -> int:
    """A budget for the generated tlc_model.c: calls, what they are told, names."""
    steps = [(step, step.call) for step in [*program.forward, *program.backward] if step.call is not None]
    calls = sum(4 * len(call.fields) + CALL_CODE + CALL_CONSTANTS for call in _calls(program))
    names = sum(len(step.node.op) + len(step.node.name) + 8 for step, _ in steps)
    edges = sum(len(name) + 48 for name in [*program.graph.inputs, *program.graph.outputs])
    learned = sum(len(tensor.tensor) + 3 * CALL_CODE for tensor in program.learned)
    cuts = sum(len(cut.tensor) + CUT_CODE for cut in program.cuts)
    return align(MODEL_CODE + calls + names + edges + learned + cuts + _strips_code_bytes(program), 4)


def _strips_code_bytes(program: Program) -> int:
    """What is told of each strip, and of the kinds of strips; and joining a strip's rows to those kept."""
    strips = program.strips
    if strips is None:
        return 0
    kinds = [call for index in range(strips.steps) for call in strips.kinds(index)[0][1:]]
    fields = sum(4 * len(call.fields) + CALL_CONSTANTS for call in kinds)
    return fields + STRIP_BYTES * strips.count * strips.steps + CALL_CODE * (2 + strips.steps)


def certificate(program: Program, board: Board, packing: Packing, standalone: bool) -> Certificate:
    """Every byte of the device segment: proven, or a budget that ``tlc size`` checks on the ELF."""
    graph = program.graph
    raw = weight_bytes(graph)
    stored = _stored_bytes(program, packing)
    if _pointer_bytes(board) == 8:
        stored += WIDE_CODE * len(packing.codes)
    tables = _table_bytes(program)
    arena, state = program.arena_bytes, program.state_bytes
    link = link_ram_bytes(program, board)
    values = values_bytes(program, standalone)
    code, sdk = board.memory.code_flash_bytes + model_code_bytes(program), board.memory.sdk_flash_bytes
    journal = 2 * journal_slot_bytes(program, board) if board.memory.journal_sector_bytes else 0
    copied = stored + tables if board.memory.constants_in_ram else 0
    return Certificate(
        weight_bytes=raw,
        packed_bytes=stored,
        table_bytes=tables,
        code_budget=code,
        sdk_flash_budget=sdk,
        journal_bytes=journal,
        flash_bytes=stored + tables + code + sdk + (0 if board.memory.journal_apart else journal),
        arena_bytes=arena,
        state_bytes=state,
        values_bytes=values,
        link_bytes=link,
        stack_bytes=board.memory.stack_bytes,
        sdk_ram_budget=board.memory.sdk_ram_bytes,
        ram_bytes=arena + state + values + link + copied + board.memory.stack_bytes + board.memory.sdk_ram_bytes,
    )


def ram_limit(board: Board, ram: int | None) -> int:
    """What a device segment may take: what the board has, or less where that is told."""
    return board.memory.ram_bytes if ram is None else min(ram, board.memory.ram_bytes)


def estimate(
    cut: str,
    program: Program,
    board: Board,
    packing: Packing,
    transport: Transport,
    ram: int | None = None,
    part: CutPart | None = None,
) -> Estimate:
    """One cut on one board.

    Args:
        ram: the most that it may take, as :func:`ram_limit` has it.
        part: of several cuts of the program this one; flash and RAM are those of all.
    """
    promise = certificate(program, board, packing, cut == "none")
    graph = program.graph
    ends = [part.tensor] if part else graph.sent
    sent = sum(graph[name].elements for name in ends) + LINK_OVERHEAD
    steps = program.forward[: part.forward] if part else program.forward
    work = instructions(program, board, packing, steps)
    seconds = work / board.cpu.clock_hz + sent / board.link.bytes_per_second(transport)
    return Estimate(
        cut=cut,
        macs=sum(step.macs for step in steps),
        instructions=work,
        flash_bytes=promise.flash_bytes,
        ram_bytes=promise.ram_bytes,
        link_bytes=sent,
        seconds=seconds,
        over_flash=promise.flash_bytes - board.memory.flash_bytes,
        over_ram=promise.ram_bytes - ram_limit(board, ram),
        strips=program.strips.count if program.strips else 0,
    )


def _calls(program: Program) -> list[Call]:
    calls = [step.call for step in [*program.forward, *program.backward] if step.call is not None]
    return calls + [call for step in program.forward for call in step.keeping]


def _stored_bytes(program: Program, packing: Packing) -> int:
    """Weights and biases as they lie in flash; a learned tensor's first values are there too."""
    sizes: dict[str, int] = {}
    for call in _calls(program):
        for arg in call.args:
            if isinstance(arg, Rows):
                packed = packing.weights.get(arg.tensor)
                sizes[arg.tensor] = packed.flash_bytes if packed else arg.values.size
            elif isinstance(arg, Bias):
                sizes[arg.tensor or f"bias {id(arg)}"] = 4 * arg.values.size
    slices = sum(entry.elements for entry in program.learned if entry.part and entry.kind == "weight")
    return sum(sizes.values()) + slices + packing.table_bytes


def _table_bytes(program: Program) -> int:
    """Requantization tables, constant operands, and one over the scales of what learns."""
    graph, size = program.graph, 0
    for learned in program.learned:
        quant = graph[learned.tensor].quant
        size += 4 * quant.scale.size if quant else 0
    nodes = {node.name: node for node in graph.nodes}
    whole = {learned.tensor for learned in program.learned if learned.part is None}
    for name in program.folded:  # where only the bias learns: what the frozen weights fold into it
        if nodes[name].inputs[1] not in whole:
            size += 4 * graph[nodes[name].output].shape[-1]
    for call in _calls(program):
        tables = [value for value in [*call.fields.values(), *call.args] if isinstance(value, Table)]
        size += sum(align(table.values.nbytes, 4) for table in tables)
    for index in range(program.in_strips):  # those of the first kind are counted already
        assert program.strips is not None
        kinds = program.strips.kinds(index)[0]
        values = [(v.suffix, v.values.tobytes()) for c in kinds for v in c.fields.values() if isinstance(v, Table)]
        size += sum(align(len(table), 4) for _, table in {*values} - {*values[: len(values) // len(kinds)]})
    operands = {
        name
        for node in graph.nodes
        if REGISTRY[node.op].weight_axis(node) is None
        for name in node.inputs
        if graph[name].is_constant
    }
    return size + sum(graph[name].bytes for name in operands)
