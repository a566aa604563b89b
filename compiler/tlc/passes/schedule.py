# SPDX-License-Identifier: Apache-2.0
"""The integer graph → C calls in order, with the life of every buffer, placed in one arena.

Step numbers run through the forward pass and then the backward pass, so a value that the backward pass reads stays
alive between them, and everything else dies where it is read last.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from tlc.graph import Graph, Node
from tlc.ops import REGISTRY
from tlc.ops.base import Accumulator, Address, Bias, Call, Grad, Kept, Rows, Scratch
from tlc.passes.backward import Plan
from tlc.passes.keep import keep_little
from tlc.passes.memory import place
from tlc.program import Buffer, Learned, Program, Step, TailPart, align
from tlc.strips import Strips

__all__ = [
    "add_strips",
    "gradient_name",
    "kept_name",
    "layer_objection",
    "objection",
    "schedule",
    "scratch_name",
    "sum_name",
]


IN_PLACE = ("_plane_grad_f32", "_in_place_grad_s16", "_in_place_static_grad_s16")
"""How the functions are called whose gradient may lie over the one that they read."""


def gradient_name(tensor: str, part: bool = False) -> str:
    """The buffer of an activation's gradient, or of a part that is added to it."""
    return f"part of d({tensor})" if part else f"d({tensor})"


def sum_name(tensor: str) -> str:
    """The buffer of a learned tensor's gradient, where updates are interleaved."""
    return f"sum({tensor})"


def kept_name(tensor: str) -> str:
    """The buffer of what is kept of an activation from one strip to the next."""
    return f"kept rows of {tensor}"


def scratch_name(step: str) -> str:
    """The buffer of a step's scratch."""
    return f"scratch({step})"


def schedule(
    graph: Graph,
    plan: Plan | None = None,
    packed: Mapping[str, int] | None = None,
    steps: Sequence[Step] | None = None,
    *,
    thrifty: bool = True,
    strips: Strips | None = None,
) -> Program:
    """A program for an integer graph.

    Args:
        graph: integer, device side only.
        plan: what learns, and the backward pass; None: nothing learns.
        packed: per entropy-packed weight tensor, the bytes of a row (the decoder's scratch).
        steps: the forward pass of another program of this graph, whatever learned there: saves making it anew.
        thrifty: masks and channels are kept instead of activations; False to see what that saves.
        strips: how the first steps are computed; left out where :func:`objection` has something against it.
    """
    forward = list(steps) if steps else [_step(graph, node, index) for index, node in enumerate(graph.nodes)]
    backward = []
    if plan:
        there = {graph.outputs[-1], plan.tail.top} if plan.tail else {*graph.outputs, plan.top, plan.aux_top}
        calls, keeping = keep_little(graph, plan.calls, there) if thrifty else (list(plan.calls), {})
        forward = [replace(step, keeping=tuple(keeping.get(step.node.output, ()))) for step in forward]
        for index, (of, call) in enumerate(calls):
            backward.append(Step(f"g{index:02}_{_identifier(call.function)}", of, call, 0))
    program = Program(graph, forward, backward)
    if graph.tail:
        last = {node.name for node in graph.segments()[1].nodes}
        program.tail = TailPart(
            graph.tail,
            graph.outputs[-1],
            next(index for index, step in enumerate(forward) if step.node.name in last),
            *((len(plan.tail.calls), plan.tail.top) if plan and plan.tail else ()),
        )
    if plan:
        program.learning, program.top, program.aux_top = plan.learning, plan.top, plan.aux_top
        if plan.loss:
            node = graph.producer(program.loss_top)
            assert node is not None
            program.loss = Step("loss_head", node, plan.loss, 0)
    _lay_out_state(program, plan)
    scratch = dict(packed or {})
    if plan:
        for name in plan.slices:  # where they are not packed, a row is put together there all the same
            scratch.setdefault(name, _row_elements(graph, name, plan.learned[name]))
    if strips and not objection(program, strips.steps):
        program.strips = strips
    _find_lives(program, scratch, plan.aliases if plan else {})
    program.arena_bytes = place(program.buffers.values())
    return program


