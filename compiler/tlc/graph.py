# SPDX-License-Identifier: Apache-2.0
"""The graph that everything between a frontend and codegen works on.

Activations are channels-last (N, H, W, C), (N, W, C) or (N, C) with N = 1 kept in the shape; shapes are static. A graph is
float (tensors are ``float32``) or integer (tensors are ``int8`` with a :class:`Quant`, biases ``int32``). Nodes stand in
an order in which each runs after what it reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["DType", "Graph", "Node", "Origin", "Quant", "Shape", "Tensor"]

DType = Literal["float32", "int8", "int32"]
Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Quant:
    """real = scale · (q − zero_point), LiteRT's 8-bit quantization specification.

    ``scale`` is float32 of shape (1,), or (channels,) with ``axis`` naming the channel axis; then ``zero_point`` is 0.
    """

    scale: NDArray[np.float32]
    zero_point: int = 0
    axis: int | None = None

    @staticmethod
    def per_tensor(scale: float, zero_point: int = 0) -> Quant:
        """One scale and one zero point for the whole tensor."""
        return Quant(np.array([scale], np.float32), int(zero_point))

    @property
    def s(self) -> float:
        """The scale of a per-tensor quantization, as the float32 it is stored in, widened to double."""
        assert self.scale.size == 1
        return float(self.scale[0])

    def same(self, other: Quant | None) -> bool:
        """Whether a value keeps its meaning when its integer is copied from one tensor to the other."""
        return (
            other is not None
            and self.zero_point == other.zero_point
            and self.axis == other.axis
            and np.array_equal(self.scale, other.scale)
        )

    def quantize(self, real: NDArray[Any], dtype: DType = "int8") -> NDArray[Any]:
        """Reals to integers, ties away from zero, saturating: bit for bit the device's quantizer (float32 division)."""
        info = np.iinfo(dtype)
        x = np.asarray(real, np.float32) / self._along(real.ndim).astype(np.float32)
        q = np.trunc(x)
        q = q.astype(np.float64) + (x - q >= 0.5) - (x - q <= -0.5) + self.zero_point
        return np.clip(q, info.min, info.max).astype(dtype)

    def dequantize(self, q: NDArray[Any]) -> NDArray[np.float32]:
        """Integers to reals."""
        return ((q.astype(np.float64) - self.zero_point) * self._along(q.ndim)).astype(np.float32)

    def _along(self, rank: int) -> NDArray[np.float64]:
        scale = self.scale.astype(np.float64)
        if self.axis is None:
            return scale.reshape(())
        return scale.reshape([-1 if axis == self.axis % rank else 1 for axis in range(rank)])


@dataclass(frozen=True)
class Origin:
    """Which tensor of the model file a tensor is: ``ours == theirs.transpose(perm).reshape(our shape)``.

    ``shape`` is the file's shape; ``perm`` is the identity where the file is channels-last already.
    """

    name: str
    shape: Shape
    perm: tuple[int, ...]

    def to_file(self, ours: NDArray[Any]) -> NDArray[Any]:
        """Our layout, with any number of samples on the leading axis, to the file's layout."""
        permuted = [self.shape[axis] for axis in self.perm]
        inverse = np.argsort(self.perm)
        if self.perm and self.perm[0] != 0:
            assert ours.shape[0] == 1
            return ours.reshape(permuted).transpose(inverse)
        return ours.reshape([ours.shape[0], *permuted[1:]]).transpose(inverse)

    def from_file(self, theirs: NDArray[Any], shape: Shape) -> NDArray[Any]:
        """The file's layout, with any number of samples on the leading axis, to ours."""
        return theirs.transpose(self.perm).reshape(theirs.shape[0], *shape[1:])


@dataclass(eq=False)
class Tensor:
    """A value of the graph: an input, an activation, or a constant (``data`` is set)."""

    name: str
    shape: Shape
    dtype: DType = "float32"
    quant: Quant | None = None
    data: NDArray[Any] | None = None
    origin: Origin | None = None

    @property
    def elements(self) -> int:
        """How many values it has."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def bytes(self) -> int:
        """How many bytes its values take."""
        return self.elements * (1 if self.dtype == "int8" else 4)

    @property
    def is_constant(self) -> bool:
        """Whether the value is known at compile time."""
        return self.data is not None


@dataclass(eq=False)
class Node:
    """One operator application. ``attrs`` is the frozen ``Attrs`` dataclass of the operator's file in ``tlc.ops``."""

    name: str
    op: str
    inputs: list[str]
    outputs: list[str]
    attrs: Any = None

    @property
    def output(self) -> str:
        """The only output."""
        return self.outputs[0]

    def with_attrs(self, **changes: Any) -> Any:
        """A copy of ``attrs`` with some of them changed."""
        return dataclasses.replace(self.attrs, **changes)


