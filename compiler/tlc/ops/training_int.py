# SPDX-License-Identifier: Apache-2.0
"""The integer-only backward pass: the arithmetic that operators share, and their C calls.

Each function equals ``firmware/src/train/*_s16.c`` bit for bit. A gradient is int16 values with one power-of-two exponent,
found from the values (NITI: Wang et al., arXiv 2009.13108). Sums are exact, so their order does not matter, and are shifted
once, rounding to odd (Boldo and Melquiond, IEEE Trans. Computers 57(4), 2008): shifting in several goes gives the same bits,
which is how the C code finds the scale while it writes. Details: ``firmware/include/tlc/train_int.h`` and docs/learning.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.errors import UsageError
from tlc.graph import Graph, Node, Shape
from tlc.learning import gradient_bytes
from tlc.ops.base import Accumulator, Address, Array, Call, Grad, Rows, Scratch, Table
from tlc.ops.training import Range, limits, random_words, seen_slices, weight_scale

__all__ = [
    "BITS",
    "ONE",
    "Fixed",
    "Site",
    "add_bias_gradient",
    "add_many_to_one",
    "convolution_calls_int",
    "copy_call_int",
    "factor",
    "gradient_bytes",
    "input_gradient",
    "reduce_to",
    "sum_shift",
    "mask_call_int",
    "masked",
    "move",
    "move_calls_int",
    "odd",
    "sgd_factors",
    "sgd_step_int",
    "sum_call_int",
    "take_gradient",
    "through_part",
    "times",
    "weight_gradient",
]

BITS = 15
"""Of a value beside its sign."""
ONE = 4096
"""The scale of exponent 0; scale 0: every value is 0."""
CHUNK = 256
"""Positions of a weights' gradient that are spread out at once."""
PANEL = 8
"""Output channels of one."""
MOST_POSITIONS = 65535
LEAST_BITS = 8
"""Fewer would be left of each value where a sum has too many terms: refused."""

Ints = NDArray[np.int64]
Fields = dict[str, int | float | Table]


def odd(x: Array, shift: int) -> Ints:
    """x / 2^shift, the last bit set where a rest is left."""
    x = np.asarray(x, np.int64)
    shifted: Ints = (x >> shift) | ((x & ((1 << shift) - 1)) != 0)
    return shifted


def times(scale: int, exponent: int) -> int:
    """The scale of what is multiplied by 2^exponent; nothing but zeros stays so."""
    return scale + exponent if scale else 0


def _bits(values: Ints) -> int:
    """What the largest takes beside its sign."""
    return int(np.bitwise_or.reduce((values ^ (values >> 63)).ravel(), initial=0)).bit_length()


def near(x: Array, shift: int) -> Ints:
    """x / 2^shift to the nearest, halves up."""
    x = np.asarray(x, np.int64)
    shifted: Ints = ((x >> (shift - 1)) + 1) >> 1 if shift else x
    return shifted


@dataclass
class Site:
    """A place of the backward pass that writes a gradient whose scale is its own."""

    written: int = 0
    """Static: what comes is shifted right by this; 0: the scale is dynamic."""
    kept: int = 0
    """And what is there by this."""
    scale: int = 0
    """Dynamic: what it was found to be; 0: nothing was written but zeros."""

    def write(self, there: Ints | None, values: Ints, bits: int) -> Ints:
        """The values as a static scale has them, saturated."""
        room = BITS - bits
        result = near(values, min(self.written - room, 31))
        if there is not None:
            result = result + near(there, min(self.kept, 31))
        saturated = np.clip(result, -(1 << BITS), (1 << BITS) - 1)
        return (saturated + (1 << room >> 1)) >> room


