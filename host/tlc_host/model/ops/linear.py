# SPDX-License-Identifier: Apache-2.0
"""Gemm, MatMul, Einsum."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tlc_host.model.ops.base import Call, operator

__all__: list[str] = []


@operator("Gemm", learns=(1, 2))
def gemm(call: Call) -> Any:
    """alpha · A' B' + beta · C."""
    a, b, c = call.inputs[0], call.inputs[1], call.input(2)
    alpha, beta = call.float("alpha", 1.0), call.float("beta", 1.0)
    y = tf.matmul(a, b, transpose_a=bool(call.int("transA", 0)), transpose_b=bool(call.int("transB", 0)))
    if alpha != 1.0:
        y = y * alpha
    if c is None:
        return y
    return y + (c if beta == 1.0 else c * beta)


@operator("MatMul", learns=(0, 1))
def matmul(call: Call) -> Any:
    """As numpy.matmul; by a matrix, in one product over all leading axes."""
    a, b = (tf.convert_to_tensor(value) for value in call.inputs)
    rank_a, rank_b = len(a.shape), len(b.shape)
    if rank_a > 2 and rank_b == 2:
        y = tf.matmul(tf.reshape(a, [-1, a.shape[-1]]), b)
        return tf.reshape(y, [*a.shape[:-1], b.shape[-1]])
    y = tf.matmul(a[None] if rank_a == 1 else a, b[:, None] if rank_b == 1 else b)
    if rank_b == 1:
        y = tf.squeeze(y, -1)
    if rank_a == 1:
        y = tf.squeeze(y, -1 if rank_b == 1 else -2)
    return y


@operator("Einsum", learns=(0, 1))
def einsum(call: Call) -> Any:
    """In Einstein's notation."""
    return tf.einsum(call.text("equation", "").replace(" ", ""), *call.inputs)
