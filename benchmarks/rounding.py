# SPDX-License-Identifier: Apache-2.0
"""How far each layer of an integer graph may be from the float layer that it stands for: by its own rounding, no more.

A layer is judged by itself. It gets the integers that it really got, x = s_x (q_x - z_x), which are reals without any
error; the float layer, on the same x with the weights of the file, gives f. With y = s_y (q_y - z_y) what the integer
layer gave, both clamped to the range of the integer's clamp (a clamp moves no two values apart), must hold

    |y - f| <= s_y (1/2 + 1/2^(n+1))     rounding to an output step: gemmlowp's double rounding, the first of the two
                                         to 1/2^n of a step, where the multiplier shifts right by n; 1/2 where n = 0
             + sum |x| |w - s_w q_w|     weights that are not what the file has, exactly as far as each is off
             + |b - s_x s_w q_b|         and biases
             + |f| / 2^30                the multiplier's 31 bits
             + the oracle's own          float64: a millionth of a step, and 2^-22 |f| where it uses a float32 constant

An addition rescales its inputs to 1/2^20 of twice the larger scale first (twice the first line, in that unit); a mean divides
its multiplier by the count, truncating (2^-28); softmax has exponentials with 19 fraction bits in its sum (2^-20 each).
Pooling by maximum, transposing, reshaping and padding with zero are exact: no allowance but the oracle's.
A ReLU6's upper bound lies on the output's grid, so within half a step of 6: checked apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.graph import Graph, Node, Quant
from tlc.ops import REGISTRY
from tlc.ops.base import Activation, activation_range, quantize_multiplier

__all__ = ["LayerError", "layer_errors"]

Real = NDArray[np.float64]
MULTIPLIER = 2.0**-30


@dataclass(frozen=True)
class LayerError:
    """The worst element of a layer, against its bound."""

    node: str
    op: str
    values: int
    steps: float
    """The largest difference, in steps of the output."""
    used: float
    """The largest share of its bound that any element's difference took: the layer is right where it is at most 1."""

    @property
    def holds(self) -> bool:
        """Whether every element is within its bound."""
        return self.used <= 1.0


def layer_errors(real: Graph, integer: Graph, values: Mapping[str, NDArray[np.int8]]) -> list[LayerError]:
    """Judges every layer of an integer graph.

    Args:
        real: the float graph that ``integer`` was quantized from: the same nodes in the same order.
        integer: what runs on the device.
        values: every activation of ``integer``, (samples, ...).
    """
    found = []
    for of_real, node in zip(real.nodes, integer.nodes, strict=True):
        assert (of_real.name, of_real.op, of_real.attrs) == (node.name, node.op, node.attrs)
        out = _quant(integer, node.output)
        low, high = _clamp(node, out)
        limits = out.s * (low - out.zero_point), out.s * (high - out.zero_point)
        exact, bound = _layer(real, integer, of_real, node, values)
        y = out.s * (values[node.output].astype(np.float64) - out.zero_point)
        difference = np.abs(y - np.clip(exact, *limits))
        bound = bound + 1e-6 * out.s + 2.0**-22 * np.abs(exact)
        used = float((difference / bound).max(initial=0.0))
        if not _bound_on_grid(node, out, limits):
            used = float("inf")
        found.append(LayerError(node.name, node.op, y.size, float(difference.max(initial=0.0)) / out.s, used))
    return found


def _quant(graph: Graph, name: str) -> Quant:
    quant = graph[name].quant
    assert quant is not None
    return quant


def _clamp(node: Node, out: Quant) -> tuple[int, int]:
    return activation_range(getattr(node.attrs, "activation", Activation.NONE), out)


def _bound_on_grid(node: Node, out: Quant, limits: tuple[float, float]) -> bool:
    """Whether the clamp's ends are the activation's, to half a step, or those of int8."""
    ends = zip(getattr(node.attrs, "activation", Activation.NONE).bounds, limits, (-128, 127), strict=True)
    for wanted, limit, extreme in ends:
        if not np.isfinite(wanted):
            wanted = out.s * (extreme - out.zero_point)
        beyond = abs(limit - out.s * (extreme - out.zero_point)) < 1e-9 * out.s and abs(wanted) >= abs(limit)
        if abs(wanted - limit) > 0.500001 * out.s and not beyond:
            return False
    return True