@dataclass
class Fixed:
    """A gradient: real = values · 2^(scale − ONE).

    ``values`` int64, of which each fits in int16; ``is_set`` False: nothing was written yet.
    """

    values: Ints
    scale: int = 0
    is_set: bool = False
    whole: Shape | None = None
    """Of a slice: the shape of what is added, of which ``part`` is taken."""
    part: Any = ...
    sites: Iterator[Site] | None = None
    """What adds to it next; None: the scale is dynamic, and nobody wants to know."""
    scaled_at: Iterator[Site] | None = None
    """Of an output's gradient: what writes it once more, times the weights' scales."""

    @staticmethod
    def zeros(shape: Shape, part: Any = ...) -> Fixed:
        """Nothing yet; with ``part`` of a slice of the shape."""
        return Fixed(np.zeros(shape, np.int64)[part], whole=tuple(shape), part=part)

    @property
    def reals(self) -> NDArray[np.float64]:
        """What it stands for."""
        return np.ldexp(self.values.astype(np.float64), self.scale - ONE if self.scale else 0)

    def add(self, values: Ints, scale: int, bits: int = BITS) -> None:
        """Adds exact sums below 2^31; the result is shifted so that ``bits`` are left."""
        values = np.asarray(values).reshape(self.whole or self.values.shape)[self.part]
        there, old, self.is_set = self.is_set, self.scale, True
        site = next(self.sites) if self.sites else Site()
        if site.written:
            self.scale = times(scale, site.written)
            assert not (there and old) or self.scale == old + site.kept, "shifts must meet"
            self.values = site.write(self.values if there else None, values, bits)
            return
        scale += 1
        ahead = old - scale
        if old and ahead > 14:
            scale, fresh = old - 14, min(ahead - 13, 31)
        else:
            fresh = 1
        total = odd(values, fresh)
        if old:
            total = total + (odd(self.values, min(max(-ahead, 0), 31)) << min(max(ahead, 0), 14))
        shift = max(0, _bits(total) - bits)
        self.values, self.scale = odd(total, shift), scale + shift
        site.scale = self.scale if self.values.any() else 0

    def put(self, other: Fixed) -> None:
        """Adds another gradient, or where there is none is it."""
        if self.is_set:
            self.add(other.values.reshape(self.values.shape) << 15, times(other.scale, -15))
        else:
            self.values, self.scale, self.is_set = other.values.reshape(self.values.shape).copy(), other.scale, True


def take_gradient(gradient: NDArray[np.float32]) -> Fixed:
    """The float32 gradient at the cut, by its bits; ``firmware/src/train/take_grad.c``."""
    bits = np.ascontiguousarray(gradient, np.float32).view(np.uint32).astype(np.int64)
    exponents = bits >> 23 & 255
    mantissas = (bits & 0x7FFFFF) | 0x800000
    most = int(exponents.max(initial=0))
    values = np.where(bits >> 31, -mantissas, mantissas)
    shifts = np.minimum(most - exponents + 9, 31)
    q = (values >> shifts) | ((values & ((np.int64(1) << shifts) - 1)) != 0)
    return Fixed(np.where(exponents == 0, 0, q), most - 141 + ONE if most else 0, True)


def factor(real: float) -> tuple[int, int]:
    """A positive real as ``mult · 2^exponent`` with mult of 15 bits."""
    mantissa, exponent = math.frexp(real)
    return min(math.floor(mantissa * 32768 + 0.5), 32767), exponent - 15


# ---- masks and moves ----------------------------------------------------------------------------------------------------


def mask_call_int(graph: Graph, node: Node, reach: Range | None = None) -> list[Call]:
    """As :func:`tlc.ops.training.mask_call`."""
    found = limits(graph, node, reach)
    if found is None:
        return []
    fields: Fields = {"elements": graph[node.output].elements, "low": found[0], "high": found[1]}
    args = (Address(node.output), Grad(node.output, is_output=True))
    return [Call("tlc_mask_grad_s16", "tlc_mask_grad_t", fields, args)]


def masked(graph: Graph, node: Node, output: Array, dy: Fixed, reach: Range | None = None) -> Fixed:
    """The same on arrays."""
    found = limits(graph, node, reach)
    if found is None:
        return dy
    held = (output <= found[0]) | (output >= found[1])
    return replace(dy, values=np.where(held, 0, dy.values))


def copy_call_int(graph: Graph, node: Node, index: int, add: bool) -> Call:
    """The gradient of an input of the output's shape is the output's."""
    return _copy(graph[node.output].elements, Grad(node.output), node.inputs[index], add)


def _copy(elements: int, source: Grad, target: str, add: bool) -> Call:
    fields: Fields = {"elements": elements, "add": int(add)}
    return Call("tlc_copy_grad_s16", "tlc_copy_grad_s16_t", fields, (source, Grad(target, is_output=True)))


def through_part(graph: Graph, call: Call, tensor: str, add: bool) -> list[Call]:
    """A call that sets ``Grad(tensor)``; where that has to be added to, by way of a buffer of its own."""
    if not add:
        return [call]
    whole, part = Grad(tensor, is_output=True), Grad(tensor, is_output=True, part=True)
    args = tuple(part if arg == whole else arg for arg in call.args)
    source = Grad(tensor, part=True)
    return [
        Call(call.function, call.struct, call.fields, args),
        _copy(graph[tensor].elements, source, tensor, True),
    ]


