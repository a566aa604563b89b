# SPDX-License-Identifier: Apache-2.0
"""LSTM, GRU and RNN with their default activations: x (T, N, I), W (D, gates · H, I), R (D, gates · H, H), B (D, 2 · gates · H)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tlc_host.model.ops.base import Call, Untrainable, operator

__all__: list[str] = []

Cell = Callable[..., tuple[Any, ...]]


def _recurrent(call: Call, gates: int, states: int, defaults: list[str], cell: Cell) -> Any:
    x, w, r = call.inputs[:3]
    bias, lengths = call.input(3), call.static(4, "sequence lengths")
    if call.int("layout", 0):
        raise Untrainable("with layout=1 cannot be trained")
    if "clip" in call.attributes or call.input(7) is not None or call.int("input_forget", 0):
        raise Untrainable("with clip, peepholes or coupled gates cannot be trained")
    steps, samples, _ = x.shape
    directions, hidden = int(w.shape[0]), int(r.shape[-1])
    given = [a.decode() for a in call.attributes.get("activations", [])]
    if given and [a.lower() for a in given] != [a.lower() for a in defaults * directions]:
        raise Untrainable(f"with the activations {', '.join(given)} cannot be trained: {', '.join(defaults)} can")
    if lengths is not None and (np.ravel(lengths) != steps).any():
        raise Untrainable("with sequences of different lengths cannot be trained")
    outputs, lasts = [], []
    for d in range(directions):
        backward = d == 1 or call.text("direction", "forward") == "reverse"
        both = tf.zeros(2 * gates * hidden, x.dtype) if bias is None else bias[d]
        state = tuple(
            tf.zeros([samples, hidden], x.dtype) if call.input(5 + i) is None else call.inputs[5 + i][d]
            for i in range(states)
        )
        # All steps of the input at once.
        seen = tf.matmul(tf.reshape(x, [steps * samples, -1]), w[d], transpose_b=True) + both[: gates * hidden]
        parts = tf.unstack(tf.reshape(seen, [steps, samples, gates * hidden]))
        made = []
        for part in reversed(parts) if backward else parts:
            state = cell(part, state, r[d], both[gates * hidden :])
            made.append(state[0])
        outputs.append(tf.stack(made[::-1] if backward else made))
        lasts.append(state)
    return (tf.stack(outputs, 1), *(tf.stack([last[i] for last in lasts]) for i in range(states)))


@operator("LSTM", learns=(1, 2, 3))
def lstm(call: Call) -> Any:
    """Gates in the order input, output, forget, cell. Hochreiter and Schmidhuber, 1997."""

    def cell(part: Any, state: tuple[Any, ...], r: Any, bias: Any) -> tuple[Any, ...]:
        h, c = state
        i, o, f, new = tf.split(part + tf.matmul(h, r, transpose_b=True) + bias, 4, axis=1)
        c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(new)
        return tf.sigmoid(o) * tf.tanh(c), c

    return _recurrent(call, 4, 2, ["Sigmoid", "Tanh", "Tanh"], cell)


@operator("GRU", learns=(1, 2, 3))
def gru(call: Call) -> Any:
    """Gates in the order update, reset, hidden. Cho et al., arXiv 1406.1078."""
    after = bool(call.int("linear_before_reset", 0))

    def cell(part: Any, state: tuple[Any, ...], r: Any, bias: Any) -> tuple[Any, ...]:
        (h,) = state
        size = h.shape[1]
        gates = part[:, : 2 * size] + tf.matmul(h, r[: 2 * size], transpose_b=True) + bias[: 2 * size]
        z, reset = tf.split(tf.sigmoid(gates), 2, axis=1)
        kernel, offset = r[2 * size :], bias[2 * size :]
        if after:
            past = reset * (tf.matmul(h, kernel, transpose_b=True) + offset)
        else:
            past = tf.matmul(reset * h, kernel, transpose_b=True) + offset
        new = tf.tanh(part[:, 2 * size :] + past)
        return ((1.0 - z) * new + z * h,)

    return _recurrent(call, 3, 1, ["Sigmoid", "Tanh"], cell)


@operator("RNN", learns=(1, 2, 3))
def rnn(call: Call) -> Any:
    """h = tanh(W x + R h + b). Elman, 1990."""

    def cell(part: Any, state: tuple[Any, ...], r: Any, bias: Any) -> tuple[Any, ...]:
        return (tf.tanh(part + tf.matmul(state[0], r, transpose_b=True) + bias),)

    return _recurrent(call, 1, 1, ["Tanh"], cell)