def _layer(
    real: Graph, integer: Graph, of_real: Node, node: Node, values: Mapping[str, NDArray[np.int8]]
) -> tuple[Real, Any]:
    """What the float layer gives without its activation, and how far the integer one may be."""
    operator, out = REGISTRY[node.op], _quant(integer, node.output)
    inputs: list[Real] = []
    off: list[Any] = []  # of constants, how far each is from the file's
    for index, (name, name_of_real) in enumerate(zip(node.inputs, of_real.inputs, strict=True)):
        tensor = integer[name]
        if tensor.data is None:
            quant = _quant(integer, name)
            inputs.append(quant.s * (values[name].astype(np.float64) - quant.zero_point))
            off.append(0.0)
        else:
            constant = real.data(name_of_real).astype(np.float64)
            inputs.append(constant)
            off.append(np.abs(constant - _dequantized(integer, node, index)))
    free = of_real
    if hasattr(node.attrs, "activation"):
        attrs = dataclasses.replace(node.attrs, activation=Activation.NONE)
        free = Node(of_real.name, of_real.op, of_real.inputs, of_real.outputs, attrs)
    exact = _float64(free, inputs)

    if operator.weight_axis(node) is not None:
        weights = _float64(free, [np.abs(inputs[0]), *off[1:]])
        scales = _quant(integer, node.inputs[1]).scale.astype(np.float64)
        multiplier = _quant(integer, node.inputs[0]).s * scales / out.s
        rounding = out.s * np.array([_steps(m) for m in multiplier])
        return exact, weights + rounding + MULTIPLIER * np.abs(exact)
    if node.op in ("add", "sub"):
        scales = [_quant(integer, name).s for name in node.inputs]
        unit = 2.0 * max(scales) / (1 << 20)
        terms = sum(
            unit * _steps(s / (2.0 * max(scales))) + MULTIPLIER * np.abs(x) for s, x in zip(scales, inputs, strict=True)
        )
        return exact, terms + off[0] + off[1] + out.s * _steps(unit / out.s) + MULTIPLIER * np.abs(exact)
    if node.op == "mul":
        a, b = (_quant(integer, name).s for name in node.inputs)
        constants = off[0] * np.abs(inputs[1]) + off[1] * np.abs(inputs[0])
        return exact, constants + out.s * _steps(a * b / out.s) + MULTIPLIER * np.abs(exact)
    if node.op in ("quantize", "clamp"):
        return exact, out.s * _steps(_quant(integer, node.inputs[0]).s / out.s) + MULTIPLIER * np.abs(exact)
    if node.op == "mean":
        call = operator.call(integer, node)
        assert call is not None
        shift = int(call.fields["shift"])  # type: ignore[arg-type]
        return exact, out.s * (0.5 + (2.0 ** (shift - 1) if shift < 0 else 0.0)) + 2.0**-28 * np.abs(exact)
    if node.op == "average_pool2d":
        return exact, 0.5 * out.s
    if node.op == "softmax":
        return exact, 0.5 * out.s + (exact.shape[-1] + 16) * 2.0**-20
    if node.op == "pad":
        return exact, 0.0 if node.attrs.value == 0 else 0.5 * out.s
    assert node.op in ("max_pool2d", "transpose", "reshape"), node.op
    return exact, 0.0


def _steps(multiplier: float) -> float:
    """Of rounding an accumulator times a multiplier, in output steps."""
    _, shift = quantize_multiplier(float(multiplier))
    return 0.5 + (2.0 ** (shift - 1) if shift < 0 else 0.0)


def _dequantized(integer: Graph, node: Node, index: int) -> Real:
    """A constant's reals as the integer arithmetic uses them: a bias counts in s_x s_w, whatever its own scale says."""
    tensor = integer[node.inputs[index]]
    assert tensor.data is not None
    data = tensor.data.astype(np.float64)
    if index == 2 and REGISTRY[node.op].weight_axis(node) is not None:
        scales = _quant(integer, node.inputs[1]).scale.astype(np.float64)
        return np.asarray(data * _quant(integer, node.inputs[0]).s * scales)
    quant = _quant(integer, node.inputs[index])
    scale = quant.scale.astype(np.float64)
    if quant.axis is not None and scale.size > 1:
        scale = scale.reshape([-1 if axis == quant.axis else 1 for axis in range(data.ndim)])
    return np.asarray(scale * (data - quant.zero_point))


def _float64(node: Node, inputs: list[Real]) -> Real:
    import tensorflow as tf

    return np.asarray(REGISTRY[node.op].tf(node, [tf.constant(x, tf.float64) for x in inputs]), np.float64)
