# SPDX-License-Identifier: Apache-2.0
"""Operators that work value by value: two tables, and those that need more than a line."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import onnx
import tensorflow as tf

from tlc_host.model.ops.base import Call, Untrainable, operator

__all__ = ["follow"]


def follow(call: Call, function: Callable[..., Any], values: Sequence[Any]) -> Any:
    """A function value by value with broadcasting, on the channels-last twins where there are any."""
    rank = max(len(np.shape(value)) for value in values)
    moves = [len(np.shape(value)) == rank for value in values]
    stays = [len(np.shape(value)) == 0 for value in values]
    if any(call.run.has_twin(value) for value in values) and all(m or s for m, s in zip(moves, stays, strict=True)):
        last = [call.run.channels_last(v) if move else v for v, move in zip(values, moves, strict=True)]
        return call.run.channels_first(function(*last))
    return function(*values)


def _hard_sigmoid(c: Call, x: Any) -> Any:
    return tf.clip_by_value(x * c.float("alpha", 0.2) + c.float("beta", 0.5), 0.0, 1.0)


def _gelu(c: Call, x: Any) -> Any:
    if c.text("approximate", "none") == "tanh":
        return 0.5 * x * (1.0 + tf.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))
    return 0.5 * x * (1.0 + tf.math.erf(x * math.sqrt(0.5)))


def _selu(c: Call, x: Any) -> Any:
    alpha, gamma = c.float("alpha", 1.6732632423543772), c.float("gamma", 1.0507009873554805)
    return gamma * (tf.nn.relu(x) + alpha * tf.math.expm1(tf.minimum(x, 0.0)))


def _celu(c: Call, x: Any) -> Any:
    alpha = c.float("alpha", 1.0)
    return tf.nn.relu(x) + alpha * tf.math.expm1(tf.minimum(x, 0.0) / alpha)


def _shrink(c: Call, x: Any) -> Any:
    bound, bias = c.float("lambd", 0.5), c.float("bias", 0.0)
    return tf.where(x < -bound, x + bias, tf.where(x > bound, x - bias, tf.zeros_like(x)))


UNARY: dict[str, Callable[[Call, Any], Any]] = {
    "Abs": lambda c, x: tf.abs(x),
    "Acos": lambda c, x: tf.acos(x),
    "Acosh": lambda c, x: tf.acosh(x),
    "Asin": lambda c, x: tf.asin(x),
    "Asinh": lambda c, x: tf.asinh(x),
    "Atan": lambda c, x: tf.atan(x),
    "Atanh": lambda c, x: tf.atanh(x),
    "Celu": _celu,
    "Cos": lambda c, x: tf.cos(x),
    "Cosh": lambda c, x: tf.cosh(x),
    "Elu": lambda c, x: tf.nn.relu(x) + c.float("alpha", 1.0) * tf.math.expm1(tf.minimum(x, 0.0)),
    "Erf": lambda c, x: tf.math.erf(x),
    "Exp": lambda c, x: tf.exp(x),
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda c, x: x * tf.clip_by_value(x / 6.0 + 0.5, 0.0, 1.0),
    "LeakyRelu": lambda c, x: tf.where(x < 0, x * c.float("alpha", 0.01), x),
    "Log": lambda c, x: tf.math.log(x),
    "Mish": lambda c, x: x * tf.tanh(tf.math.softplus(x)),
    "Neg": lambda c, x: -x,
    "Reciprocal": lambda c, x: 1.0 / x,
    "Relu": lambda c, x: tf.nn.relu(x),
    "Selu": _selu,
    "Shrink": _shrink,
    "Sigmoid": lambda c, x: tf.sigmoid(x),
    "Sin": lambda c, x: tf.sin(x),
    "Sinh": lambda c, x: tf.sinh(x),
    "Softplus": lambda c, x: tf.math.softplus(x),
    "Softsign": lambda c, x: tf.math.softsign(x),
    "Sqrt": lambda c, x: tf.sqrt(x),
    "Swish": lambda c, x: x * tf.sigmoid(c.float("alpha", 1.0) * x),
    "Tan": lambda c, x: tf.tan(x),
    "Tanh": lambda c, x: tf.tanh(x),
    "ThresholdedRelu": lambda c, x: tf.where(x > c.float("alpha", 1.0), x, tf.zeros_like(x)),
}
"""ONNX's name → the function."""

STEPS: dict[str, Callable[[Any], Any]] = {
    "Ceil": tf.math.ceil,
    "Floor": tf.floor,
    "IsNaN": tf.math.is_nan,
    "Not": tf.logical_not,
    "Round": tf.round,
    "Sign": tf.sign,
}
"""Without a gradient that could teach anything."""


def _divide(a: Any, b: Any) -> Any:
    if tf.as_dtype(a.dtype).is_integer:  # toward zero
        return tf.cast(tf.truncatediv(a, b), a.dtype)
    return a / b


BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": tf.add,
    "Div": _divide,
    "Mul": tf.multiply,
    "Sub": tf.subtract,
}

COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "And": tf.logical_and,
    "Equal": tf.equal,
    "Greater": tf.greater,
    "GreaterOrEqual": tf.greater_equal,
    "Less": tf.less,
    "LessOrEqual": tf.less_equal,
    "Or": tf.logical_or,
    "Xor": tf.math.logical_xor,
}

VARIADIC: dict[str, Callable[[Sequence[Any]], Any]] = {
    "Max": lambda xs: reduce(tf.maximum, xs),
    "Mean": lambda xs: reduce(tf.add, xs) / len(xs),
    "Min": lambda xs: reduce(tf.minimum, xs),
    "Sum": lambda xs: reduce(tf.add, xs),
}


def _enter() -> None:
    for name, unary in UNARY.items():
        operator(name)(lambda call, f=unary: follow(call, lambda x: f(call, x), call.inputs))  # type: ignore[misc]
    for name, step in STEPS.items():
        operator(name, differentiable=False)(lambda call, f=step: f(call.inputs[0]))  # type: ignore[misc]
    for name, binary in BINARY.items():
        learns = (0, 1) if name != "Div" else ()
        operator(name, learns=learns, wide=True)(lambda call, f=binary: follow(call, f, call.inputs))  # type: ignore[misc]
    for name, compare in COMPARE.items():
        operator(name, differentiable=False)(lambda call, f=compare: f(*call.inputs))  # type: ignore[misc]
    for name, variadic in VARIADIC.items():
        operator(name)(lambda call, f=variadic: f(list(call.inputs)))  # type: ignore[misc]


_enter()


@operator("Pow")
def power(call: Call) -> Any:
    """x ** y in x's type; whole small powers by multiplication, which has a gradient at zero."""
    x, y = call.inputs
    if isinstance(y, np.ndarray) and y.size == 1 and y.ravel()[0] == 2:
        return tf.square(x)
    return tf.pow(x, tf.cast(y, x.dtype))


@operator("Clip")
def clip(call: Call) -> Any:
    """Limits as attributes until opset 10, as inputs since."""
    x = call.inputs[0]
    low = call.attributes.get("min", call.input(1))
    high = call.attributes.get("max", call.input(2))

    def between(x: Any) -> Any:
        if low is not None:
            x = tf.maximum(x, tf.cast(low, x.dtype))
        return x if high is None else tf.minimum(x, tf.cast(high, x.dtype))

    return follow(call, between, [x])


@operator("PRelu", learns=(1,))
def p_relu(call: Call) -> Any:
    """The slope broadcasts to x."""
    return follow(call, lambda x, slope: tf.where(x < 0, x * slope, x), call.inputs)


@operator("IsInf", differentiable=False)
def is_inf(call: Call) -> Any:
    """Of either sign, or of one."""
    x = call.inputs[0]
    up, down = (bool(call.int(f"detect_{sign}", 1)) for sign in ("positive", "negative"))
    return tf.logical_and(tf.math.is_inf(x), tf.logical_or(tf.logical_and(x > 0, up), tf.logical_and(x < 0, down)))


@operator("Where")
def where(call: Call) -> Any:
    """Broadcasts; the gradient goes to the side that was taken."""
    return tf.where(*call.inputs)


@operator("Identity", view=True)
def identity(call: Call) -> Any:
    """The value itself, with its twin."""
    return call.inputs[0]


@operator("Cast", view=True)
def cast(call: Call) -> Any:
    """Between reals and integers; reals are all of the type that the segment computes in."""
    x = call.inputs[0]
    kind = call.int("to", 0)
    wanted = onnx.helper.tensor_dtype_to_np_dtype(kind)
    if np.issubdtype(wanted, np.floating):
        if kind not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE):
            raise Untrainable(f"to {wanted} cannot be trained: only float32 and float64 can")
        if x.dtype in (tf.float32, tf.float64, np.float32, np.float64) and kind == onnx.TensorProto.FLOAT:
            return x  # so that a segment can be run in float64 throughout
    elif wanted not in (np.dtype(t) for t in (bool, np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint32)):
        raise Untrainable(f"to {wanted} cannot be trained")
    return tf.cast(x, tf.as_dtype(wanted))


@operator("CastLike", view=True)
def cast_like(call: Call) -> Any:
    """x in the type of the second input."""
    return tf.cast(call.inputs[0], call.inputs[1].dtype)


@operator("Dropout")
def dropout(call: Call) -> Any:
    """Drops in training alone; the mask follows from the seed, the pass and the node."""
    x = call.inputs[0]
    given = call.static(1, "ratio")
    ratio = float(given) if given is not None else call.float("ratio", 0.5)
    if not call.run.batch_statistics or ratio <= 0:
        return (x, tf.ones(tf.shape(x), tf.bool)) if call.wants(1) else x
    salt = int.from_bytes(call.node.output[0].encode()[-7:], "big") % (1 << 31)
    seed = tf.stack([tf.cast(call.run.seed, tf.int32) ^ salt, tf.cast(call.run.draw, tf.int32)])
    keep = tf.random.stateless_uniform(tf.shape(x), seed) >= ratio
    y = tf.where(keep, x / (1.0 - ratio), tf.zeros_like(x))
    return (y, keep) if call.wants(1) else y
