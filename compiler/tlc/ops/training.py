# SPDX-License-Identifier: Apache-2.0
"""What operators share in the backward pass: masks, biases, and the optimizer. Each equals ``firmware/src/train`` bit for bit.

Gradients are float32 with respect to reals. NumPy and C agree because every sum runs in one stated order and products are
rounded before they are added (no fused multiply-add).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.graph import Graph, Node
from tlc.ops.base import Accumulator, Activation, Address, Array, Call, Grad, activation_range

__all__ = [
    "bias_call",
    "copy_call",
    "mask",
    "mask_call",
    "random_words",
    "round_stochastically",
    "sgd_step",
    "sum_rows",
]

Float = NDArray[np.float32]


def _limits(graph: Graph, node: Node) -> tuple[int, int] | None:
    """The integers at which the fused clamp is active; None where nothing is clamped."""
    activation: Activation = node.attrs.activation
    quant = graph[node.output].quant
    assert quant is not None
    low, high = activation.bounds
    if not (np.isfinite(low) or np.isfinite(high)):
        return None
    least, most = activation_range(activation, quant)
    return (least if np.isfinite(low) else -129, most if np.isfinite(high) else 128)


def mask_call(graph: Graph, node: Node) -> list[Call]:
    """Zeroes ``Grad(output)`` where the fused activation was active; no call where there is none."""
    limits = _limits(graph, node)
    if limits is None:
        return []
    fields: dict[str, Any] = {"elements": graph[node.output].elements, "low": limits[0], "high": limits[1]}
    args = (Address(node.output), Grad(node.output, is_output=True))
    return [Call("tlc_mask_grad_f32", "tlc_mask_grad_t", fields, args)]


def mask(graph: Graph, node: Node, output: Array, dy: Float) -> Float:
    """The same on arrays: straight-through inside the clamp, zero where it was active."""
    limits = _limits(graph, node)
    if limits is None:
        return dy
    return np.where((output <= limits[0]) | (output >= limits[1]), np.float32(0), dy)


def copy_call(graph: Graph, node: Node, index: int, add: bool) -> Call:
    """The gradient of an input of the output's shape is the output's."""
    fields: dict[str, Any] = {"elements": graph[node.output].elements, "add": int(add)}
    args = (Grad(node.output), Grad(node.inputs[index], is_output=True))
    return Call("tlc_copy_grad_f32", "tlc_copy_grad_t", fields, args)


def bias_call(graph: Graph, node: Node) -> Call:
    """The bias's gradient: the output's, summed over positions."""
    output = graph[node.output]
    channels = output.shape[-1]
    return Call(
        "tlc_bias_grad_f32",
        "tlc_bias_grad_t",
        {"rows": output.elements // channels, "channels": channels},
        (Grad(node.output), Accumulator(node.inputs[2])),
    )


def sum_rows(dy: Float) -> Float:
    """Σ over all axes but the last, first position first: (…, channels) → (channels)."""
    total = np.zeros(dy.shape[-1], np.float32)
    for row in dy.reshape(-1, dy.shape[-1]):
        total += row
    return total


def random_words(seed: int, step: int, salt: int, count: int) -> NDArray[np.uint32]:
    """A random word for each element of tensor number ``salt`` at an optimizer step."""
    key = _mix(_mix(_mix(np.uint32(seed)) ^ np.uint32(step)) ^ np.uint32(salt))
    with np.errstate(over="ignore"):
        return _mix(np.arange(count, dtype=np.uint32) + key)


def round_stochastically(x: Float, random: NDArray[np.uint32]) -> NDArray[np.int64]:
    """floor(x + u) with u uniform in [0, 1) made from the random words."""
    limit = np.float32(16777216.0)
    x = np.clip(x, -limit, limit).astype(np.float32)
    whole = np.floor(x)
    fraction = x - whole
    up = (random >> np.uint32(8)).astype(np.float32) < fraction * limit
    return whole.astype(np.int64) + up


def sgd_step(
    value: Array, gradient: Float, scale: Float, *, learning_rate: float, samples: int, step: int, seed: int, salt: int
) -> Array:
    """Plain SGD on a tensor's integers, laid out one row an output channel.

    Args:
        value: (rows, …) int8 weights or (rows,) int32 biases.
        gradient: float32 of the same shape, summed over ``samples``.
        scale: float32, (rows,) or (1,): the real of one integer step.
    """
    rows = len(value)
    inverse = (1.0 / scale.astype(np.float64)).astype(np.float32)
    rate = np.float32(learning_rate) / np.float32(samples)
    factor = np.broadcast_to(rate * inverse, (rows,)).reshape(rows, *[1] * (value.ndim - 1))
    random = random_words(seed, step, salt, value.size).reshape(value.shape)
    moved = value.astype(np.int64) - round_stochastically((factor * gradient).astype(np.float32), random)
    limit = 127 if value.dtype == np.int8 else 1 << 30
    return np.clip(moved, -limit, limit).astype(value.dtype)


def _mix(x: Any) -> Any:
    with np.errstate(over="ignore"):
        x = x ^ (x >> np.uint32(16))
        x = x * np.uint32(0x7FEB352D)
        x = x ^ (x >> np.uint32(15))
        x = x * np.uint32(0x846CA68B)
        return x ^ (x >> np.uint32(16))
