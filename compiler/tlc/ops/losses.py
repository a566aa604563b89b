# SPDX-License-Identifier: Apache-2.0
"""The loss on the device: from a label to the gradient with which the backward pass begins.

Each equals ``firmware/src/train`` bit for bit, like :mod:`tlc.ops.training`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.errors import DataError, UsageError
from tlc.graph import Graph, Node
from tlc.learning import Loss
from tlc.ops.base import Address, Call, Grad, Table
from tlc.ops.training import exp_f32, log_f32

__all__ = ["Target", "Verdict", "loss_gradient", "loss_head", "softmax_of"]

Float = NDArray[np.float32]
Target = int | Float
"""A class, or the values that the output should have had."""


@dataclass(frozen=True)
class Verdict:
    """What a loss says of a sample."""

    loss: np.float32
    predicted: int
    """The first largest of the outputs."""


def softmax_of(graph: Graph) -> Node | None:
    """The softmax that gives the output judged, as it is or reshaped; None where another operator does."""
    node = graph.producer(graph.judged)
    while node is not None and node.op == "reshape":
        node = graph.producer(node.inputs[0])
    return node if node is not None and node.op == "softmax" else None


def loss_head(graph: Graph, loss: Loss) -> tuple[str, Call | None]:
    """The activation whose gradient comes first, and the call that computes it from a label.

    The softmax belongs to the cross-entropy: its gradient is that of the logits, to which probabilities in 256 steps would
    say too little. Without a loss the gradient of the output is handed in.

    Raises:
        UsageError: there are several rows of logits.
    """
    if loss == "none":
        return graph.outputs[0], None
    if loss == "mse":
        output = graph[graph.judged]
        assert output.quant is not None
        fields: dict[str, int | float | Table] = {
            "elements": output.elements,
            "scale": output.quant.s,
            "zero_point": output.quant.zero_point,
            "twice_share": _twice_share(output.elements),
        }
        args = (Address(output.name), Grad(output.name, is_output=True))
        return output.name, Call("tlc_mse_f32", "tlc_mse_t", fields, args)
    node = softmax_of(graph)
    logits = graph[node.inputs[0] if node else graph.judged]
    if logits.elements != logits.shape[-1]:
        raise UsageError(
            f"softmax cross-entropy takes one row of logits, but '{logits.name}' has shape {logits.shape}",
            where="--loss softmax-ce",
            remedy="take --loss mse, or a model that classifies a sample as a whole",
        )
    scale, beta = _logit_step(graph, node, logits.name)
    fields = {"classes": logits.elements, "scale": float(scale), "beta": float(beta)}
    args = (Address(logits.name), Grad(logits.name, is_output=True))
    return logits.name, Call("tlc_softmax_ce_f32", "tlc_softmax_ce_t", fields, args)


def loss_gradient(graph: Graph, loss: Loss, top: NDArray[np.int8], target: Target) -> tuple[Float, Verdict]:
    """The gradient of the top's reals, of its shape, and the loss of one sample.

    Args:
        top: the integers of the activation that :func:`loss_head` names.
        target: a class; or, of a mean squared error, values of the output's shape.

    Raises:
        DataError: no such class.
    """
    x = top.ravel().astype(np.int32)
    predicted = int(x.argmax())
    if not isinstance(target, np.ndarray) and not 0 <= target < x.size:
        raise DataError(
            f"the label is {target}, but the network has {x.size} classes", remedy="number the classes from 0"
        )
    if loss == "mse":
        quant = graph[graph.judged].quant
        assert quant is not None
        wanted: Any = np.eye(1, x.size, target, dtype=np.float32)[0] if isinstance(target, int) else target.ravel()
        over = np.float32(quant.s) * (x - quant.zero_point).astype(np.float32) - wanted.astype(np.float32)
        total = np.cumsum(over * over, dtype=np.float32)[-1]
        share = np.float32(_twice_share(x.size))
        return (over * share).reshape(top.shape), Verdict(np.float32(total * (np.float32(0.5) * share)), predicted)
    assert isinstance(target, int | np.integer)
    node = softmax_of(graph)
    scale, beta = _logit_step(graph, node, node.inputs[0] if node else graph.judged)
    distance = (x - x.max()).astype(np.float32) * scale
    exps = exp_f32(distance)
    total = np.cumsum(exps, dtype=np.float32)[-1]
    one_hot = np.eye(1, x.size, int(target), dtype=np.float32)[0]
    gradient = (exps * (np.float32(1) / total) - one_hot) * beta
    return gradient.reshape(top.shape), Verdict(np.float32(log_f32(total) - distance[int(target)]), predicted)


def _twice_share(elements: int) -> float:
    return float(np.float32(2) / np.float32(elements))


def _logit_step(graph: Graph, node: Node | None, logits: str) -> tuple[np.float32, np.float32]:
    """What one integer step of the logits adds to an exponent, and the softmax's beta."""
    quant = graph[logits].quant
    assert quant is not None
    beta = np.float32(node.attrs.beta if node else 1.0)
    return np.float32(beta * np.float32(quant.s)), beta
