# SPDX-License-Identifier: Apache-2.0
"""Operators that move values, and those that make shapes. Gradients go where the values came from."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from onnx import numpy_helper

from tlc_host.model.ops.base import Call, Untrainable, is_static, operator

__all__: list[str] = []


def _rank(value: Any) -> int:
    return len(np.shape(value))


@operator("Constant")
def constant(call: Call) -> Any:
    """A value of the file."""
    name, value = next(iter(call.attributes.items()))
    if name == "value":
        return numpy_helper.to_array(value)
    if name.startswith("value_int"):
        return np.array(value, np.int64)
    if name.startswith("value_float"):
        return np.array(value, np.float32)
    raise Untrainable("of strings or of a sparse tensor cannot be trained")


@operator("Shape")
def shape(call: Call) -> Any:
    """Known when the step is traced."""
    sizes = np.array(np.shape(call.inputs[0]), np.int64)
    end = call.attributes.get("end")
    return sizes[call.int("start", 0) : None if end is None else int(end)]


@operator("Size")
def size(call: Call) -> Any:
    """Known when the step is traced."""
    return np.array(np.prod(np.shape(call.inputs[0]), dtype=np.int64), np.int64)


@operator("ConstantOfShape")
def constant_of_shape(call: Call) -> Any:
    """Zeros, or the value given."""
    value = numpy_helper.to_array(call.attributes["value"]) if "value" in call.attributes else np.zeros(1, np.float32)
    return np.full([int(i) for i in call.static(0, "shape")], value.ravel()[0], value.dtype)


@operator("Range")
def arange(call: Call) -> Any:
    """start, limit, step."""
    start, limit, step = (call.static(i, "limits") for i in range(3))
    made: Any = np.arange
    return made(start.item(), limit.item(), step.item(), start.dtype)


@operator("Reshape", view=True)
def reshape(call: Call) -> Any:
    """0 takes the input's extent, -1 what is left."""
    x = call.inputs[0]
    wanted = call.static_ints(1, "shape") or []
    if not call.int("allowzero", 0):
        wanted = [np.shape(x)[i] if extent == 0 else extent for i, extent in enumerate(wanted)]
    return tf.reshape(x, wanted)


@operator("Flatten", view=True)
def flatten(call: Call) -> Any:
    """To a matrix."""
    x = call.inputs[0]
    sizes = np.shape(x)
    axis = call.int("axis", 1)
    axis = axis + len(sizes) if axis < 0 else axis
    return tf.reshape(x, [int(np.prod(sizes[:axis])), int(np.prod(sizes[axis:]))])


@operator("Squeeze", view=True)
def squeeze(call: Call) -> Any:
    """Without axes: every axis of one."""
    x = call.inputs[0]
    sizes = np.shape(x)
    axes = call.static_ints(1, "axes")
    gone = {i for i, n in enumerate(sizes) if n == 1} if axes is None else {axis % len(sizes) for axis in axes}
    if any(sizes[axis] != 1 for axis in gone):
        raise Untrainable(f"of an axis of more than one value, {list(sizes)}, cannot be trained")
    return tf.reshape(x, [n for i, n in enumerate(sizes) if i not in gone])


@operator("Unsqueeze", view=True)
def unsqueeze(call: Call) -> Any:
    """Axes count in the output."""
    x = call.inputs[0]
    axes = call.static_ints(1, "axes") or []
    rank = _rank(x) + len(axes)
    new = {axis % rank for axis in axes}
    rest = iter(np.shape(x))
    return tf.reshape(x, [1 if i in new else next(rest) for i in range(rank)])


@operator("Transpose", view=True)
def transpose(call: Call) -> Any:
    """Without ``perm``: reversed."""
    x = call.inputs[0]
    rank = _rank(x)
    perm = call.ints("perm", list(range(rank))[::-1])
    if rank > 2 and perm == [0, *range(2, rank), 1] and not is_static(x):
        return call.run.channels_last(x)
    if rank > 2 and perm == [0, rank - 1, *range(1, rank - 1)] and not is_static(x):
        return call.run.channels_first(x)
    return tf.transpose(x, perm)


@operator("Concat", view=True)
def concat(call: Call) -> Any:
    """Along one axis."""
    xs = list(call.inputs)
    axis = call.int("axis", 0) % _rank(xs[0])
    if any(call.run.has_twin(x) for x in xs):
        rank = _rank(xs[0])
        to = 0 if axis == 0 else rank - 1 if axis == 1 else axis - 1
        return call.run.channels_first(tf.concat([call.run.channels_last(x) for x in xs], to))
    return tf.concat(xs, axis)


