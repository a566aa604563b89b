# SPDX-License-Identifier: Apache-2.0
"""MaxPool, AveragePool and the pools over all of space."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tlc_host.model.ops.base import Call, Untrainable, operator
from tlc_host.model.ops.window import Windows, pad_last, windows

__all__: list[str] = []


@operator("MaxPool")
def max_pool(call: Call) -> Any:
    """Padding never wins."""
    if call.wants(1):
        raise Untrainable("with the indices of its maxima cannot be trained: only its first output can")
    x, place = _seen(call)
    lowest = float(np.finfo(x.dtype.as_numpy_dtype).min)
    padded = pad_last(call.run.channels_last(x), place.starts, place.reaches, lowest)
    return call.run.channels_first(_pool(padded, place, "MAX"))


@operator("AveragePool")
def average_pool(call: Call) -> Any:
    """Over the values inside the image, or with ``count_include_pad`` over the padding of the attributes too."""
    x, place = _seen(call)
    y = _pool(pad_last(call.run.channels_last(x), place.starts, place.reaches), place, "AVG")
    counts: Any = np.ones([1] * (len(place.kernel) + 2))
    for axis, (n, start, end) in enumerate(zip(place.sizes, place.starts, place.ends, strict=True)):
        low, high = (-start, n + end) if call.int("count_include_pad", 0) else (0, n)
        first = np.arange(place.outputs[axis]) * place.strides[axis] - start
        taps = first[:, None] + np.arange(place.kernel[axis]) * place.dilations[axis]
        counted = ((taps >= low) & (taps < high)).sum(1)
        counts = counts * counted.reshape([-1 if i == axis + 1 else 1 for i in range(counts.ndim)])
    area = int(np.prod(place.kernel))
    if (counts != area).any():
        y = y * tf.constant(area / counts, y.dtype)
    return call.run.channels_first(y)


def _seen(call: Call) -> tuple[Any, Windows]:
    x = tf.convert_to_tensor(call.inputs[0])
    kernel = call.ints("kernel_shape")
    if not x.dtype.is_floating:
        raise Untrainable("of integers cannot be trained")
    if not 1 <= len(kernel) <= 3:
        raise Untrainable(f"over {len(kernel)} axes cannot be trained: 1 to 3 can")
    return x, windows(call, list(x.shape[2:]), kernel)


def _pool(x: Any, place: Windows, kind: str) -> Any:
    """Windows over (N, ..., C), which is padded already."""
    kernel, strides = place.kernel, place.strides
    if max(place.dilations) > 1:  # TensorFlow has no strides then
        y = tf.nn.pool(x, kernel, kind, [1] * len(kernel), "VALID", dilations=place.dilations)
        return y[(slice(None), *(slice(None, None, s) for s in strides))]
    if len(kernel) == 3:
        each = tf.nn.max_pool3d if kind == "MAX" else tf.nn.avg_pool3d
        return each(x, [1, *kernel, 1], [1, *strides, 1], "VALID")
    if len(kernel) == 1:
        x, kernel, strides = tf.expand_dims(x, 1), (1, *kernel), (1, *strides)
    each = tf.nn.max_pool2d if kind == "MAX" else tf.nn.avg_pool2d
    y = each(x, [1, *kernel, 1], [1, *strides, 1], "VALID")
    return tf.squeeze(y, 1) if len(place.kernel) == 1 else y


def _over_space(call: Call, reduce: Any) -> Any:
    x = call.inputs[0]
    rank = len(x.shape)
    if call.run.has_twin(x):
        y = reduce(call.run.channels_last(x), list(range(1, rank - 1)))
    else:
        y = reduce(x, list(range(2, rank)))
    return tf.reshape(y, [*y.shape, *[1] * (rank - 2)])


@operator("GlobalAveragePool")
def global_average_pool(call: Call) -> Any:
    """(N, C, ...) → (N, C, 1, ...)."""
    return _over_space(call, tf.reduce_mean)


@operator("GlobalMaxPool")
def global_max_pool(call: Call) -> Any:
    """(N, C, ...) → (N, C, 1, ...)."""
    return _over_space(call, tf.reduce_max)
