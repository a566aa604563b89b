# SPDX-License-Identifier: Apache-2.0
"""Conv: x (N, C, ...), w (M, C / groups, ...), b (M); one to three axes of space."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tlc_host.model.ops.base import Call, Untrainable, operator
from tlc_host.model.ops.window import Windows, dilate, pad_last, windows

__all__: list[str] = []


@operator("Conv", learns=(1, 2))
def conv(call: Call) -> Any:
    """Channels last inside."""
    x, w = call.inputs[0], tf.convert_to_tensor(call.inputs[1])
    rank = len(w.shape) - 2
    if not 1 <= rank <= 3:
        raise Untrainable(f"over {rank} axes cannot be trained: 1 to 3 can")
    groups = call.int("group", 1)
    place = windows(call, list(x.shape[2:]), list(w.shape[2:]))
    kernel = tf.transpose(w, [*range(2, rank + 2), 1, 0])  # (..., C / groups, M)
    y = _convolve(call.run.channels_last(x), kernel, place, groups)
    if call.input(2) is not None:
        y = tf.nn.bias_add(y, call.inputs[2])
    return call.run.channels_first(y)


def _convolve(x: Any, kernel: Any, place: Windows, groups: int) -> Any:
    rank = len(place.kernel)
    x = pad_last(x, place.starts, place.reaches)
    kernel = dilate(kernel, place.dilations)
    strides = place.strides
    if rank == 1:
        x, kernel, strides = tf.expand_dims(x, 1), tf.expand_dims(kernel, 0), (1, *strides)
    channels, outputs = int(x.shape[-1]), int(kernel.shape[-1])
    if rank < 3 and groups == channels > 1:
        y = _depthwise(x, tf.reshape(kernel, [*kernel.shape[:2], channels, outputs // channels]), strides)
    else:
        each = tf.nn.conv3d if rank == 3 else tf.nn.conv2d
        steps = [1, *strides, 1]
        if groups == 1:
            y = each(x, kernel, steps, "VALID")
        else:  # TensorFlow has no gradient of a grouped convolution on a CPU, but one of its parts
            parts = zip(tf.split(x, groups, axis=-1), tf.split(kernel, groups, axis=-1), strict=True)
            y = tf.concat([each(part, k, steps, "VALID") for part, k in parts], axis=-1)
    return tf.squeeze(y, 1) if rank == 1 else y


def _depthwise(x: Any, kernel: Any, strides: tuple[int, ...]) -> Any:
    if strides[0] == strides[1]:
        return tf.nn.depthwise_conv2d(x, kernel, [1, *strides, 1], "VALID")
    # TensorFlow has only equal strides
    return tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "VALID")[:, :: strides[0], :: strides[1]]
