# SPDX-License-Identifier: Apache-2.0
"""What codegen emits: C calls in order, and where in memory everything lies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tlc.graph import Graph, Node, Shape
from tlc.learning import Learning
from tlc.ops import REGISTRY
from tlc.ops.base import Array, Call, Slice
from tlc.strips import Strips

__all__ = [
    "Buffer",
    "CutPart",
    "Learned",
    "Program",
    "Step",
    "TailPart",
    "align",
    "learned_scale",
    "rows_of",
    "rows_shape",
]

ALIGN = 16


@dataclass(frozen=True)
class Step:
    """One C call, or none (an alias) in the forward pass of a node."""

    name: str  # a C identifier, unique in the program
    node: Node
    call: Call | None
    macs: int
    keeping: tuple[Call, ...] = ()
    """Calls after it that keep what the backward pass needs of its output."""


@dataclass
class Buffer:
    """A piece of the arena with a life from step ``first`` to step ``last``, both included."""

    name: str
    bytes: int
    first: int
    last: int
    offset: int = -1
    shares: str | None = None  # lies where that buffer lies (an alias, or an operation in place)
    into: int = 0  # so many bytes behind the beginning of what it shares
    over: str | None = None  # begins where that buffer, no smaller, does, which dies in the step that computes this one


@dataclass(frozen=True)
class Learned:
    """A tensor that learns, and where in the state its parts lie (bytes); None: it has no such part."""

    tensor: str
    kind: Literal["weight", "bias"]
    node: str
    elements: int
    offset: int
    accumulator: int | None = None
    """The sum of its gradients since the last update; without, the sum lies in the arena until the update."""
    part: Slice | None = None
    """What learns of it; None: all."""
    velocity: int | None = None
    residual: int | None = None


@dataclass(frozen=True)
class TailPart:
    """The second part of a U-shaped device segment."""

    input: str
    output: str
    forward: int
    """Steps of the forward pass before it."""
    backward: int = 0
    """Steps of the backward pass that are its: the first ones."""
    top: str = ""
    """The activation whose gradient the loss gives; empty where nothing learns."""


@dataclass(frozen=True)
class CutPart:
    """Of several cuts one, as it lies in the program of the deepest."""

    tensor: str
    forward: int
    """Steps of the forward pass that are its: the first ones."""
    backward: int
    """The step with which its backward pass begins; it goes on to the end."""
    learned: int
    """Learned tensors that lie before it: the first ones. 0: nothing learns there."""


@dataclass
class Program:
    """A device graph ready for codegen."""

    graph: Graph
    forward: list[Step]
    backward: list[Step] = field(default_factory=list)
    learned: list[Learned] = field(default_factory=list)
    learning: Learning = field(default_factory=Learning)
    top: str = ""
    """Where something learns: the activation whose gradient the backward pass begins with."""
    tail: TailPart | None = None
    """Where the graph has a second part: how it lies in the passes. Then the top is the first part's."""
    cuts: tuple[CutPart, ...] = ()
    """Where it may end, the shallowest first; empty: only where it does."""
    aux_top: str = ""
    """Where the graph has a head at the cut: the activation whose gradient the loss gives, beside the top, the cut."""
    folded: dict[str, int | None] = field(default_factory=dict)
    """Per node of which something learns: where in the state its biases lie as kernels read them (bytes). None, where updates
    are interleaved: they are made anew when the layer runs, in its scratch, since after each sample they would be."""
    loss: Step | None = None
    """From a label to the gradient of the :attr:`loss_top`."""
    strips: Strips | None = None
    """How the first steps of the forward pass are computed, where not one after the other."""
    buffers: dict[str, Buffer] = field(default_factory=dict)
    arena_bytes: int = 0
    state_bytes: int = 0
    param_bytes: int = 0
    memory_offset: int = 0
    """Where in the state the optimizer's own memory begins (velocities, residuals), which lies at its end."""

    @property
    def in_strips(self) -> int:
        """How many steps of the forward pass are computed a strip at a time."""
        return self.strips.steps if self.strips else 0

    @property
    def memory_bytes(self) -> int:
        """Of the optimizer's own memory, and what rounds the state up behind it; 0 where there is none."""
        return self.state_bytes - self.memory_offset if self.learning.momentum or self.learning.feedback else 0

    def offset(self, name: str) -> int:
        """Where in the arena a buffer lies."""
        buffer = self.buffers[name]
        return self.offset(buffer.shares) + buffer.into if buffer.shares else buffer.offset

    @property
    def loss_top(self) -> str:
        """The activation whose gradient the loss gives."""
        return self.tail.top if self.tail else self.aux_top or self.top

    @property
    def result(self) -> str:
        """What the application is told: the last part's first output."""
        return self.tail.output if self.tail else self.graph.outputs[0]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one forward pass."""
        return sum(step.macs for step in self.forward)


def align(size: int, to: int = ALIGN) -> int:
    """The next multiple."""
    return (size + to - 1) // to * to


def rows_shape(graph: Graph, learned: Learned) -> Shape:
    """A learned tensor's shape as it lies in the state: a weight's output channel comes first, as the kernels' rows have
    it; depthwise (1, KH, KW, C · M) becomes (C · M, 1, KH, KW)."""
    shape = graph[learned.tensor].shape
    axis = next(REGISTRY[node.op].weight_axis(node) for node in graph.nodes if node.name == learned.node)
    if learned.kind == "weight" and axis is not None:
        shape = (shape[axis], *shape[:axis], *shape[axis + 1 :])
    if learned.part is None:
        return shape
    outs, ins = learned.part.outs, learned.part.ins
    inner = shape[1:] if ins is None else (*shape[1:-1], ins[1] - ins[0])
    return (outs[1] - outs[0], *inner)


def rows_of(graph: Graph, learned: Learned) -> Array:
    """A learned tensor's integers in that shape, as they are in the graph."""
    axis = next(REGISTRY[node.op].weight_axis(node) for node in graph.nodes if node.name == learned.node)
    rows = graph.data(learned.tensor)
    if learned.kind == "weight" and axis is not None:
        rows = np.moveaxis(rows, axis, 0)
    return np.ascontiguousarray(rows if learned.part is None else learned.part.of(rows))


def learned_scale(graph: Graph, learned: Learned) -> NDArray[np.float32]:
    """The scale of each output channel that learns, or the one of all."""
    quant = graph[learned.tensor].quant
    assert quant is not None
    return quant.scale if learned.part is None or len(quant.scale) == 1 else quant.scale[slice(*learned.part.outs)]