@operator("Split", view=True)
def split(call: Call) -> Any:
    """Into parts of given sizes, or equal ones, the last maybe smaller."""
    x = call.inputs[0]
    axis = call.int("axis", 0) % _rank(x)
    sizes = call.static_ints(1, "split")
    if sizes is None:
        count = call.int("num_outputs", len(call.node.output))
        each = -(-np.shape(x)[axis] // count)
        sizes = [each] * (count - 1) + [np.shape(x)[axis] - each * (count - 1)]
    return tuple(tf.split(x, sizes, axis))


@operator("Slice", view=True)
def slice_(call: Call) -> Any:
    """As Python slices, by attributes until opset 9."""
    x = call.inputs[0]
    starts, ends = call.static_ints(1, "starts") or [], call.static_ints(2, "ends") or []
    axes = call.static_ints(3, "axes")
    steps = call.static_ints(4, "steps") or [1] * len(starts)
    rank = _rank(x)
    places = [slice(None)] * rank
    for axis, start, end, step in zip(axes or range(len(starts)), starts, ends, steps, strict=False):
        n = np.shape(x)[axis]
        begin = max(0, min(start + n if start < 0 else start, n if step > 0 else n - 1))
        stop: int | None = end + n if end < 0 else end
        assert stop is not None
        stop = max(0, min(stop, n)) if step > 0 else (None if stop < 0 else min(stop, n - 1))
        places[axis] = slice(begin, stop, step)
    return x[tuple(places)]


def _pad_index(n: int, before: int, after: int, mode: str) -> Any:
    places = np.arange(-before, n + after)
    if mode == "edge":
        return np.clip(places, 0, n - 1)
    if mode == "wrap":
        return places % n
    period = max(1, 2 * (n - 1))
    folded = places % period
    return np.where(folded >= n, period - folded, folded)


@operator("Pad", view=True)
def pad(call: Call) -> Any:
    """Constant, reflect, edge, wrap; negative padding cuts off."""
    x = call.inputs[0]
    rank = _rank(x)
    given = call.static_ints(1, "pads") or []
    axes = call.static(3, "axes")
    axes = list(range(rank)) if axes is None else [int(a) % rank for a in axes]
    before, after = [0] * rank, [0] * rank
    for i, axis in enumerate(axes):
        before[axis], after[axis] = given[i], given[i + len(axes)]
    mode = call.text("mode", "constant")
    if mode != "constant":
        for axis in axes:
            if before[axis] or after[axis]:
                x = tf.gather(x, _pad_index(np.shape(x)[axis], before[axis], after[axis], mode), axis=axis)
        return x
    value = call.static(2, "value")
    fill = call.float("value", 0.0) if value is None else np.ravel(value)[0]
    keep = [slice(max(0, -a), n - max(0, -b)) for a, b, n in zip(before, after, np.shape(x), strict=True)]
    pads = [(max(0, a), max(0, b)) for a, b in zip(before, after, strict=True)]
    return tf.pad(x[tuple(keep)], pads, constant_values=tf.cast(fill, x.dtype))


@operator("Expand", view=True)
def expand(call: Call) -> Any:
    """Broadcasts both ways."""
    x = call.inputs[0]
    return tf.broadcast_to(x, np.broadcast_shapes(tuple(np.shape(x)), tuple(call.static_ints(1, "shape") or ())))


@operator("Tile", view=True)
def tile(call: Call) -> Any:
    """Repeats along each axis."""
    return tf.tile(call.inputs[0], call.static_ints(1, "repeats"))


@operator("Gather", view=True)
def gather(call: Call) -> Any:
    """Negative indices count from behind."""
    x, index = call.inputs
    axis = call.int("axis", 0) % _rank(x)
    index = tf.cast(index, tf.int64)
    return tf.gather(x, tf.where(index < 0, index + np.shape(x)[axis], index), axis=axis)


@operator("GatherElements")
def gather_elements(call: Call) -> Any:
    """One value an index, along an axis."""
    x, index = call.inputs[0], tf.cast(call.inputs[1], tf.int64)
    axis = call.int("axis", 0) % _rank(x)
    index = tf.where(index < 0, index + np.shape(x)[axis], index)
    grid = [tf.constant(places, tf.int64) for places in np.indices(index.shape)]
    return tf.gather_nd(x, tf.stack([index if i == axis else places for i, places in enumerate(grid)], -1))


@operator("GatherND")
def gather_nd(call: Call) -> Any:
    """Indices are tuples along their last axis."""
    return tf.gather_nd(call.inputs[0], call.inputs[1], batch_dims=call.int("batch_dims", 0))


@operator("CumSum")
def cumsum(call: Call) -> Any:
    """Along one axis."""
    axis = int(call.static(1, "axis"))
    exclusive, reverse = bool(call.int("exclusive", 0)), bool(call.int("reverse", 0))
    return tf.cumsum(call.inputs[0], axis, exclusive, reverse)


@operator("Trilu")
def trilu(call: Call) -> Any:
    """The upper or lower triangle of matrices."""
    x, k = call.inputs[0], call.static(1, "k")
    rows, columns = np.shape(x)[-2:]
    diagonal = np.arange(columns)[None] - np.arange(rows)[:, None] - (0 if k is None else int(k))
    keep = diagonal >= 0 if call.int("upper", 1) else diagonal <= 0
    return tf.where(np.broadcast_to(keep, np.shape(x)), x, tf.zeros_like(x))


@operator("DepthToSpace")
def depth_to_space(call: Call) -> Any:
    """Blocks of channels become blocks of space."""
    x, b = call.inputs[0], call.int("blocksize", 1)
    n, c, h, w = x.shape
    if call.text("mode", "DCR") == "DCR":
        y = tf.transpose(tf.reshape(x, [n, b, b, c // b**2, h, w]), [0, 3, 4, 1, 5, 2])
    else:
        y = tf.transpose(tf.reshape(x, [n, c // b**2, b, b, h, w]), [0, 1, 4, 2, 5, 3])
    return tf.reshape(y, [n, c // b**2, h * b, w * b])


@operator("SpaceToDepth")
def space_to_depth(call: Call) -> Any:
    """Blocks of space become blocks of channels."""
    x, b = call.inputs[0], call.int("blocksize", 1)
    n, c, h, w = x.shape
    crd = call.text("mode", "DCR") == "CRD"
    y = tf.transpose(tf.reshape(x, [n, c, h // b, b, w // b, b]), [0, 1, 3, 5, 2, 4] if crd else [0, 3, 5, 1, 2, 4])
    return tf.reshape(y, [n, c * b * b, h // b, w // b])
