# SPDX-License-Identifier: Apache-2.0
"""What operators share in the backward pass: masks, moves, layers with weights, and the optimizer.

Each equals ``firmware/src/train`` bit for bit. Gradients are float32 with respect to reals. NumPy and C agree because every
sum runs in one stated order and products are rounded before they are added (no fused multiply-add).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.graph import Graph, Node
from tlc.ops.base import (
    Accumulator,
    Activation,
    Address,
    Array,
    Call,
    Grad,
    Rows,
    Scratch,
    Slice,
    Table,
    activation_range,
)

__all__ = [
    "Range",
    "add_input_gradient",
    "add_over",
    "add_weight_gradient",
    "bias_call",
    "convolution_calls",
    "copy_call",
    "exp_f32",
    "integer_steps",
    "limits",
    "log_f32",
    "mask",
    "mask_call",
    "move_call",
    "narrowed",
    "random_words",
    "real_range",
    "round_stochastically",
    "seen_slices",
    "sgd_step",
    "sqrt_f32",
    "sum_of_squares",
    "sum_rows",
    "weight_scale",
]

Float = NDArray[np.float32]
Range = tuple[float, float]
"""Lowest and highest real."""


# ---- masks --------------------------------------------------------------------------------------------------------------


def real_range(graph: Graph, name: str) -> Range:
    """What the integers of a tensor can stand for; of a constant, what they do."""
    tensor = graph[name]
    assert tensor.quant is not None
    least, most = (-128, 127) if tensor.data is None else (int(tensor.data.min()), int(tensor.data.max()))
    return (least - tensor.quant.zero_point) * tensor.quant.s, (most - tensor.quant.zero_point) * tensor.quant.s


def limits(graph: Graph, node: Node, reach: Range | None) -> tuple[int, int] | None:
    """The integers at which the output is held back; None where it never is."""
    activation: Activation = getattr(node.attrs, "activation", Activation.NONE)
    quant = graph[node.output].quant
    assert quant is not None
    low, high = activation.bounds
    least, most = activation_range(activation, quant)
    if not np.isfinite(low) and reach is not None and reach[0] >= (-128.5 - quant.zero_point) * quant.s:
        least = -129
    if not np.isfinite(high) and reach is not None and reach[1] <= (127.5 - quant.zero_point) * quant.s:
        most = 128
    return None if (least, most) == (-129, 128) else (least, most)


def mask_call(graph: Graph, node: Node, reach: Range | None = None) -> list[Call]:
    """Zeroes ``Grad(output)`` where the fused activation was active or int8 saturated; no call where neither can be.

    Args:
        reach: between which reals the output would lie without a clamp, where that is known.
    """
    held = limits(graph, node, reach)
    if held is None:
        return []
    fields: dict[str, int | float | Table] = {
        "elements": graph[node.output].elements,
        "low": held[0],
        "high": held[1],
    }
    args = (Address(node.output), Grad(node.output, is_output=True))
    return [Call("tlc_mask_grad_f32", "tlc_mask_grad_t", fields, args)]


def mask(graph: Graph, node: Node, output: Array, dy: Float, reach: Range | None = None) -> Float:
    """The same on arrays: straight-through inside the clamp, zero at its ends and beyond.

    An integer at an end may stand for a real just inside as well as for any beyond; most are beyond.
    """
    held = limits(graph, node, reach)
    if held is None:
        return dy
    return np.where((output <= held[0]) | (output >= held[1]), np.float32(0), dy)


# ---- moves --------------------------------------------------------------------------------------------------------------


def copy_call(graph: Graph, node: Node, index: int, add: bool) -> Call:
    """The gradient of an input of the output's shape is the output's."""
    fields: dict[str, int | float | Table] = {"elements": graph[node.output].elements, "add": int(add)}
    args = (Grad(node.output), Grad(node.inputs[index], is_output=True))
    return Call("tlc_copy_grad_f32", "tlc_copy_grad_t", fields, args)


def move_call(
    graph: Graph,
    node: Node,
    index: int,
    loops: NDArray[np.int32],
    *,
    add: bool,
    scale: float = 1.0,
    offset: int = 0,
    many_to_one: bool = False,
) -> Call:
    """dx (+)= scale · dy along loops of (count, step of dx, step of dy)."""
    fields: dict[str, int | float | Table] = {
        "rank": len(loops),
        "loops": Table(f"loops{index}", loops),
        "offset": offset,
        "clear": graph[node.inputs[index]].elements if many_to_one and not add else 0,
        "scale": float(np.float32(scale)),
        "add": int(add or many_to_one),
    }
    args = (Grad(node.output), Grad(node.inputs[index], is_output=True))
    return Call("tlc_move_grad_f32", "tlc_move_grad_t", fields, args)


def add_over(dx: Float, terms: Float) -> None:
    """dx += terms, whose shape it was broadcast to; terms of one element in the order in which they lie."""
    shape = (1,) * (terms.ndim - dx.ndim) + dx.shape
    to = dx.reshape(shape)
    if shape == terms.shape:
        to += terms
        return
    reduced = [axis for axis, n in enumerate(shape) if n != terms.shape[axis]]
    for index in np.ndindex(*(terms.shape[axis] for axis in reduced)):
        at: list[Any] = [slice(None)] * terms.ndim
        for axis, i in zip(reduced, index, strict=True):
            at[axis] = slice(i, i + 1)
        to += terms[tuple(at)]


# ---- layers with weights ------------------------------------------------------------------------------------------------


def weight_scale(graph: Graph, node: Node) -> Float:
    """The scale of each output channel, (channels,), or the one of all, (1,)."""
    quant = graph[node.inputs[1]].quant
    assert quant is not None
    return quant.scale


def bias_call(graph: Graph, node: Node) -> Call:
    """The bias's gradient: the output's, summed over positions."""
    output = graph[node.output]
    channels = output.shape[-1]
    return Call(
        "tlc_bias_grad_f32",
        "tlc_bias_grad_t",
        {"rows": output.elements // channels, "channels": channels, "out_first": 0, "outs": channels},
        (Grad(node.output), Accumulator(node.inputs[2])),
    )


def sum_rows(dy: Float) -> Float:
    """Σ over all axes but the last, first position first: (…, channels) → (channels)."""
    total = np.zeros(dy.shape[-1], np.float32)
    for row in dy.reshape(-1, dy.shape[-1]):
        total += row
    return total


def convolution_calls(
    graph: Graph,
    node: Node,
    wanted: frozenset[int],
    adding: frozenset[int],
    geometry: Mapping[str, int | float | Table],
    rows: Rows,
    plane: int = 0,
) -> list[Call]:
    """The backward pass of a convolution, depthwise or not. The input's gradient comes last: it rescales the output's.

    Args:
        plane: bytes of scratch for the form that works a channel at a time; 0: the general one.
    """
    quant = graph[node.inputs[0]].quant
    assert quant is not None
    calls = mask_call(graph, node)
    if 1 in wanted:
        args = (Address(node.inputs[0]), Grad(node.output), Accumulator(node.inputs[1]))
        outs, ins = graph[node.output].shape[-1], graph[node.inputs[0]].shape[-1] // int(str(geometry["groups"]))
        fields = {**geometry, "in_scale": float(quant.s), "out_first": 0, "outs": outs, "in_first": 0, "ins": ins}
        calls.append(Call(f"tlc_{node.op}_weight_grad_f32", "tlc_conv2d_grad_t", fields, args))
    if 2 in wanted:
        calls.append(bias_call(graph, node))
    if 0 in wanted:
        scale = weight_scale(graph, node)
        fields = {
            **geometry,
            "w_scale": Table("w_scale", scale),
            "per_channel": int(len(scale) > 1),
            "add": int(0 in adding),
        }
        function = f"tlc_{node.op}_input_grad_f32"
        through: tuple[Any, ...] = (rows, Grad(node.output, is_output=True), Grad(node.inputs[0], is_output=True))
        if plane:
            function = f"tlc_{node.op}_plane_grad_f32"
            through += (Scratch(plane),)
        calls.append(Call(function, "tlc_conv2d_grad_t", fields, through))
    return calls


def narrowed(call: Call, part: Slice) -> Call:
    """The gradient of a slice of the weight or bias whose gradient a call gives."""
    first, last = part.outs
    fields: dict[str, int | float | Table] = {**call.fields, "out_first": first, "outs": last - first}
    if part.ins is not None:
        fields |= {"in_first": part.ins[0], "ins": part.ins[1] - part.ins[0]}
    return dataclasses.replace(call, fields=fields)


def add_weight_gradient(attrs: Any, x: Float, dy: Float, scale: float, groups: int, total: Float) -> None:
    """total (OC, KH, KW, C / groups) += scale · Σ over positions, in order, of dy (OH, OW, OC) · x (H, W, C)."""
    channels, kh, kw, depth = total.shape
    top, left, bottom, right = attrs.pads
    # Zeros around the image: adding their products changes nothing.
    padded = np.pad(x, ((top, bottom), (left, right), (0, 0)))
    span_h, span_w = ((k - 1) * d + 1 for k, d in zip((kh, kw), attrs.dilations, strict=True))
    result = np.zeros((groups, channels // groups, kh, kw, depth), np.float32)
    for oy in range(dy.shape[0]):
        for ox in range(dy.shape[1]):
            y0, x0 = oy * attrs.strides[0], ox * attrs.strides[1]
            seen = padded[y0 : y0 + span_h : attrs.dilations[0], x0 : x0 + span_w : attrs.dilations[1]]
            patch = seen.reshape(kh, kw, groups, depth).transpose(2, 0, 1, 3)[:, None]
            result += dy[oy, ox].reshape(groups, -1, 1, 1, 1) * patch
    total += result.reshape(total.shape) * np.float32(scale)


def add_input_gradient(attrs: Any, w: Array, dy: Float, groups: int, dx: Float) -> None:
    """dx (H, W, C) += w (OC, KH, KW, C / groups) over dy (OH, OW, OC), which is scaled already.

    Summed over the output channels of a group, and for each over the taps.
    """
    height, width, _ = dx.shape
    channels, kh, kw, depth = w.shape
    grouped = dx.reshape(height, width, groups, depth)
    weights = w.reshape(groups, -1, kh, kw, depth).astype(np.float32)
    gradients = dy.reshape(*dy.shape[:2], groups, channels // groups)
    for o in range(channels // groups):
        for ky in range(kh):
            for kx in range(kw):
                y = ky * attrs.dilations[0] - attrs.pads[0]
                x = kx * attrs.dilations[1] - attrs.pads[1]
                rows, ys = seen_slices(y, attrs.strides[0], height, dy.shape[0])
                columns, xs = seen_slices(x, attrs.strides[1], width, dy.shape[1])
                grouped[ys, xs] += gradients[rows, columns, :, o][..., None] * weights[:, o, ky, kx]


def seen_slices(offset: int, stride: int, size: int, outputs: int) -> tuple[slice, slice]:
    """The outputs whose tap lies inside the image, and what they see."""
    first = -(offset // stride) if offset < 0 else 0
    last = max(first, min(outputs, -(-(size - offset) // stride)))
    start = first * stride + offset
    return slice(first, last), slice(start, start + (last - first) * stride, stride) if last > first else slice(0, 0)


# ---- functions ----------------------------------------------------------------------------------------------------------


def exp_f32(x: Float) -> Float:
    """exp of float32 values ≤ 0, operation by operation as ``firmware/src/train/exp_f32.h``."""
    f = np.float32
    near = x >= f(-87.0)
    x = np.where(near, x, f(0)).astype(np.float32)
    n = (x * f(1.44269504) - f(0.5)).astype(np.int32)
    whole = n.astype(np.float32)
    r = (x - whole * f(0.693359375)) + whole * f(2.12194440e-4)
    y = r * f(1.38888889e-3) + f(8.33333333e-3)
    for coefficient in (4.16666667e-2, 1.66666667e-1, 0.5, 1.0, 1.0):
        y = y * r + f(coefficient)
    power = ((n + 127).astype(np.uint32) << np.uint32(23)).view(np.float32)
    return np.where(near, y * power, f(0))


def log_f32(x: float | np.float32) -> np.float32:
    """The natural logarithm of finite x ≥ 1, operation by operation as ``firmware/src/train/log_f32.h``."""
    f = np.float32
    bits = int(np.array([x], np.float32).view(np.uint32)[0])
    n, m = (bits >> 23) - 127, np.array([(bits & 0x007FFFFF) | 0x3F800000], np.uint32).view(np.float32)[0]
    if m > f(1.41421354):
        m, n = m * f(0.5), n + 1
    s = (m - f(1)) / (m + f(1))
    t = s * s
    y = t * f(0.222222222) + f(0.285714298)
    for coefficient in (0.400000006, 0.666666687, 2.0):
        y = y * t + f(coefficient)
    return f(f(n) * f(0.693147182) + s * y)


# ---- the optimizer ------------------------------------------------------------------------------------------------------


def random_words(seed: int, step: int, salt: int, count: int) -> NDArray[np.uint32]:
    """A random word for each element of tensor number ``salt`` at an optimizer step."""
    key = _mix(_mix(_mix(np.uint32(seed)) ^ np.uint32(step)) ^ np.uint32(salt))
    with np.errstate(over="ignore"):
        words: NDArray[np.uint32] = _mix(np.arange(count, dtype=np.uint32) + key)
    return words


def round_stochastically(x: Float, random: NDArray[np.uint32]) -> NDArray[np.int64]:
    """floor(x + u) with u uniform in [0, 1) made from the random words; 0 for what is not a number."""
    limit = np.float32(16777216.0)
    x = np.where(np.isnan(x), np.float32(0), np.clip(x, -limit, limit)).astype(np.float32)
    whole = np.floor(x)
    fraction = x - whole
    up = (random >> np.uint32(8)).astype(np.float32) < fraction * limit
    return whole.astype(np.int64) + up


def sqrt_f32(x: float | np.float32) -> np.float32:
    """The square root, operation by operation as ``firmware/src/train/sqrt_f32.h``; 0 where x is not above 0."""
    x = np.float32(x)
    if not x > 0:
        return np.float32(0)
    y = (np.array([x]).view(np.uint32) // np.uint32(2) + np.uint32(0x1FBD1DF5)).view(np.float32)[0]
    with np.errstate(all="ignore"):
        for _ in range(4):
            y = np.float32(0.5) * (y + x / y)
    return np.float32(y)


def sum_of_squares(values: Float) -> np.float32:
    """Σ v² in the order of the elements, in float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares = values.ravel().astype(np.float32) ** 2
        return np.float32(np.cumsum(squares, dtype=np.float32)[-1] if squares.size else 0)


