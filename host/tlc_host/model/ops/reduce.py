# SPDX-License-Identifier: Apache-2.0
"""Reductions over axes, which are an attribute in older opsets and an input in newer ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tlc_host.model.ops.base import Call, operator

__all__: list[str] = []

REDUCTIONS: dict[str, Callable[[Any, Any, bool], Any]] = {
    "ReduceL1": lambda x, axes, keep: tf.reduce_sum(tf.abs(x), axes, keep),
    "ReduceL2": lambda x, axes, keep: tf.sqrt(tf.reduce_sum(tf.square(x), axes, keep)),
    "ReduceLogSum": lambda x, axes, keep: tf.math.log(tf.reduce_sum(x, axes, keep)),
    "ReduceLogSumExp": tf.reduce_logsumexp,
    "ReduceMax": tf.reduce_max,
    "ReduceMean": tf.reduce_mean,
    "ReduceMin": tf.reduce_min,
    "ReduceProd": tf.reduce_prod,
    "ReduceSum": tf.reduce_sum,
    "ReduceSumSquare": lambda x, axes, keep: tf.reduce_sum(tf.square(x), axes, keep),
}
"""ONNX's name → function of a value, its axes (None: all) and whether they stay."""


def _reduce(call: Call, function: Callable[[Any, Any, bool], Any]) -> Any:
    axes = call.static_ints(1, "axes")
    if not axes:
        axes = [] if call.int("noop_with_empty_axes", 0) else None
    x = call.inputs[0]
    if x.dtype in (bool, tf.bool):
        return function(tf.cast(x, tf.int32), axes, bool(call.int("keepdims", 1))) > 0
    return function(x, axes, bool(call.int("keepdims", 1)))


def _enter() -> None:
    for name, function in REDUCTIONS.items():
        operator(name)(lambda call, f=function: _reduce(call, f))  # type: ignore[misc]


_enter()


@operator("ArgMax", differentiable=False)
def arg_max(call: Call) -> Any:
    """The first of the largest, or the last."""
    x, axis = call.inputs[0], call.int("axis", 0)
    if call.int("select_last_index", 0):
        y = np.shape(x)[axis] - 1 - tf.argmax(tf.reverse(x, [axis]), axis)
    else:
        y = tf.argmax(x, axis)
    return tf.expand_dims(y, axis) if call.int("keepdims", 1) else y
