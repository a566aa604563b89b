# SPDX-License-Identifier: Apache-2.0
"""What an operator's file must say, and the arithmetic that they share.

To add an operator, add one file with one :class:`Operator` subclass and list it in ``ops/__init__.py``. The file holds
the shape rule, the constraints, the float form (TensorFlow), the int8 reference (NumPy), the cost, and the C call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tlc.errors import UnsupportedOperator
from tlc.graph import Graph, Node, Quant, Shape, Tensor

__all__ = [
    "Accumulator",
    "Activation",
    "Address",
    "Bias",
    "Call",
    "Grad",
    "Kept",
    "Operator",
    "Param",
    "Reads",
    "Rows",
    "Rule",
    "Scratch",
    "Slice",
    "Table",
    "activation_range",
    "apply_activation",
    "broadcast_shape",
    "quantize_multiplier",
    "quantize_multipliers",
    "requantize",
]

Array = NDArray[Any]
Rule = Callable[[Graph, Node], str | None]
"""A constraint: its docstring is the rule, it returns None where the rule holds, else the value that broke it."""


class Activation(Enum):
    """The clamp fused into an operator's output."""

    NONE = "none"
    RELU = "relu"
    RELU6 = "relu6"
    RELU_N1_TO_1 = "relu_n1_to_1"

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest real value."""
        infinity = float("inf")
        return {
            Activation.NONE: (-infinity, infinity),
            Activation.RELU: (0.0, infinity),
            Activation.RELU6: (0.0, 6.0),
            Activation.RELU_N1_TO_1: (-1.0, 1.0),
        }[self]


# What a C call is made of. Codegen turns each into an expression of the generated function.


@dataclass(frozen=True)
class Address:
    """The int8 values of a tensor: in the arena, or a constant in flash."""

    tensor: str
    is_output: bool = False


@dataclass(frozen=True)
class Rows:
    """A weight tensor as a stream of rows, one an output channel: raw, entropy-packed, or learned (in the state)."""

    tensor: str
    values: Array  # (rows, row_bytes) int8, in the order the kernel takes them
    ahead: int = (
        1  # how many the kernel takes at once: where they do not lie in memory as they are, it needs room for them
    )


@dataclass(frozen=True)
class Bias:
    """int32 biases with the input's zero point folded in: b − zp_in · Σ w; in the state where they learn."""

    tensor: str | None  # None: the layer has no bias, and never learns one
    values: Array  # (rows,) int32


@dataclass(frozen=True)
class Table:
    """A constant array in flash, named ``<layer>_<suffix>``."""

    suffix: str
    values: Array


@dataclass(frozen=True)
class Scratch:
    """Bytes of the arena that live for this call only."""

    bytes: int


@dataclass(frozen=True)
class Grad:
    """The gradient of the loss with respect to the reals of an activation: float32, or int16 with an exponent."""

    tensor: str
    is_output: bool = False
    part: bool = False
    """A buffer of its own, from which it is added to the gradient."""


@dataclass(frozen=True)
class Accumulator:
    """The float32 gradient of a learned tensor: in the state, summed over samples; or in the arena, of this sample."""

    tensor: str


@dataclass(frozen=True)
class Param:
    """The integers of a learned tensor, in the state."""

    tensor: str


@dataclass(frozen=True)
class Kept:
    """Bytes of the arena that a step of the forward pass writes for the backward pass: bits of a mask, some channels."""

    name: str
    bytes: int
    is_mask: bool
    is_output: bool = False


@dataclass(frozen=True)
class Slice:
    """The part of a weight or bias that learns: output channels [first, last), and of the input channels that each of
    them reads ``ins``; None for a bias, and for a depthwise weight, which reads one."""

    outs: tuple[int, int]
    ins: tuple[int, int] | None = None

    def of(self, rows: Array) -> Array:
        """The part of an array whose first axis is the output channels, and the last, with ``ins``, the input channels."""
        part = rows[slice(*self.outs)]
        return part if self.ins is None else part[..., slice(*self.ins)]


@dataclass(frozen=True)
class Call:
    """``function(&(struct){fields}, args...)``. Values of ``fields`` are numbers or :class:`Table`."""

    function: str
    struct: str
    fields: dict[str, int | float | Table]
    args: tuple[Address | Rows | Bias | Table | Scratch | Grad | Accumulator | Param | Kept, ...] = field(default=())


@dataclass(frozen=True)
class Reads:
    """What some rows of an output, along its height, are computed from."""

    first: int
    last: int
    """Rows [first, last) of each input that is computed; of a constant all."""
    attrs: Any
    """The node's where these rows are all of the inputs, and those rows all of the output."""


