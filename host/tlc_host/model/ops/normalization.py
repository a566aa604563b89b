# SPDX-License-Identifier: Apache-2.0
"""Normalizations: by running or batch statistics, and by those of a sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tlc_host.model.ops.base import Call, Untrainable, operator

__all__ = ["STATISTICS"]

STATISTICS = (3, 4)
"""Inputs of BatchNormalization: running mean and variance."""


@operator("BatchNormalization", learns=(1, 2))
def batch_normalization(call: Call) -> Any:
    """x (N, C, ...), scale (C), bias (C), mean (C), variance (C). Ioffe and Szegedy, arXiv 1502.03167.

    Frozen, it normalizes by the running statistics, which do not move. In training, by the batch's, and running =
    momentum · running + (1 − momentum) · batch, with the population's variance, as ONNX has it.
    """
    x, scale, bias, mean, variance = call.inputs[:5]
    if call.int("spatial", 1) != 1:
        raise Untrainable("with spatial=0 cannot be trained")
    rank = len(x.shape)
    last = call.run.channels_last(x) if rank > 2 else x
    if call.run.batch_statistics or call.int("training_mode", 0):
        momentum = call.float("momentum", 0.9)
        batch_mean, batch_variance = tf.nn.moments(last, list(range(rank - 1)))
        running = [mean * momentum + batch_mean * (1 - momentum), variance * momentum + batch_variance * (1 - momentum)]
        for index, value in zip(STATISTICS, running, strict=True):
            call.run.updates[call.node.input[index]] = value
        mean, variance = batch_mean, batch_variance
    else:
        running = [mean, variance]
    factor = scale * tf.math.rsqrt(variance + call.float("epsilon", 1e-5))
    y = last * factor + (bias - mean * factor)
    y = call.run.channels_first(y) if rank > 2 else y
    return (y, *running) if call.wants(1) else y


def _normalize(x: Any, axes: Sequence[int], epsilon: float) -> tuple[Any, Any, Any]:
    mean = tf.reduce_mean(x, axes, keepdims=True)
    centred = x - mean
    inverse = tf.math.rsqrt(tf.reduce_mean(tf.square(centred), axes, keepdims=True) + epsilon)
    return centred * inverse, mean, inverse


@operator("LayerNormalization", learns=(1, 2))
def layer_normalization(call: Call) -> Any:
    """Over the axes from ``axis`` on. Ba et al., arXiv 1607.06450."""
    x = call.inputs[0]
    rank = len(x.shape)
    y, mean, inverse = _normalize(x, range(call.int("axis", -1) % rank, rank), call.float("epsilon", 1e-5))
    y = y * call.inputs[1]
    if call.input(2) is not None:
        y = y + call.inputs[2]
    return (y, mean, inverse) if call.wants(1) or call.wants(2) else y


@operator("RMSNormalization", learns=(1,))
def rms_normalization(call: Call) -> Any:
    """Over the axes from ``axis`` on, without a mean. Zhang and Sennrich, arXiv 1910.07467."""
    x = call.inputs[0]
    rank = len(x.shape)
    axes = range(call.int("axis", -1) % rank, rank)
    square = tf.reduce_mean(tf.square(x), axes, keepdims=True)
    return x * tf.math.rsqrt(square + call.float("epsilon", 1e-5)) * call.inputs[1]


def _per_channel(value: Any, rank: int) -> Any:
    return tf.reshape(value, [1, -1, *[1] * (rank - 2)])


@operator("InstanceNormalization", learns=(1, 2))
def instance_normalization(call: Call) -> Any:
    """Over space, a sample and a channel at a time. Ulyanov et al., arXiv 1607.08022."""
    x, scale, bias = call.inputs
    rank = len(x.shape)
    y, _, _ = _normalize(x, range(2, rank), call.float("epsilon", 1e-5))
    return y * _per_channel(scale, rank) + _per_channel(bias, rank)


@operator("GroupNormalization", learns=(1, 2))
def group_normalization(call: Call) -> Any:
    """Over space and a group of channels; scale and bias a channel (a group before opset 21). arXiv 1803.08494."""
    x, scale, bias = call.inputs
    rank, groups = len(x.shape), call.int("num_groups", 1)
    grouped = tf.reshape(x, [x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]])
    y, _, _ = _normalize(grouped, range(2, rank + 1), call.float("epsilon", 1e-5))
    if call.opset < 21:
        scale, bias = (tf.repeat(value, x.shape[1] // groups) for value in (scale, bias))
    return tf.reshape(y, x.shape) * _per_channel(scale, rank) + _per_channel(bias, rank)


@operator("LpNormalization")
def lp_normalization(call: Call) -> Any:
    """By the norm along an axis."""
    x, axis, p = call.inputs[0], call.int("axis", -1), call.int("p", 2)
    if p == 1:
        norm = tf.reduce_sum(tf.abs(x), axis, keepdims=True)
    else:
        norm = tf.sqrt(tf.reduce_sum(tf.square(x), axis, keepdims=True))
    return tf.math.divide_no_nan(x, norm)


@operator("LRN")
def local_response_normalization(call: Call) -> Any:
    """Across neighbouring channels. Krizhevsky et al., 2012, section 3.3."""
    x, size = call.inputs[0], call.int("size", 1)
    before = (size - 1) // 2
    pads = [(before, size - 1 - before) if axis == 1 else (0, 0) for axis in range(len(x.shape))]
    squares = tf.pad(tf.square(x), pads)
    channels = int(x.shape[1])
    total = tf.add_n([tf.gather(squares, np.arange(i, i + channels), axis=1) for i in range(size)])
    return x / tf.pow(call.float("bias", 1.0) + call.float("alpha", 1e-4) / size * total, call.float("beta", 0.75))
