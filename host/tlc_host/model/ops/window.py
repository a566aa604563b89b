# SPDX-License-Identifier: Apache-2.0
"""What convolutions and pools share: where their windows stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tlc_host.model.ops.base import Call

__all__ = ["Windows", "dilate", "pad_last", "windows"]


@dataclass(frozen=True)
class Windows:
    """One value an axis of space."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    starts: tuple[int, ...]
    """Padding before."""
    ends: tuple[int, ...]
    """Padding behind, as the attributes have it."""
    outputs: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def spans(self) -> tuple[int, ...]:
        """What a window reaches over."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def reaches(self) -> tuple[int, ...]:
        """What must follow the image so that the last window ends with it; negative where values are left over."""
        return tuple(
            (o - 1) * s + span - start - n
            for o, s, span, start, n in zip(
                self.outputs, self.strides, self.spans, self.starts, self.sizes, strict=True
            )
        )


def windows(call: Call, sizes: Sequence[int], kernel: Sequence[int]) -> Windows:
    """Resolves ``auto_pad`` and ``ceil_mode``."""
    rank = len(sizes)
    strides, dilations = call.ints("strides", [1] * rank), call.ints("dilations", [1] * rank)
    pads = call.ints("pads", [0] * 2 * rank)
    auto, up = call.text("auto_pad", "NOTSET"), call.int("ceil_mode", 0)
    starts, ends, outputs = [], [], []
    for axis, (n, k, s, d) in enumerate(zip(sizes, kernel, strides, dilations, strict=True)):
        span = (k - 1) * d + 1
        if auto.startswith("SAME"):
            out = -(-n // s)
            total = max(0, (out - 1) * s + span - n)
            start = total // 2 if auto == "SAME_UPPER" else total - total // 2
            end = total - start
        else:
            start, end = (0, 0) if auto == "VALID" else (pads[axis], pads[axis + rank])
            room = n + start + end - span
            out = (-(-room // s) if up else room // s) + 1
            if up and (out - 1) * s >= n + start:  # a window that begins behind the image does not count
                out -= 1
        starts.append(start)
        ends.append(end)
        outputs.append(out)
    return Windows(
        tuple(kernel), tuple(strides), tuple(dilations), tuple(starts), tuple(ends), tuple(outputs), tuple(sizes)
    )  # fmt: skip


def pad_last(x: Any, starts: Sequence[int], ends: Sequence[int], value: float = 0.0) -> Any:
    """Pads the axes of space of (N, ..., C); negative padding cuts off."""
    if any(n < 0 for n in (*starts, *ends)):
        sizes = x.shape[1:-1]
        keep = [slice(max(0, -a), n - max(0, -b)) for a, b, n in zip(starts, ends, sizes, strict=True)]
        x = x[(slice(None), *keep)]
    pads = [(0, 0), *((max(0, a), max(0, b)) for a, b in zip(starts, ends, strict=True)), (0, 0)]
    if not any(a or b for a, b in pads):
        return x
    return tf.pad(x, pads, constant_values=tf.constant(value, x.dtype))


def dilate(kernel: Any, dilations: Sequence[int]) -> Any:
    """A kernel (..., I, O) with zeros between its taps: TensorFlow has no gradient of a dilated convolution on a CPU."""
    for axis, d in enumerate(dilations):
        if d > 1:
            shape = list(kernel.shape)
            k = shape[axis]
            kernel = tf.expand_dims(kernel, axis + 1)
            kernel = tf.pad(kernel, [(0, d - 1 if i == axis + 1 else 0) for i in range(len(shape) + 1)])
            shape[axis] = k * d
            kernel = tf.reshape(kernel, shape)
            kernel = tf.gather(kernel, list(range((k - 1) * d + 1)), axis=axis)
    return kernel