def integer_steps(scale: Float, qas: bool) -> Float:
    """Steps of an integer per unit of rate · d loss / d real.

    With quantization-aware scaling 1 / s: the dequantized weight s · w moves by rate · its gradient. With respect to the
    integer the same is rate · s⁻² · d loss / dw, as MCUNetV3 writes it (Lin et al., arXiv 2206.15472, section 2.1), for a
    bias (s_w · s_x)⁻². Without, s: the integer moves by rate · d loss / dw = rate · s · d loss / d(s · w).
    """
    return (1.0 / scale.astype(np.float64)).astype(np.float32) if qas else scale.astype(np.float32)


def sgd_step(
    value: Array,
    gradient: Float,
    scale: Float,
    *,
    learning_rate: float,
    samples: int,
    step: int,
    seed: int,
    salt: int,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    clip: float = 0.0,
    velocity: Float | None = None,
    residual: Array | None = None,
    qas: bool = True,
) -> Array:
    """A step on a tensor's integers, laid out one row an output channel; ``firmware/src/train/sgd.c``.

    Args:
        value: (rows, …) int8 weights or (rows,) int32 biases.
        gradient: float32 of the same shape, summed over ``samples``.
        scale: float32, (rows,) or (1,): the real of one integer step.
        weight_decay: of weights; biases have none.
        clip: longest mean gradient, to which a longer one is scaled down; 0: any.
        velocity: float32 of the same shape, updated in place; None: no momentum.
        residual: int8 of the same shape, updated in place: what weights have not moved yet, in units of 1/256; None: steps
            are rounded stochastically.
        qas: quantization-aware scaling.
    """
    rows = len(value)
    rate = np.float32(learning_rate) / np.float32(samples)
    if clip > 0:
        norm, most = sqrt_f32(sum_of_squares(gradient)), np.float32(clip) * np.float32(samples)
        if norm > most:
            rate = rate * (most / norm)
    factor = np.broadcast_to(rate * integer_steps(scale, qas), (rows,)).reshape(rows, *[1] * (value.ndim - 1))
    with np.errstate(invalid="ignore", over="ignore"):
        move = (factor * gradient).astype(np.float32)
        decay = np.float32(learning_rate) * np.float32(weight_decay)
        if decay > 0 and value.dtype == np.int8:
            move = move + decay * value.astype(np.float32)
        if velocity is not None:
            move = np.float32(momentum) * velocity + move
            velocity[...] = np.where(np.isnan(move), np.float32(0), move)
        random = random_words(seed, step, salt, value.size).reshape(value.shape)
        if residual is not None and value.dtype == np.int8:
            exact = round_stochastically(move * np.float32(256), random) + residual
            whole = (exact + 128) >> 8
            residual[...] = exact - (whole << 8)
        else:
            whole = round_stochastically(move, random)
    limit = 127 if value.dtype == np.int8 else 1 << 30
    stepped: Array = np.clip(value.astype(np.int64) - whole, -limit, limit).astype(value.dtype)
    return stepped


def _mix(x: Any) -> Any:
    with np.errstate(over="ignore"):
        x = x ^ (x >> np.uint32(16))
        x = x * np.uint32(0x7FEB352D)
        x = x ^ (x >> np.uint32(15))
        x = x * np.uint32(0x846CA68B)
        return x ^ (x >> np.uint32(16))
