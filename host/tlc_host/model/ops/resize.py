# SPDX-License-Identifier: Apache-2.0
"""Resize and Upsample: nearest by index, linear and cubic by a small matrix an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tlc_host.model.ops.base import Call, Untrainable, operator

__all__: list[str] = []


@operator("Resize")
def resize(call: Call) -> Any:
    """Scales or sizes; the coordinates of opset 11 and newer."""
    x = call.inputs[0]
    rank = len(x.shape)
    old = call.opset < 11  # x, scales
    scales = call.static(1 if old else 2, "scales")
    sizes = None if old else call.static(3, "sizes")
    if call.int("antialias", 0):
        raise Untrainable("with antialias=1 cannot be trained")
    axes = [axis % rank for axis in call.ints("axes", list(range(rank)))]
    transformation = "asymmetric" if old else call.text("coordinate_transformation_mode", "half_pixel")
    nearest = "floor" if old else call.text("nearest_mode", "round_prefer_floor")
    mode = call.text("mode", "nearest")
    if transformation == "tf_crop_and_resize" or mode not in ("nearest", "linear", "cubic"):
        what = transformation if transformation == "tf_crop_and_resize" else mode
        raise Untrainable(f"of the kind {what} cannot be trained: nearest, linear and cubic can")
    inputs = [int(x.shape[axis]) for axis in axes]
    if sizes is not None and np.size(sizes):
        outputs, factors = _from_sizes(call, [int(n) for n in sizes], inputs)
    else:
        factors = [float(s) for s in np.ravel(scales)]
        outputs = [math.floor(n * s) for n, s in zip(inputs, factors, strict=True)]
    for axis, n, out, factor in zip(axes, inputs, outputs, factors, strict=True):
        if out == n and factor == 1.0:
            continue
        places = _places(transformation, n, out, factor)
        if mode == "nearest":
            x = tf.gather(x, _nearest(places, n, nearest), axis=axis)
        else:
            taps = _cubic(places, call.float("cubic_coeff_a", -0.75)) if mode == "cubic" else _linear(places)
            x = _interpolate(x, axis, places, taps, bool(call.int("exclude_outside", 0)))
    return x


@operator("Upsample")
def upsample(call: Call) -> Any:
    """Resize as it was until opset 9."""
    if "scales" in call.attributes:
        call = Call(
            call.node, call.opset, call.attributes, [call.inputs[0], np.array(call.attributes["scales"])], call.run
        )
    return resize(Call(call.node, 9, call.attributes, call.inputs, call.run))


def _from_sizes(call: Call, sizes: list[int], inputs: Sequence[int]) -> tuple[list[int], list[float]]:
    policy = call.text("keep_aspect_ratio_policy", "stretch")
    factors = [out / n for out, n in zip(sizes, inputs, strict=True)]
    if policy != "stretch":
        one = min(factors) if policy == "not_larger" else max(factors)
        factors = [one] * len(factors)
        sizes = [math.floor(n * one + 0.5) for n in inputs]
    return sizes, factors


def _places(transformation: str, n: int, out: int, factor: float) -> Any:
    """Where in the input each output lies."""
    i = np.arange(out, dtype=np.float64)
    if transformation == "align_corners":  # of whole outputs, as ONNX Runtime and PyTorch have it; ONNX says n · factor
        return i * (n - 1) / (out - 1) if out > 1 else np.zeros(1)
    if transformation == "asymmetric":
        return i / factor
    if transformation == "pytorch_half_pixel":
        return (i + 0.5) / factor - 0.5 if out > 1 else np.zeros(1)
    if transformation == "half_pixel_symmetric":
        centre = n / 2 * (1 - out / (factor * n))
        return centre + (i + 0.5) / factor - 0.5
    return (i + 0.5) / factor - 0.5


def _nearest(places: Any, n: int, mode: str) -> Any:
    rounded = {
        "round_prefer_floor": np.ceil(places - 0.5),
        "round_prefer_ceil": np.floor(places + 0.5),
        "floor": np.floor(places),
        "ceil": np.ceil(places),
    }[mode]
    return np.clip(rounded, 0, n - 1).astype(np.int64)


def _linear(places: Any) -> dict[int, Any]:
    part = places - np.floor(places)
    return {0: 1 - part, 1: part}


def _cubic(places: Any, a: float) -> dict[int, Any]:
    """Weights of the four neighbours. Keys, "Cubic convolution interpolation for digital image processing", 1981."""
    part = places - np.floor(places)

    def near(t: Any) -> Any:
        return ((a + 2) * t - (a + 3)) * t * t + 1

    def far(t: Any) -> Any:
        return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a

    return {-1: far(1 + part), 0: near(part), 1: near(1 - part), 2: far(2 - part)}


def _interpolate(x: Any, axis: int, places: Any, taps: dict[int, Any], exclude: bool) -> Any:
    n, rank = int(x.shape[axis]), len(x.shape)
    low = np.floor(places).astype(np.int64)
    matrix = np.zeros((len(places), n))
    for offset, weight in taps.items():
        inside = (low + offset >= 0) & (low + offset < n)
        kept = np.where(inside, weight, 0) if exclude else weight
        np.add.at(matrix, (np.arange(len(places)), np.clip(low + offset, 0, n - 1)), kept)
    if exclude:
        matrix /= matrix.sum(1, keepdims=True)
    y = tf.tensordot(x, tf.constant(matrix, x.dtype), [[axis], [1]])
    return tf.transpose(y, [*range(axis), rank - 1, *range(axis, rank - 1)])