def objection(program: Program, steps: int) -> str:
    """What is against computing the first steps a strip at a time; empty where nothing is."""
    graph = program.graph
    nodes, rest = graph.nodes[:steps], graph.nodes[steps:]
    between = {node.output for node in nodes[:-1]}
    for number, step in enumerate(program.forward[:steps]):
        wrong = layer_objection(program, number)
        if wrong:
            return wrong
        if step.keeping and step.node.output in between:
            return f"the backward pass reads '{step.node.output}'"
    if program.tail and steps > program.tail.forward:
        return "they reach into the second part"
    for node in rest:
        for name in between & set(node.inputs):
            return f"{node.op} '{node.name}' reads '{name}'"
    for step in program.backward:
        for arg in step.call.args if step.call else ():
            if isinstance(arg, Address) and arg.tensor in between:
                return f"the backward pass reads '{arg.tensor}'"
    kept = sorted(between & {*graph.outputs, program.top, program.loss_top})
    return f"'{kept[0]}' is an output" if kept else ""


def layer_objection(program: Program, number: int) -> str:
    """What is against computing a layer by rows; empty where nothing is."""
    graph, step = program.graph, program.forward[number]
    node = step.node
    if program.folded.get(node.name, 0) is None:
        return f"{node.op} '{node.name}' learns"
    by_rows = step.call is not None and len(graph[node.output].shape) == 4
    if not by_rows or all(REGISTRY[node.op].reads(graph, node, row, row + 1) is None for row in (0, 1)):
        return f"{node.op} '{node.name}' is not computed by rows"
    return ""


def _step(graph: Graph, node: Node, index: int) -> Step:
    operator = REGISTRY[node.op]
    return Step(f"l{index:02}_{_identifier(node.op)}", node, operator.call(graph, node), operator.macs(graph, node))


def _identifier(text: str) -> str:
    return re.sub(r"^tlc_|_(s8|s16|f32)$", "", re.sub(r"[^0-9a-zA-Z]+", "_", text))


def _lay_out_state(program: Program, plan: Plan | None) -> None:
    """State = learned tensors (what the host may read and write), then folded biases and accumulators (where gradients are
    summed over samples), and last the optimizer's own memory: velocities, residuals."""
    if plan is None:
        return
    graph = program.graph
    names = list(plan.learned)
    offset = 0
    offsets: dict[str, int] = {}
    counts = {name: _elements(graph, plan, name) for name in names}
    for name in names:
        offsets[name] = offset
        offset = align(offset + counts[name] * (1 if graph[name].dtype == "int8" else 4), 4)
    program.param_bytes = offset
    for node in graph.nodes:
        if any(name in offsets for name in node.inputs[1:]):
            program.folded[node.name] = None if plan.learning.interleaved else offset
            offset += 0 if plan.learning.interleaved else 4 * graph[node.output].shape[-1]
    parts: dict[str, dict[str, int]] = {name: {} for name in names}
    if not plan.learning.interleaved:
        for name in names:
            parts[name]["accumulator"] = offset
            offset += plan.learning.gradient_bytes(counts[name])
    program.memory_offset = offset
    if plan.learning.momentum:
        for name in names:
            parts[name]["velocity"] = offset
            offset = align(offset + counts[name] * plan.learning.velocity_bytes(graph[name].dtype == "int8"), 4)
    if plan.learning.feedback:
        for name in names:
            if graph[name].dtype == "int8":
                parts[name]["residual"] = offset
                offset += counts[name]
    for name in names:
        kind: Literal["weight", "bias"] = "weight" if graph[name].dtype == "int8" else "bias"
        part = plan.slices.get(name)
        program.learned.append(
            Learned(name, kind, plan.learned[name], counts[name], offsets[name], part=part, **parts[name])
        )
    program.state_bytes = align(offset)


