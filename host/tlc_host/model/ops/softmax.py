# SPDX-License-Identifier: Apache-2.0
"""Softmax and LogSoftmax: along one axis; before opset 13 over all axes from it on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tlc_host.model.ops.base import Call, operator

__all__: list[str] = []


def _along(call: Call, function: Callable[..., Any]) -> Any:
    x = call.inputs[0]
    if call.opset >= 13:
        return function(x, axis=call.int("axis", -1))
    axis = call.int("axis", 1) % len(x.shape)
    rows = 1
    for extent in x.shape[:axis]:
        rows *= extent
    return tf.reshape(function(tf.reshape(x, [rows, -1]), axis=-1), x.shape)


@operator("Softmax")
def softmax(call: Call) -> Any:
    """exp(x) / Σ exp(x)."""
    return _along(call, tf.nn.softmax)


@operator("LogSoftmax")
def log_softmax(call: Call) -> Any:
    """Its logarithm."""
    return _along(call, tf.nn.log_softmax)
