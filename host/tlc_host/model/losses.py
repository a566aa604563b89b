# SPDX-License-Identifier: Apache-2.0
"""The losses that the host segment can learn by: means over the samples, from the network's first output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

__all__ = ["LOSSES", "Loss"]


@dataclass(frozen=True)
class Loss:
    """``value(y, target)`` is the mean loss of (samples, values), ``correct`` how many samples are right (0: no such thing).

    Where the network ends in one of ``before``, y is what that activation reads, which is numerically sound.
    """

    value: Callable[[Any, Any], Any]
    correct: Callable[[Any, Any], Any]
    before: tuple[str, ...] = ()
    integer_targets: bool = False


def _count(hits: Any) -> Any:
    return tf.reduce_sum(tf.cast(hits, tf.int32))


LOSSES: dict[str, Loss] = {
    "cross_entropy": Loss(
        lambda y, t: tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(t, y)),
        lambda y, t: _count(tf.argmax(y, 1) == t),
        ("Softmax", "LogSoftmax"),
        True,
    ),
    "binary_cross_entropy": Loss(
        lambda y, t: tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(t, y)),
        lambda y, t: _count(tf.reduce_all((y > 0) == (t > 0.5), axis=1)),
        ("Sigmoid",),
    ),
    "mse": Loss(lambda y, t: tf.reduce_mean(tf.square(y - t)), lambda y, t: tf.constant(0)),
}
"""Cross-entropy of class numbers (samples,); of 0 and 1 (samples, values); mean squared error of (samples, values)."""