def _find_lives(program: Program, packed: Mapping[str, int], aliases: Mapping[str, str]) -> None:
    graph, buffers = program.graph, program.buffers
    end = len(program.forward) + len(program.backward)
    tail = program.tail
    for name in graph.inputs:
        begins = tail.forward if tail and name == tail.input else 0
        buffers[name] = Buffer(name, graph[name].bytes, begins, begins)
    if program.strips:
        add_strips(program, program.strips, packed)
    for number, step in enumerate(program.forward):
        if number >= program.in_strips:
            for name in graph.activations(step.node):
                _touch(buffers, name, number)
            _add_output(program, step, number)
            _add_scratch(program, step, number, packed)
        for kept in (arg for call in step.keeping for arg in call.args if isinstance(arg, Kept)):
            buffers[kept.name] = Buffer(kept.name, kept.bytes, number, number)
    for name in graph.outputs:
        if not tail or name == tail.output:  # a first part's output has been sent when the second part begins
            _touch(buffers, name, len(program.forward))
    if program.backward:
        # The host's gradient arrives between the passes: it must not lie on anything the backward pass still reads.
        arrives = len(program.forward)
        if program.loss:  # which reads its top where the gradient will be written
            _touch(buffers, program.loss_top, arrives)
        if tail:
            _add_top(program, program.loss_top, arrives)
            arrives += tail.backward
        if program.aux_top:
            _add_top(program, program.aux_top, arrives)
        _add_top(program, program.top, arrives)
    for number, step in enumerate(program.backward, len(program.forward)):
        assert step.call is not None
        for arg in step.call.args:
            if isinstance(arg, Address) and arg.tensor in buffers:
                _touch(buffers, arg.tensor, number)
            if isinstance(arg, Kept):
                _touch(buffers, arg.name, number)
            if isinstance(arg, Grad):
                _touch(buffers, _add_gradient(program, step.call, arg, number, aliases), number)
            if isinstance(arg, Accumulator) and program.learning.interleaved:
                name = sum_name(arg.tensor)
                elements = next(entry.elements for entry in program.learned if entry.tensor == arg.tensor)
                size = program.learning.gradient_bytes(elements)
                buffers.setdefault(name, Buffer(name, size, number, number)).last = number
        _add_scratch(program, step, number, packed)
    if tail and program.backward:  # asked again, the second part's input comes again, and its gradient is sent again
        _touch(buffers, tail.input, len(program.forward) + tail.backward - 1)
        _touch(buffers, gradient_name(tail.input), len(program.forward) + tail.backward - 1)
    assert all(buffer.last <= end for buffer in buffers.values())
    _check_shares(program)


def _add_top(program: Program, tensor: str, arrives: int) -> None:
    """The gradient with which a backward pass begins."""
    size = _gradient_bytes(program, tensor)
    if program.loss and tensor == program.loss_top and program.learning.arithmetic == "int":  # floats behind the scale
        size = max(size, 4 + 4 * program.graph[tensor].elements)
    name = gradient_name(tensor)
    program.buffers[name] = Buffer(name, size, arrives, arrives)


def _gradient_bytes(program: Program, tensor: str) -> int:
    return program.learning.gradient_bytes(program.graph[tensor].elements)


def _add_gradient(program: Program, call: Call, grad: Grad, number: int, aliases: Mapping[str, str]) -> str:
    tensor, name = grad.tensor, gradient_name(grad.tensor, grad.part)
    if name not in program.buffers:
        buffer = program.buffers[name] = Buffer(name, _gradient_bytes(program, tensor), number, number)
        if tensor in aliases and not grad.part:
            buffer.shares = _add_gradient(program, call, Grad(aliases[tensor]), number, aliases)
            buffer.bytes = program.buffers[buffer.shares].bytes  # of the top: more, where the loss needs it
        elif call.function.endswith(IN_PLACE):  # nobody reads the output's gradient after it
            source = next(gradient_name(arg.tensor) for arg in call.args if isinstance(arg, Grad))
            if program.buffers[source].bytes == buffer.bytes:
                buffer.shares = source
    return name


def _elements(graph: Graph, plan: Plan, name: str) -> int:
    """How many of a tensor's elements learn."""
    part = plan.slices.get(name)
    if part is None:
        return graph[name].elements
    elements = (part.outs[1] - part.outs[0]) * _row_elements(graph, name, plan.learned[name])
    return elements if part.ins is None else elements // graph[name].shape[-1] * (part.ins[1] - part.ins[0])


def _row_elements(graph: Graph, name: str, node_name: str) -> int:
    """Elements of a learned tensor for each output channel."""
    node = next(node for node in graph.nodes if node.name == node_name)
    return graph[name].elements // graph[node.output].shape[-1]


def _touch(buffers: dict[str, Buffer], name: str, number: int) -> None:
    """A use at a step lengthens the life of the buffer that owns the bytes."""
    buffer = buffers[name]
    buffer.last = max(buffer.last, number)
    if buffer.shares:
        _touch(buffers, buffer.shares, number)


def _add_output(program: Program, step: Step, number: int) -> None:
    graph, buffers = program.graph, program.buffers
    operator, tensor = REGISTRY[step.node.op], graph[step.node.output]
    buffer = Buffer(tensor.name, tensor.bytes, number, number)
    if operator.alias and step.node.inputs[0] in buffers:
        buffer.shares = step.node.inputs[0]
    elif operator.in_place:
        for name in graph.activations(step.node):
            if _last_use(program, name) > number:
                continue
            if graph[name].shape == tensor.shape:
                buffer.shares = name
                break
            root = buffers[_root(buffers, name)]
            if operator.shrinks and graph[name].shape[-1] == tensor.shape[-1] and tensor.bytes <= root.bytes:
                buffer.over = root.name
                break
    buffers[tensor.name] = buffer
    if buffer.shares:
        _touch(buffers, buffer.shares, number)