def _shares(scale: float) -> tuple[int, int, int]:
    """A factor of moves as mult, shift, and what the scale grows by; exact where it is a power of two."""
    mult, exponent = factor(abs(scale))
    shift = 14 if mult == 16384 else 15
    return int(math.copysign(mult, scale)), shift, exponent + shift


def move(dy: Fixed, scale: float = 1.0) -> Fixed:
    """scale · dy, wherever the elements go then."""
    mult, shift, exponent = _shares(scale)
    return Fixed(np.minimum(odd(dy.values * mult, shift), 32767), times(dy.scale, exponent), True)


def move_calls_int(
    graph: Graph,
    node: Node,
    index: int,
    loops: NDArray[np.int32],
    *,
    add: bool,
    scale: float = 1.0,
    offset: int = 0,
) -> list[Call]:
    """dx (+)= scale · dy along loops of (count, step of dx, step of dy), one to one or one to many."""
    mult, shift, exponent = _shares(scale)
    x = node.inputs[index]
    fields: Fields = {
        "rank": len(loops),
        "loops": Table(f"loops{index}", loops),
        "offset": offset,
        "mult": mult,
        "shift": shift,
        "exponent": exponent,
    }
    args = (Grad(node.output), Grad(x, is_output=True))
    return through_part(graph, Call("tlc_move_grad_s16", "tlc_move_grad_s16_t", fields, args), x, add)