@dataclass(eq=False)
class Graph:
    """Tensors by name, nodes in execution order, and the names at the edge."""

    name: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    tail: str = ""
    """Of a U-shaped device segment: the input, the last one, with which its second part begins; that part's output is the
    last one."""
    aux: str = ""
    """Of a device segment with a head at the cut: that head's output, the last one, which classifies the first."""

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def add(self, tensor: Tensor) -> Tensor:
        """Adds a tensor; its name must be new."""
        assert tensor.name not in self.tensors, tensor.name
        self.tensors[tensor.name] = tensor
        return tensor

    def constant(self, name: str, data: NDArray[Any], quant: Quant | None = None) -> Tensor:
        """Adds a constant under a fresh name derived from ``name``."""
        dtype: DType = data.dtype.name  # type: ignore[assignment]
        return self.add(Tensor(self.fresh(name), tuple(data.shape), dtype, quant, data))

    def fresh(self, stem: str) -> str:
        """A tensor or node name that is not taken."""
        taken = self.tensors.keys() | {node.name for node in self.nodes}
        if stem not in taken:
            return stem
        number = 1
        while f"{stem}_{number}" in taken:
            number += 1
        return f"{stem}_{number}"

    @property
    def sent(self) -> list[str]:
        """The outputs of which the host is told after the (first) forward pass."""
        return self.outputs[: 1 if self.tail or self.aux else None]

    @property
    def judged(self) -> str:
        """The output that a loss on the device is taken of."""
        return self.aux or self.outputs[0]

    def producer(self, name: str) -> Node | None:
        """The node that computes a tensor; None for inputs and constants."""
        return next((node for node in self.nodes if name in node.outputs), None)

    def consumers(self, name: str) -> list[Node]:
        """The nodes that read a tensor."""
        return [node for node in self.nodes if name in node.inputs]

    def data(self, name: str) -> NDArray[Any]:
        """The value of a constant."""
        value = self.tensors[name].data
        assert value is not None, f"{name} is not a constant"
        return value

    def activations(self, node: Node) -> list[str]:
        """The inputs of a node that are not constants."""
        return [name for name in node.inputs if not self.tensors[name].is_constant]

    def replace_uses(self, old: str, new: str) -> None:
        """Makes every reader of ``old``, and the graph's outputs, read ``new``."""
        for node in self.nodes:
            node.inputs = [new if name == old else name for name in node.inputs]
        self.outputs = [new if name == old else name for name in self.outputs]

    def prune(self) -> None:
        """Removes nodes that lead to no output, and tensors that nobody names."""
        needed = set(self.outputs)
        kept: list[Node] = []
        for node in reversed(self.nodes):
            if needed & set(node.outputs):
                kept.append(node)
                needed.update(node.inputs)
        self.nodes = kept[::-1]
        named = needed | set(self.inputs) | {name for node in self.nodes for name in node.outputs}
        self.tensors = {name: tensor for name, tensor in self.tensors.items() if name in named}

    def copy(self) -> Graph:
        """A copy whose nodes and tensors can be changed; arrays are shared and must not be written to."""
        return Graph(
            self.name,
            {name: dataclasses.replace(tensor) for name, tensor in self.tensors.items()},
            [dataclasses.replace(node, inputs=list(node.inputs), outputs=list(node.outputs)) for node in self.nodes],
            list(self.inputs),
            list(self.outputs),
            self.tail,
            self.aux,
        )

    def segments(self) -> tuple[Graph, Graph]:
        """Both parts of a U-shaped device segment, each a graph of its own."""
        assert self.tail
        parts = []
        for inputs, outputs in ((self.inputs[:-1], self.outputs[:-1]), (self.inputs[-1:], self.outputs[-1:])):
            part = self.copy()
            part.inputs, part.outputs, part.tail = inputs, outputs, ""
            part.prune()
            parts.append(part)
        return parts[0], parts[1]

    def walk(self) -> Iterator[tuple[Node, Sequence[Tensor], Tensor]]:
        """Each node with its input tensors and its (first) output tensor."""
        for node in self.nodes:
            yield node, [self.tensors[name] for name in node.inputs], self.tensors[node.outputs[0]]