class Operator(ABC):
    """One operator: stateless, one instance in ``tlc.ops.REGISTRY``."""

    name: ClassVar[str]
    Attrs: ClassVar[type]
    rules: ClassVar[tuple[Rule, ...]] = ()
    """What must hold for it to run on the device."""
    same_quant: ClassVar[bool] = False
    """Output values are input values (max-pool, reshape, ...): quantization must be the same on both sides."""
    alias: ClassVar[bool] = False
    """The output is the input's bytes: nothing is computed (reshape)."""
    in_place: ClassVar[bool] = False
    """The output may lie over an input of the same shape that nobody reads any more."""
    shrinks: ClassVar[bool] = False
    """``in_place``, and also over the beginning of a larger input with as many channels."""

    @abstractmethod
    def infer(self, graph: Graph, node: Node) -> Shape:
        """The output's shape, batch axis included."""

    @abstractmethod
    def tf(self, node: Node, inputs: Sequence[Any]) -> Any:
        """The float form on TensorFlow tensors, constants included; any number of samples on the leading axis."""

    @abstractmethod
    def int8(self, graph: Graph, node: Node, inputs: Sequence[Array]) -> Array:
        """The arithmetic contract. ``inputs`` in the node's order, constants included; the leading axis of activations
        may hold many samples."""

    @abstractmethod
    def call(self, graph: Graph, node: Node) -> Call | None:
        """The C call on the integer graph; None where nothing is computed."""

    def reads(self, graph: Graph, node: Node, first: int, last: int) -> Reads | None:
        """What rows [first, last) of the output (N, H, W, C) are computed from; None where not from some rows alone."""
        return None

    def backward(self, graph: Graph, node: Node, wanted: frozenset[int], adding: frozenset[int]) -> list[Call] | None:
        """The C calls of the backward pass, in order; None where the operator has no gradient.

        They read ``Grad(output)`` and what of the forward pass they name by :class:`Address`, and write the gradient of
        each input whose index is in ``wanted``: :class:`Grad` for an activation (set, or added to where its index is in
        ``adding``), :class:`Accumulator` for a learned constant (always added to).
        """
        return None

    def gradient(
        self, graph: Graph, node: Node, inputs: Sequence[Array], output: Array, dy: Array, sums: Mapping[int, Array]
    ) -> None:
        """The backward contract on one sample, in the C kernels' order of additions.

        Args:
            inputs: the integers of the forward pass, constants included.
            output: the integers it gave.
            dy: float32 of the output's shape, the gradient with respect to its reals.
            sums: for the index of each wanted input, the float32 array that its gradient is added to: an activation's
                of its shape; a weight's with the output channel's axis first, as the kernel's rows are.
        """
        raise NotImplementedError(f"{self.name} has no gradient")

    def backward_int(
        self, graph: Graph, node: Node, wanted: frozenset[int], adding: frozenset[int]
    ) -> list[Call] | None:
        """:meth:`backward` in integers alone: gradients are int16 with an exponent (:mod:`tlc.ops.training_int`)."""
        return None

    def gradient_int(
        self, graph: Graph, node: Node, inputs: Sequence[Array], output: Array, dy: Any, sums: Mapping[int, Any]
    ) -> None:
        """:meth:`gradient` in integers alone; ``dy`` and ``sums`` are :class:`tlc.ops.training_int.Fixed`."""
        raise NotImplementedError(f"{self.name} has no gradient in integers")

    def macs(self, graph: Graph, node: Node) -> int:
        """Multiply-accumulates of one inference."""
        return 0

    def work(self, graph: Graph, node: Node) -> tuple[int, int]:
        """What a board's cost table multiplies by ``per_mac`` and ``per_run``: elements that the inner loops take (MACs;
        values in a pool's windows), and how often something begins that neither they nor the outputs tell of.
        """
        return self.macs(graph, node), 0

    def backward_macs(self, graph: Graph, node: Node, wanted: frozenset[int]) -> int:
        """Multiply-accumulates of one backward pass: as many as forward for each wanted input's gradient, but for a bias
        one addition an output."""
        bias = {2} if self.weight_axis(node) is not None else set()
        sums = graph[node.output].elements if wanted & bias else 0
        return len(wanted - bias) * self.macs(graph, node) + sums

    def weight_axis(self, node: Node) -> int | None:
        """The output channel's axis in ``inputs[1]`` where that is a weight tensor quantized per channel."""
        return None

    def output_quant(self, inputs: Sequence[Quant]) -> Quant | None:
        """The output's quantization where the operator prescribes it (softmax); None: calibrated."""
        return None

    def check(self, graph: Graph, node: Node) -> None:
        """Raises :class:`~tlc.errors.UnsupportedOperator` for the first rule that does not hold."""
        for rule in self.rules:
            broken = rule(graph, node)
            if broken is not None:
                text = " ".join((rule.__doc__ or rule.__name__).split()).rstrip(".")
                raise UnsupportedOperator(f"{text}, but {broken}", where=f"{node.op} '{node.name}'")


