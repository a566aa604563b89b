# SPDX-License-Identifier: Apache-2.0
"""Softmax over the last axis, in TFLM's fixed point.

exp and the reciprocal are those of gemmlowp's ``fixedpoint.h``: an exp of the distance to the row's maximum from a
degree-4 polynomial on [−1/4, 0) and one multiplication for each higher bit, and three Newton-Raphson steps for 1/(1 + x).
"Qm" below is a fixed-point number with m integer bits, 31 − m fraction bits and a sign.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.graph import Graph, Node, Quant, Shape
from tlc.ops.base import (
    Address,
    Array,
    Call,
    Grad,
    Operator,
    Scratch,
    Table,
    quantize_multiplier,
    requantize,
    rounding_divide_by_pot,
    saturating_rounding_doubling_high_mul,
)
from tlc.ops.training import exp_f32
from tlc.ops.training_int import Fixed, factor, odd, times

DIFF_BITS = 5
"""Integer bits of a distance to the maximum: below −32 an exp is 0."""
SUM_BITS = 12
"""Integer bits of the sum of exps, each of which is at most 1."""
MAX_CLASSES = (1 << SUM_BITS) - 1
OUTPUT = Quant.per_tensor(1.0 / 256.0, -128)
MAX_DIFF = 255
INT32_MAX = (1 << 31) - 1


def sum_has_room(graph: Graph, node: Node) -> str | None:
    """The last axis must have at most 4095 values."""
    classes = graph[node.inputs[0]].shape[-1]
    return f"it has {classes}" if classes > MAX_CLASSES else None


def output_is_a_probability(graph: Graph, node: Node) -> str | None:
    """The int8 output must have scale 1/256 and zero point -128."""
    quant = graph[node.output].quant
    if quant is None or quant.same(OUTPUT):
        return None
    return f"they are {quant.s:g} and {quant.zero_point}"


@dataclass(frozen=True)
class Attrs:
    """Input: x (..., classes)."""

    beta: float = 1.0


class Softmax(Operator):
    """exp(beta · x) / Σ exp(beta · x) over the last axis."""

    name = "softmax"
    Attrs = Attrs
    rules = (sum_has_room, output_is_a_probability)
    in_place = True

    def infer(self, graph: Graph, node: Node) -> Shape:
        return graph[node.inputs[0]].shape

    def output_quant(self, inputs: Sequence[Quant]) -> Quant:
        return OUTPUT

    def tf(self, node: Node, inputs: Sequence[Any]) -> Any:
        import tensorflow as tf

        return tf.nn.softmax(inputs[0] * node.attrs.beta)

    def int8(self, graph: Graph, node: Node, inputs: Sequence[Array]) -> Array:
        quant = graph[node.inputs[0]].quant
        assert quant
        x = inputs[0].astype(np.int64)
        distance = x.max(axis=-1, keepdims=True) - x
        multiplier, shift, diff_min = scaling(quant, node.attrs.beta)
        # There are only 256 distances: their exps are a table, 0 where they are too far.
        diffs = -np.arange(MAX_DIFF + 1)
        near = diffs >= diff_min
        table = np.where(near, exp_on_negative_values(requantize(np.where(near, diffs, 0), multiplier, shift)), 0)
        exps = table[distance]
        total = np.where(near, rounding_divide_by_pot(table, SUM_BITS), 0)[distance].sum(axis=-1, keepdims=True)
        zeros = 32 - np.frexp(total.astype(np.float64))[1].astype(np.int64)  # before the leading one, in 32 bits
        scale = one_over_one_plus_x((total << zeros) - (1 << 31))
        # 8 bits of fraction stay. Above 31 even the largest product rounds to 0: there, TFLM aborts.
        exponent = SUM_BITS - zeros + 31 - 8
        product = saturating_rounding_doubling_high_mul(scale, exps)
        y = np.where(exponent > 31, 0, rounding_divide_by_pot(product, np.minimum(exponent, 31)))
        clamped: Array = np.clip(y - 128, -128, 127).astype(np.int8)
        return clamped

    def call(self, graph: Graph, node: Node) -> Call:
        x = graph[node.inputs[0]]
        assert x.quant
        multiplier, shift, diff_min = scaling(x.quant, node.attrs.beta)
        return Call(
            "tlc_softmax_s8",
            "tlc_softmax_t",
            {
                "rows": x.elements // x.shape[-1],
                "classes": x.shape[-1],
                "mult": multiplier,
                "shift": shift,
                "diff_min": diff_min,
            },
            (Address(x.name), Address(node.output, is_output=True)),
        )

    def backward(self, graph: Graph, node: Node, wanted: frozenset[int], adding: frozenset[int]) -> list[Call] | None:
        x = graph[node.inputs[0]]
        assert x.quant
        fields: dict[str, int | float | Table] = {
            "rows": x.elements // x.shape[-1],
            "classes": x.shape[-1],
            "scale": _step(x.quant, node.attrs.beta),
            "beta": float(np.float32(node.attrs.beta)),
            "add": int(0 in adding),
        }
        args = (Address(x.name), Grad(node.output), Grad(x.name, is_output=True), Scratch(4 * x.shape[-1]))
        return [Call("tlc_softmax_grad_f32", "tlc_softmax_grad_t", fields, args)]

    def gradient(
        self, graph: Graph, node: Node, inputs: Sequence[Array], output: Array, dy: Array, sums: Mapping[int, Array]
    ) -> None:
        quant = graph[node.inputs[0]].quant
        assert quant
        x, classes = inputs[0].astype(np.int32), inputs[0].shape[-1]
        exps = exp_f32(
            (x - x.max(axis=-1, keepdims=True)).astype(np.float32) * np.float32(_step(quant, node.attrs.beta))
        )
        total, dot = (np.zeros((*x.shape[:-1], 1), np.float32) for _ in range(2))
        for c in range(classes):  # in order
            total += exps[..., c : c + 1]
            dot += dy[..., c : c + 1] * exps[..., c : c + 1]
        inverse = np.float32(1) / total
        sums[0][...] += exps * inverse * (dy - dot * inverse) * np.float32(node.attrs.beta)

    def backward_int(
        self, graph: Graph, node: Node, wanted: frozenset[int], adding: frozenset[int]
    ) -> list[Call] | None:
        x = graph[node.inputs[0]]
        assert x.quant
        multiplier, shift, diff_min = scaling(x.quant, node.attrs.beta)
        beta, exponent = factor(float(np.float32(node.attrs.beta)))
        fields: dict[str, int | float | Table] = {
            "rows": x.elements // x.shape[-1],
            "classes": x.shape[-1],
            "mult": multiplier,
            "shift": shift,
            "diff_min": diff_min,
            "beta": beta,
            "exponent": exponent + 1,
            "add": int(0 in adding),
        }
        args = (Address(x.name), Grad(node.output), Grad(x.name, is_output=True), Scratch(4 * x.shape[-1]))
        return [Call("tlc_softmax_grad_s16", "tlc_softmax_grad_s16_t", fields, args)]

    def gradient_int(
        self, graph: Graph, node: Node, inputs: Sequence[Array], output: Array, dy: Fixed, sums: Mapping[int, Fixed]
    ) -> None:
        quant = graph[node.inputs[0]].quant
        assert quant
        multiplier, shift, diff_min = scaling(quant, node.attrs.beta)
        beta, exponent = factor(float(np.float32(node.attrs.beta)))
        x = inputs[0].astype(np.int64)
        apart = x - x.max(axis=-1, keepdims=True)
        exps = np.where(apart < diff_min, 0, exp_on_negative_values(requantize(apart, multiplier, shift)))
        shares = np.minimum((exps << 31) // exps.sum(axis=-1, keepdims=True), INT32_MAX)
        mean = (dy.values * shares).sum(axis=-1, keepdims=True)
        value = odd(((dy.values * (1 << 31) - mean) >> 16) * shares, 32)
        sums[0].add(odd(value * beta, 15), times(dy.scale, exponent + 1))


def _step(quant: Quant, beta: float) -> float:
    """What one integer step of the logits adds to an exponent, as a float32."""
    return float(np.float32(np.float32(beta) * np.float32(quant.s)))


def scaling(quant: Quant, beta: float) -> tuple[int, int, int]:
    """The multiplier and shift from a distance in integers to Q5, and the least distance whose exp is not taken as 0.

    Source: ``PreprocessSoftmaxScaling`` and ``CalculateInputRadius`` of TFLite, at 5 integer bits.
    """
    one = float(1 << (31 - DIFF_BITS))
    multiplier, shift = quantize_multiplier(min(float(np.float32(beta)) * quant.s * one, float(INT32_MAX)))
    radius = math.floor(((1 << DIFF_BITS) - 1) * one / 2.0**shift)
    return multiplier, shift, -min(radius, MAX_DIFF)


def _mul(a: Array, b: Array | int) -> Array:
    """Qm · Qn → Q(m + n)."""
    return saturating_rounding_doubling_high_mul(a, b)


def _shift_left(x: Array, bits: int) -> Array:
    """Saturating."""
    shifted: Array = np.clip(x << bits, -(1 << 31), INT32_MAX)
    return shifted


def _q31(real: float) -> int:
    return math.floor(real * 2.0**31 + 0.5)


def exp_on_negative_values(x: NDArray[np.int64]) -> NDArray[np.int64]:
    """exp of Q5 values ≤ 0, as Q0."""
    quarter = 1 << (31 - DIFF_BITS - 2)
    within = (x & (quarter - 1)) - quarter  # in [−1/4, 0); the rest is a multiple of 1/4
    rest = within - x
    result = _exp_on_last_quarter(_shift_left(within, DIFF_BITS))
    for bit in range(DIFF_BITS + 2):
        taken = (rest & (quarter << bit)) != 0
        result = np.where(taken, _mul(result, _q31(math.exp(-(2.0 ** (bit - 2))))), result)
    return np.where(x == 0, INT32_MAX, result)


def _exp_on_last_quarter(a: Array) -> Array:
    """exp of Q0 values in [−1/4, 0), by its series around −1/8."""
    x = a + (1 << 28)
    x2 = _mul(x, x)
    x3 = _mul(x2, x)
    x4 = _mul(x2, x2)
    inner = _mul(rounding_divide_by_pot(x4, 2) + x3, _q31(1.0 / 3.0)) + x2  # x⁴/12 + x³/3 + x²
    at_center = _q31(math.exp(-1.0 / 8.0))
    return at_center + _mul(x + rounding_divide_by_pot(inner, 1), at_center)


def one_over_one_plus_x(x: Array) -> Array:
    """1 / (1 + x) for Q0 values in [0, 1), as Q0: Newton-Raphson from 48/17 − 32/17 · d, d = (1 + x) / 2."""
    half = (x + INT32_MAX + 1) >> 1
    q2 = 1 << 29
    guess = math.floor(48.0 / 17.0 * q2 + 0.5) + _mul(half, -math.floor(32.0 / 17.0 * q2 + 0.5))
    for _ in range(3):
        guess = guess + _shift_left(_mul(guess, q2 - _mul(half, guess)), 2)
    return _shift_left(guess, 1)