def _meeting(graph: Graph, node: Node, index: int) -> int:
    """How many elements of dy go to one of dx."""
    return max(1, graph[node.output].elements // graph[node.inputs[index]].elements)


def sum_call_int(graph: Graph, node: Node, index: int, loops: NDArray[np.int32], *, add: bool, sign: int) -> Call:
    """dx (+)= ± dy summed along loops of (count, step of dx, step of dy)."""
    shift = sum_shift(_meeting(graph, node, index), BITS)
    elements = graph[node.inputs[index]].elements
    fields: Fields = {
        "rank": len(loops),
        "loops": Table(f"loops{index}", loops),
        "elements": elements,
        "mult": sign,
        "shift": shift,
        "exponent": shift,
        "add": int(add),
    }
    args = (Grad(node.output), Grad(node.inputs[index], is_output=True), Scratch(4 * elements))
    return Call("tlc_sum_grad_s16", "tlc_move_grad_s16_t", fields, args)


def sum_shift(terms: int, bits: int) -> int:
    """What comes off each term so that ``terms`` of them, each up to 2^bits, sum to less than 2^31."""
    return max(0, (terms - 1).bit_length() + bits - 30)


def add_many_to_one(dx: Fixed, dy: Fixed, sign: int) -> None:
    """dx += sign · dy, whose shape dx was broadcast to."""
    shift = sum_shift(max(1, dy.values.size // dx.values.size), BITS)
    dx.add(sign * reduce_to(odd(dy.values, shift), dx.values.shape), times(dy.scale, shift))


def reduce_to(terms: Ints, shape: Shape) -> Ints:
    """Terms summed over the axes along which a shape was broadcast to theirs."""
    full = (1,) * (terms.ndim - len(shape)) + tuple(shape)
    axes = tuple(axis for axis, n in enumerate(full) if n != terms.shape[axis])
    summed: Ints = terms.sum(axis=axes, keepdims=True).reshape(shape)
    return summed


# ---- layers with weights ------------------------------------------------------------------------------------------------


def _scale_table(graph: Graph, node: Node) -> tuple[NDArray[np.int16], int]:
    """The weights' scales as mult · 2^exponent, (channels,) or (1,)."""
    scale = weight_scale(graph, node).astype(np.float64)
    _, exponent = math.frexp(float(scale.max()))
    mult = np.minimum(np.floor(np.ldexp(scale, 15 - exponent) + 0.5), 32767)
    return mult.astype(np.int16), exponent - 15


def _kept_bits(node: Node, terms: int) -> int:
    """Bits of the output's gradient so that ``terms`` of its products with int8 weights sum to less than 2^31."""
    bits = min(BITS, 24 - terms.bit_length())
    if bits < LEAST_BITS:
        raise UsageError(
            f"an input's gradient is a sum of {terms:,} products, too many for int32",
            where=f"{node.op} '{node.name}'",
            remedy="--train-arithmetic float, or let only this and later layers learn",
        )
    return bits


def _headroom(node: Node, positions: int) -> int:
    """Bits to take off the output's gradient so that its products with x − zero point sum to less than 2^31."""
    if positions > MOST_POSITIONS:
        raise UsageError(
            f"a weight's gradient is a sum over {positions:,} positions, and {MOST_POSITIONS:,} is the most",
            where=f"{node.op} '{node.name}'",
            remedy="--train-arithmetic float, or let other layers learn",
        )
    return max(0, (positions - 1).bit_length() - 8)


def _terms(graph: Graph, node: Node, groups: int) -> int:
    """Products in the sum that is an input's gradient, at most."""
    weight = graph[node.inputs[1]]
    if node.op == "dense":
        return weight.shape[0]
    taps = weight.shape[1] * weight.shape[2]
    return taps * (graph[node.output].shape[-1] // groups)


def convolution_calls_int(
    graph: Graph,
    node: Node,
    wanted: frozenset[int],
    adding: frozenset[int],
    geometry: Mapping[str, int | float | Table],
    rows: Rows,
) -> list[Call]:
    """The backward pass of a layer. The input's gradient comes last: the output's is scaled for it in place."""
    window = {key: int(value) for key, value in geometry.items() if not isinstance(value, Table)}
    depthwise = node.op == "depthwise_conv2d"
    kind = "depthwise_conv2d" if depthwise else "conv2d"
    positions, channels, groups = window["out_h"] * window["out_w"], window["out_c"], window["groups"]
    calls = mask_call_int(graph, node)
    whole = {"out_first": 0, "outs": channels, "in_first": 0, "ins": window["in_c"] // groups}
    if 1 in wanted:
        if depthwise:
            fields: Fields = {**window, **whole, "headroom": _headroom(node, positions)}
            scratch = 2 * (positions + _covered(window, window["out_h"], window["out_w"]))
        else:
            row = window["kernel_h"] * window["kernel_w"] * window["in_c"] // groups
            chunk = min(CHUNK, positions + positions % 2)
            fields = {**window, **whole, "headroom": _headroom(node, positions), "chunk": chunk}
            scratch = 2 * (PANEL + 4) * chunk + (4 * PANEL * row if positions > chunk else 0)
        args = (Address(node.inputs[0]), Grad(node.output), Accumulator(node.inputs[1]), Scratch(scratch))
        calls.append(Call(f"tlc_{kind}_weight_grad_s16", "tlc_conv2d_grad_s16_t", fields, args))
    if 2 in wanted:
        _headroom(node, positions)
        sums: Fields = {"rows": positions, "channels": channels, "out_first": 0, "outs": channels}
        through = (Grad(node.output), Accumulator(node.inputs[2]))
        calls.append(Call("tlc_bias_grad_s16", "tlc_bias_grad_s16_t", sums, through))
    if 0 in wanted:
        mult, exponent = _scale_table(graph, node)
        scales: Fields = {
            "rows": positions,
            "channels": channels,
            "mult": Table("scale_mult", mult),
            "exponent": exponent,
            "bits": _kept_bits(node, _terms(graph, node, groups)),
            "per_channel": int(len(mult) > 1),
        }
        scaled = (Grad(node.output, is_output=True),)
        calls.append(Call("tlc_scale_grad_s16", "tlc_scale_grad_s16_t", scales, scaled))
        taps = window["kernel_h"] * window["kernel_w"]
        if depthwise:
            size = (window["in_h"] + (window["kernel_h"] - 1) * window["dilation_h"]) * (
                window["in_w"] + (window["kernel_w"] - 1) * window["dilation_w"]
            )
            columns = window["kernel_w"] + window["kernel_w"] % 2
            scratch = 2 * (window["kernel_h"] * columns + size + 1)
            scratch += 4 * window["in_h"] * window["in_w"] if channels != window["in_c"] else 0
        else:
            share = channels // groups
            scratch = 8 * taps * (share + share % 2)
        fields = {**window, "add": int(0 in adding)}
        same = graph[node.output].shape == graph[node.inputs[0]].shape
        function = f"tlc_{kind}_{'in_place' if depthwise and same and 0 not in adding else 'input'}_grad_s16"
        last = (rows, Grad(node.output, is_output="in_place" in function), Grad(node.inputs[0], is_output=True))
        calls.append(Call(function, "tlc_conv2d_grad_s16_t", fields, (*last, Scratch(scratch))))
    return calls


def _covered(window: Mapping[str, int], height: int, width: int) -> int:
    rows = (height - 1) * window["stride_h"] + (window["kernel_h"] - 1) * window["dilation_h"] + 1
    return rows * ((width - 1) * window["stride_w"] + (window["kernel_w"] - 1) * window["dilation_w"] + 1)


def add_bias_gradient(total: Fixed, dy: Fixed) -> None:
    """total (channels) += Σ over positions of dy (…, channels)."""
    total.add(dy.values.reshape(-1, dy.values.shape[-1]).sum(axis=0), dy.scale)


def weight_gradient(
    node: Node, attrs: Any, x: Array, dy: Fixed, groups: int, kernel: Sequence[int]
) -> tuple[Ints, int]:
    """Σ over positions of dy (OH, OW, OC) · x (H, W, C), which is less its zero point → (OC, KH, KW, C / groups), scale."""
    channels, depth = dy.values.shape[2], x.shape[2] // groups
    kh, kw = kernel
    height, width = dy.values.shape[:2]
    headroom = _headroom(node, height * width)
    gradients = odd(dy.values, headroom).reshape(height * width, groups, -1).transpose(1, 2, 0).astype(np.float64)
    top, left, bottom, right = attrs.pads
    padded = np.pad(x, ((top, bottom), (left, right), (0, 0))).astype(np.float64)
    result = np.zeros((groups, channels // groups, kh, kw, depth), np.int64)
    for ky in range(kh):
        for kx in range(kw):
            y0, x0 = ky * attrs.dilations[0], kx * attrs.dilations[1]
            seen = padded[y0:, x0:][:: attrs.strides[0], :: attrs.strides[1]][:height, :width]
            taken = seen.reshape(height * width, groups, depth).transpose(1, 0, 2)
            result[:, :, ky, kx] = gradients @ taken  # exact: below 2^31
    return result.reshape(channels, kh, kw, depth), times(dy.scale, headroom)


def scaled(graph: Graph, node: Node, dy: Fixed, groups: int) -> Fixed:
    """dy times the weights' scales, with the bits that the sums have room for."""
    mult, exponent = _scale_table(graph, node)
    result = Fixed.zeros(dy.values.shape)
    result.sites = dy.scaled_at
    bits = _kept_bits(node, _terms(graph, node, groups))
    result.add(dy.values * mult.astype(np.int64), times(dy.scale, exponent), bits)
    return result


def input_gradient(
    graph: Graph, node: Node, attrs: Any, w: Array, dy: Fixed, groups: int, size: Sequence[int]
) -> tuple[Ints, int]:
    """scales · w (OC, KH, KW, C / groups) over dy (OH, OW, OC) → dx (H, W, C) of a size (H, W), scale."""
    dy = scaled(graph, node, dy, groups)
    height, width = size
    channels, kh, kw, depth = w.shape
    total = np.zeros((height, width, groups, depth), np.float64)
    weights = w.reshape(groups, -1, kh, kw, depth).astype(np.float64)
    gradients = dy.values.reshape(*dy.values.shape[:2], groups, channels // groups).astype(np.float64)
    for ky in range(kh):
        for kx in range(kw):
            y = ky * attrs.dilations[0] - attrs.pads[0]
            x = kx * attrs.dilations[1] - attrs.pads[1]
            rows, ys = seen_slices(y, attrs.strides[0], height, dy.values.shape[0])
            columns, xs = seen_slices(x, attrs.strides[1], width, dy.values.shape[1])
            total[ys, xs] += np.einsum("yxgo,goc->yxgc", gradients[rows, columns], weights[:, :, ky, kx])
    return total.reshape(height, width, -1).astype(np.int64), dy.scale


# ---- the optimizer ------------------------------------------------------------------------------------------------------


def sgd_factors(unit: NDArray[np.float32], input_scale: float) -> tuple[NDArray[np.uint16], NDArray[np.int16]]:
    """Steps of an integer per unit of rate · gradient as mult · 2^shift, mult in [2^15, 2^16).

    Args:
        unit: steps per unit of rate · d loss / d real (:func:`tlc.ops.training.integer_steps`).
        input_scale: for a weight the scale of its layer's input, which its gradient lacks; for a bias 1.
    """
    mantissas, exponents = np.frexp(unit.astype(np.float64) * input_scale)
    mult = np.minimum(np.floor(mantissas * 65536 + 0.5), 65535)
    return mult.astype(np.uint16), (exponents - 16).astype(np.int16)


def _rate(learning_rate: float, samples: int) -> tuple[int, int]:
    """learning_rate / samples as mult · 2^shift, mult of 16 bits; 0 for what is no step."""
    bits = int(np.array([learning_rate], np.float32).view(np.uint32)[0])
    exponent = bits >> 23
    if exponent == 0 or exponent >= 255:
        return 0, 0
    quotient = (((bits & 0x7FFFFF) | 0x800000) << 8) // samples
    over = quotient.bit_length() - 16
    return quotient >> over if over > 0 else quotient << -over, exponent - 158 + over


def _momentum(momentum: float) -> int:
    """As 16 bits of a fraction."""
    bits = int(np.array([momentum], np.float32).view(np.uint32)[0])
    exponent, mantissa = bits >> 23, (bits & 0x7FFFFF) | 0x800000
    if exponent < 110 or exponent >= 255:
        return 0
    return 65535 if exponent > 126 else min(((mantissa >> (133 - exponent)) + 1) >> 1, 65535)


def _round_stochastically(x: Ints, right: Ints, random: Ints, limit: int) -> Ints:
    """floor(x · 2^-right + u) with u uniform in [0, 1) made from the random words, cut at the limit."""
    left = np.clip(x << np.clip(-right, 0, 30), -limit, limit)
    left = np.where(right < -30, np.sign(x) * limit, left)
    whole = x >> np.clip(right, 0, 31)
    fraction = np.where(right < 32, x << np.clip(32 - right, 0, 32), x >> np.clip(right - 32, 0, 31)) & 0xFFFFFFFF
    down = np.clip(whole + (random < fraction), -limit, limit)
    return np.where(right <= 0, left, down)


def sgd_step_int(
    value: Array,
    gradient: Fixed,
    unit: NDArray[np.float32],
    *,
    input_scale: float,
    learning_rate: float,
    samples: int,
    step: int,
    seed: int,
    salt: int,
    momentum: float = 0.0,
    velocity: Array | None = None,
    residual: Array | None = None,
) -> Array:
    """A step on a tensor's integers, laid out one row an output channel; ``firmware/src/train/sgd_int.c``.

    Args:
        value: (rows, …) int8 weights or (rows,) int32 biases.
        gradient: of the same shape, summed over ``samples``.
        unit, input_scale: as :func:`sgd_factors` takes them, (rows,) or (1,).
        momentum: below 1.
        velocity: int16 of weights, int32 of biases, in units of 1/256 of a step, updated in place; None: no momentum.
        residual: of weights, int8, updated in place: what they have not moved yet, in the same units; None: steps are rounded
            stochastically.
    """
    rows = len(value)
    weight = value.dtype == np.int8
    mult, shift = sgd_factors(unit, input_scale)
    rate, rate_shift = _rate(learning_rate, samples)
    mults = np.broadcast_to((rate * mult.astype(np.int64)) >> 16, (rows,))
    rights = np.broadcast_to(-(rate_shift + shift.astype(np.int64) + 16 + gradient.scale - ONE), (rows,))
    side = (rows, *[1] * (value.ndim - 1))
    x = gradient.values.reshape(value.shape) * mults.reshape(side)
    right = np.broadcast_to(rights.reshape(side), value.shape)
    random = random_words(seed, step, salt, value.size).reshape(value.shape).astype(np.int64)
    if velocity is None and residual is None:
        whole = _round_stochastically(x, right, random, 1 << 24)
    else:
        fine = _round_stochastically(x, right - 8, random, 1 << (24 if weight else 30))
        if velocity is not None:
            kept = (velocity.astype(np.int64) * _momentum(momentum) + (random >> 16)) >> 16
            low, high = (-(1 << 15), (1 << 15) - 1) if weight else (-(1 << 30), 1 << 30)
            fine = np.clip(kept + fine, low, high)
            velocity[...] = fine
        if residual is None:
            whole = (fine + (random & 255)) >> 8
        else:
            fine = fine + residual
            whole = (fine + 128) >> 8
            residual[...] = fine - whole * 256
    most = 127 if weight else 1 << 30
    stepped: Array = np.clip(value.astype(np.int64) - whole, -most, most).astype(value.dtype)
    return stepped