def add_strips(program: Program, strips: Strips, packed: Mapping[str, int]) -> None:
    """The buffers of the steps that are computed a strip at a time: of what lies between them some rows; whole and alive in all
    of them are what they read of the graph's inputs, what the last one computes, and what is kept from strip to strip."""
    graph, buffers, end = program.graph, program.buffers, strips.steps - 1
    frame = _add_frame(program, strips)
    for number, step in enumerate(program.forward[: strips.steps]):
        node = step.node
        for name in graph.activations(node):
            _touch(buffers, name, number if name in strips.held else end)
        tensor = node.output
        if number == end:
            buffers[tensor] = Buffer(tensor, graph[tensor].bytes, end if frame else 0, end, over=frame)
        else:
            buffer = buffers[tensor] = Buffer(tensor, strips.held_bytes(tensor), number, number)
            source = buffers[_root(buffers, node.inputs[0])]
            readers = [later for later in strips.nodes[number + 1 :] if node.inputs[0] in later.inputs]
            same = graph[node.inputs[0]].shape[-1] == graph[tensor].shape[-1]
            small = node.inputs[0] in strips.held and buffer.bytes <= source.bytes
            if REGISTRY[node.op].shrinks and same and small and not readers:
                buffer.over = source.name
            if strips.kept_bytes(tensor):
                name = kept_name(tensor)
                buffers[name] = Buffer(name, strips.kept_bytes(tensor), 0, end)
        _add_scratch(program, replace(step, call=strips.call(number)), number, packed)


def _add_frame(program: Program, strips: Strips) -> str | None:
    """A place for an input and, from the same beginning on, what the strips compute, which follows them over the rows of the input
    that they have read; None where the input is read again, or would be overtaken."""
    graph, buffers = program.graph, program.buffers
    again = {name for node in graph.nodes[strips.steps :] for name in node.inputs}
    for step in program.backward:
        again |= {arg.tensor for arg in (step.call.args if step.call else ()) if isinstance(arg, Address)}
    names = {name for node in strips.nodes for name in node.inputs if name in graph.inputs} - again - {*graph.outputs}
    name = max(sorted(names), key=lambda name: graph[name].bytes, default=None)
    ahead = None if name is None else strips.ahead(name)
    if name is None or ahead is None:
        return None
    into = align(ahead)
    if into + graph[name].bytes < graph[strips.output].bytes:
        return None
    frame = f"{name} and {strips.output}"
    buffers[frame] = Buffer(frame, into + graph[name].bytes, 0, 0)
    buffers[name].shares, buffers[name].into = frame, into
    return frame


def _last_use(program: Program, name: str) -> int:
    """The last step that reads the bytes of a tensor, under whatever name."""
    graph, buffers = program.graph, program.buffers
    root = _root(buffers, name)
    family = {other for other in buffers if _root(buffers, other) == root}
    for node in graph.nodes:
        if REGISTRY[node.op].alias and node.inputs[0] in family:
            family.add(node.output)
    uses = [0]
    if family & {*graph.outputs, *([program.loss_top] if program.loss else [])}:
        uses.append(len(program.forward))
    uses += [number for number, step in enumerate(program.forward) if family & set(step.node.inputs)]
    for number, step in enumerate(program.backward, len(program.forward)):
        assert step.call is not None
        if any(isinstance(arg, Address) and arg.tensor in family for arg in step.call.args):
            uses.append(number)
    return max(uses)


def _root(buffers: Mapping[str, Buffer], name: str) -> str:
    shares = buffers[name].shares
    return _root(buffers, shares) if shares else name


def _add_scratch(program: Program, step: Step, number: int, packed: Mapping[str, int]) -> None:
    call: Call | None = step.call
    if call is None:
        return
    size = sum(align(arg.bytes) for arg in call.args if isinstance(arg, Scratch))
    if program.folded.get(step.node.name, 0) is None:
        size += sum(align(4 * arg.values.size) for arg in call.args if isinstance(arg, Bias))
    size += sum(align(arg.ahead * packed.get(arg.tensor, 0)) for arg in call.args if isinstance(arg, Rows))
    if size:
        name = scratch_name(step.name)
        program.buffers[name] = Buffer(name, size, number, number)


def _check_shares(program: Program) -> None:
    for buffer in program.buffers.values():
        if buffer.shares:
            assert program.buffers[buffer.shares].bytes == buffer.into + buffer.bytes, buffer
