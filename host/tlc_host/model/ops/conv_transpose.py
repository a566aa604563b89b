# SPDX-License-Identifier: Apache-2.0
"""ConvTranspose: x (N, C, ...), w (C, M / groups, ...), b (M); one to three axes of space."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tlc_host.model.ops.base import Call, Untrainable, operator
from tlc_host.model.ops.window import dilate, pad_last

__all__: list[str] = []


@operator("ConvTranspose", learns=(1, 2))
def conv_transpose(call: Call) -> Any:
    """The whole of what the windows write, then cut to size."""
    x, w = call.inputs[0], tf.convert_to_tensor(call.inputs[1])
    rank = len(w.shape) - 2
    if not 1 <= rank <= 3:
        raise Untrainable(f"over {rank} axes cannot be trained: 1 to 3 can")
    groups = call.int("group", 1)
    strides, dilations = call.ints("strides", [1] * rank), call.ints("dilations", [1] * rank)
    kernel = dilate(tf.transpose(w, [*range(2, rank + 2), 1, 0]), dilations)  # (..., M / groups, C)
    sizes, spans = list(x.shape[2:]), list(kernel.shape[:rank])
    whole = [(n - 1) * s + span for n, s, span in zip(sizes, strides, spans, strict=True)]
    starts, outputs = _place(call, sizes, strides, whole)
    last = call.run.channels_last(x)
    parts = zip(tf.split(last, groups, axis=-1), tf.split(kernel, groups, axis=-1), strict=True)
    y = tf.concat([_spread(part, k, strides, whole) for part, k in parts], axis=-1)
    ends = [out + start - n for out, start, n in zip(outputs, starts, whole, strict=True)]
    y = pad_last(y, [-start for start in starts], ends)
    if call.input(2) is not None:
        y = tf.nn.bias_add(y, call.inputs[2])
    return call.run.channels_first(y)


def _spread(x: Any, kernel: Any, strides: list[int], whole: list[int]) -> Any:
    rank = len(whole)
    if rank == 1:
        x, kernel, strides, whole = tf.expand_dims(x, 1), tf.expand_dims(kernel, 0), [1, *strides], [1, *whole]
    each = tf.nn.conv3d_transpose if rank == 3 else tf.nn.conv2d_transpose
    shape = [int(x.shape[0]), *whole, int(kernel.shape[-2])]
    y = each(x, kernel, shape, [1, *strides, 1], "VALID")
    return tf.squeeze(y, 1) if rank == 1 else y


def _place(call: Call, sizes: list[int], strides: list[int], whole: list[int]) -> tuple[list[int], list[int]]:
    """What is cut off before, and the sizes of the output."""
    rank = len(sizes)
    extra, pads = call.ints("output_padding", [0] * rank), call.ints("pads", [0] * 2 * rank)
    auto, wanted = call.text("auto_pad", "NOTSET"), call.ints("output_shape")
    if auto.startswith("SAME") and not wanted:
        wanted = [n * s for n, s in zip(sizes, strides, strict=True)]
    if not wanted:
        starts, ends = ([0] * rank, [0] * rank) if auto == "VALID" else (pads[:rank], pads[rank:])
        return starts, [n + e - a - b for n, e, a, b in zip(whole, extra, starts, ends, strict=True)]
    wanted = wanted[-rank:]
    totals = [n + e - out for n, e, out in zip(whole, extra, wanted, strict=True)]
    return [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in totals], wanted