# ---- shared arithmetic: LiteRT's fixed-point requantization, double rounding ----------------------------------------


def quantize_multiplier(real: float) -> tuple[int, int]:
    """A positive real as ``multiplier · 2^(shift − 31)`` with multiplier in [2^30, 2^31).

    Source: LiteRT 8-bit specification; the extremes as TFLM does: below 2^−32 gives 0, above 2^30 saturates.
    """
    if real == 0.0:
        return 0, 0
    mantissa, shift = np.frexp(real)
    multiplier = int(np.floor(mantissa * 2.0**31 + 0.5))
    if multiplier == 1 << 31:
        multiplier //= 2
        shift += 1
    if shift < -31:
        return 0, 0
    if shift > 30:
        return (1 << 31) - 1, 30
    return multiplier, int(shift)


def quantize_multipliers(reals: NDArray[np.float64]) -> tuple[NDArray[np.int32], NDArray[np.int8]]:
    """:func:`quantize_multiplier` for each channel: multipliers and shifts of shape (channels,)."""
    pairs = [quantize_multiplier(float(real)) for real in np.atleast_1d(reals)]
    return np.array([m for m, _ in pairs], np.int32), np.array([s for _, s in pairs], np.int8)


def saturating_rounding_doubling_high_mul(a: Array, b: Array | int) -> Array:
    """round(a · b / 2^31), ties away from zero for positive and toward zero for negative products, as gemmlowp has it."""
    product = a.astype(np.int64) * np.asarray(b, np.int64)
    nudge = np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    total = product + nudge
    high = np.where(total >= 0, total >> 31, -((-total) >> 31))  # C's division truncates toward zero
    return np.clip(high, -(1 << 31), (1 << 31) - 1)


def rounding_divide_by_pot(x: Array, exponent: Array | int) -> Array:
    """x / 2^exponent, ties away from zero."""
    exponent = np.asarray(exponent, np.int64)
    mask = (np.int64(1) << exponent) - 1
    remainder = x & mask
    threshold = (mask >> 1) + (x < 0)
    rounded: Array = (x >> exponent) + (remainder > threshold)
    return rounded


def requantize(acc: Array, multiplier: Array | int, shift: Array | int) -> Array:
    """``MultiplyByQuantizedMultiplier`` with double rounding: int32 accumulators times a real, as int64.

    ``multiplier`` and ``shift`` broadcast against ``acc`` (the channel is its last axis).
    """
    shift = np.asarray(shift, np.int64)
    left = np.maximum(shift, 0)
    widened = acc.astype(np.int64) << left
    wrapped = (widened + (1 << 31)) % (1 << 32) - (1 << 31)  # the shift is 32-bit in C
    return rounding_divide_by_pot(saturating_rounding_doubling_high_mul(wrapped, multiplier), np.maximum(-shift, 0))


def activation_range(activation: Activation, quant: Quant) -> tuple[int, int]:
    """The int8 values between which an output is clamped."""
    low, high = activation.bounds
    least, most = -128, 127
    scale = np.float32(quant.s)
    if np.isfinite(low):
        least = max(least, quant.zero_point + round_half_away(np.float32(low) / scale))
    if np.isfinite(high):
        most = min(most, quant.zero_point + round_half_away(np.float32(high) / scale))
    return least, max(least, most)


def round_half_away(x: np.floating[Any] | float) -> int:
    """C's ``round``."""
    return int(np.floor(abs(float(x)) + 0.5)) * (1 if x >= 0 else -1)


def apply_activation(activation: Activation, value: Any) -> Any:
    """The clamp on a TensorFlow tensor."""
    import tensorflow as tf

    low, high = activation.bounds
    if np.isfinite(low) and np.isfinite(high):
        return tf.clip_by_value(value, low, high)
    return tf.nn.relu(value) if np.isfinite(low) else value


def broadcast_shape(a: Tensor, b: Tensor) -> Shape:
    """NumPy's broadcast of two shapes."""
    return tuple(int(n) for n in np.broadcast_shapes(a.shape, b.shape))
