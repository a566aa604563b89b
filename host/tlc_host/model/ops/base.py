# SPDX-License-Identifier: Apache-2.0
"""What an operator of the host segment is: a function in TensorFlow with ONNX's semantics.

To add an operator, write one function under :func:`operator` in a file of its family, or one entry of a table
(``elementwise.py``, ``reduce.py``), and list the file in ``ops/__init__.py``. Values are in the file's layout (channels
first). A value is a ``tf.Tensor`` where it depends on the input or on a parameter, else a NumPy array, known when the step
is traced: shapes, axes and indices are always of the second kind.

Source: the ONNX operator specification, https://onnx.ai/onnx/operators, opsets 7 to 26.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import tensorflow as tf

__all__ = ["OPERATORS", "Call", "Operator", "Run", "Untrainable", "is_static", "operator"]

Forward = Callable[["Call"], Any]


class Untrainable(Exception):
    """Why a node cannot be trained; the module says where."""


@dataclass(frozen=True)
class Operator:
    """One ONNX operator."""

    name: str
    forward: Forward
    """Outputs from a call: one value, or a tuple of them."""
    learns: tuple[int, ...] = ()
    """The inputs that hold parameters where they are constants of the file."""
    wide: bool = False
    """Only constants of more than one value are parameters there: a lone factor or summand belongs to a formula."""
    view: bool = False
    """Parameters pass through it: what it makes of a constant is a parameter too."""
    differentiable: bool = True
    """False where its gradient is zero or undefined; then only static values and masks may come out of it."""


OPERATORS: dict[str, Operator] = {}
"""Every operator, by ONNX's name."""


def operator(
    name: str,
    *,
    learns: tuple[int, ...] = (),
    wide: bool = False,
    view: bool = False,
    differentiable: bool = True,
) -> Callable[[Forward], Forward]:
    """Enters a function into the table."""

    def enter(forward: Forward) -> Forward:
        assert name not in OPERATORS, name
        OPERATORS[name] = Operator(name, forward, learns, wide, view, differentiable)
        return forward

    return enter


@dataclass
class Run:
    """One forward pass through the segment.

    Beside a tensor in the file's layout its channels-last twin is kept, where an operator computed it that way: the next
    such operator takes the twin, and the transposes between them are never run, since TensorFlow prunes what no one reads.
    """

    batch_statistics: bool = False
    """Batch normalization takes the batch's statistics, and dropout drops: training."""
    seed: Any = 0
    """Of dropout: an integer, or a scalar tensor."""
    draw: Any = 0
    """Forward passes before this one: an integer, or a scalar tensor."""
    updates: dict[str, Any] = field(default_factory=dict)
    """Running statistics after this pass, by the name of the constant that holds them."""
    _twins: dict[int, tuple[Any, Any]] = field(default_factory=dict)

    def channels_last(self, x: Any) -> Any:
        """(N, C, ...) → (N, ..., C)."""
        found = self._twins.get(id(x))
        if found is not None:
            return found[1]
        rank = len(x.shape)
        return tf.transpose(x, [0, *range(2, rank), 1])

    def channels_first(self, y: Any) -> Any:
        """(N, ..., C) → (N, C, ...), remembering both."""
        rank = len(y.shape)
        x = tf.transpose(y, [0, rank - 1, *range(1, rank - 1)])
        if not tf.executing_eagerly():  # where nothing is pruned a twin would cost time
            self._twins[id(x)] = (x, y)
        return x

    def has_twin(self, x: Any) -> bool:
        """Whether the channels-last form is at hand."""
        return id(x) in self._twins


@dataclass(frozen=True)
class Call:
    """A node with the values of its inputs."""

    node: onnx.NodeProto
    opset: int
    attributes: Mapping[str, Any]
    inputs: Sequence[Any]
    """None where an optional one is left out."""
    run: Run

    def input(self, index: int) -> Any:
        """A value; None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def text(self, name: str, default: str) -> str:
        """A string attribute."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)

    def ints(self, name: str, default: Sequence[Any] = ()) -> list[Any]:
        """An attribute of integers."""
        return [int(i) for i in self.attributes.get(name, default)]

    def static(self, index: int, what: str) -> Any:
        """An input that must be known before the step runs, as a NumPy array; None where it is left out."""
        value = self.input(index)
        if value is not None and not is_static(value):
            raise Untrainable(f"with computed {what} cannot be trained: {what} must be a constant")
        return value

    def static_ints(self, index: int, attribute: str) -> list[Any] | None:
        """Integers that older opsets have as an attribute and newer ones as an input; None where left out."""
        if attribute in self.attributes:
            return self.ints(attribute)
        value = self.static(index, attribute)
        return None if value is None else [int(i) for i in np.ravel(value)]

    def wants(self, index: int) -> bool:
        """Whether an optional output has a name."""
        return index < len(self.node.output) and bool(self.node.output[index])

    def int(self, name: str, default: int) -> int:
        """An integer attribute."""
        return int(self.attributes.get(name, default))

    def float(self, name: str, default: float) -> float:
        """A real attribute."""
        return float(self.attributes.get(name, default))


def is_static(value: Any) -> bool:
    """Whether a value is known when the step is traced."""
    return isinstance(value, np.ndarray)
