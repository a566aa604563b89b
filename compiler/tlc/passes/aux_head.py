# SPDX-License-Identifier: Apache-2.0
"""``--aux-head``: a classifier at the cut, on the device: average over space where the cut has one, dense, softmax.

Its weights are those of a logistic regression on the smashed data of labelled samples, or random where there are no labels. As
it is to learn, its scales leave room beyond the values that it begins with.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.graph import Graph, Node, Origin, Tensor
from tlc.ops import REGISTRY
from tlc.passes.calibrate import Ranges
from tlc.passes.quantize import quantize

__all__ = ["fit", "with_aux_head"]

Floats = NDArray[np.float64]

LOGITS = 12.0
"""The range of the logits reaches at least so far: with ten classes, to a probability of 0.9999."""
HEADROOM = 2.0
"""Of the weights, over the largest that the head begins with."""
STEPS = 300
PENALTY = 1e-3
"""On the squares of the weights of scaled features."""


def with_aux_head(
    device: Graph,
    z: NDArray[Any],
    labels: NDArray[np.int64] | None,
    classes: int,
    file_shape: tuple[int, ...],
    seed: int,
) -> Graph:
    """The integer device segment with a head behind its output.

    Args:
        device: integer, with one output.
        z: float32 (samples, ...), that output's reals.
        labels: (samples,) classes; None: the head begins with random weights.
        file_shape: of the model's output, which the head's stands for.
    """
    graph = device.copy()
    (cut,) = graph.outputs
    shape = graph[cut].shape
    axes = tuple(range(1, len(shape) - 1))
    pooled = z.mean(axis=axes, dtype=np.float64) if axes else z.astype(np.float64)
    features = shape[-1]
    if labels is None:
        weight = np.random.default_rng(seed).standard_normal((classes, features)) / (
            math.sqrt(features) * _size(pooled)
        )
        bias = np.zeros(classes)
    else:
        weight, bias = fit(pooled, labels, classes)
    last = cut
    if axes:
        last = _node(graph, "mean", [last], REGISTRY["mean"].Attrs(axes=axes), "exit_pool")
    names = []
    for name, value in (("exit.weight", weight), ("exit.bias", bias)):
        names.append(graph.constant(name, value.astype(np.float32)).name)
    pool, logits = last, _node(graph, "dense", [last, *names], REGISTRY["dense"].Attrs(), "exit")
    output = _node(graph, "softmax", [logits], REGISTRY["softmax"].Attrs(), "exit_softmax")
    graph[output].origin = Origin("exit", file_shape, tuple(range(len(file_shape))))
    graph.outputs.append(output)
    graph.aux = output
    reals = pooled @ weight.T + bias
    reach = max(float(np.abs(weight).max()) * HEADROOM, LOGITS / math.sqrt(features) / _size(pooled))
    ranges: Ranges = {
        pool: (float(pooled.min(initial=0)), float(pooled.max(initial=0))),
        logits: (min(float(reals.min()), -LOGITS), max(float(reals.max()), LOGITS)),
        names[0]: (-reach, reach),
    }
    return quantize(graph, ranges)


def fit(x: Floats, labels: NDArray[np.int64], classes: int) -> tuple[Floats, Floats]:
    """Logistic regression: weights (classes, features) and biases (classes,).

    The mean cross-entropy with a small penalty, features centred and scaled alike, by Nesterov's accelerated gradient with the step that
    the loss's curvature allows (Nesterov, 1983).

    Args:
        x: (samples, features).
        labels: (samples,), from 0.
    """
    # One scale for all features: the weights of those that hardly vary stay small, which int8 has no room for otherwise.
    mean, spread = x.mean(axis=0), max(math.sqrt(float(x.var(axis=0).mean())), 1e-6)
    inputs = np.column_stack([(x - mean) / spread, np.ones(len(x))])
    wanted = np.eye(classes)[labels]
    # The softmax's curvature is at most 1/2.
    step = 1.0 / (0.5 * float(np.linalg.norm(inputs, 2)) ** 2 / len(x) + PENALTY)
    weights = np.zeros((inputs.shape[1], classes))
    ahead = weights
    for number in range(STEPS):
        scores = inputs @ ahead
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        new = ahead - step * (inputs.T @ (p - wanted) / len(x) + PENALTY * ahead)
        ahead = new + number / (number + 3) * (new - weights)
        weights = new
    found = weights[:-1] / spread
    return found.T, weights[-1] - mean @ found


def _size(x: Floats) -> float:
    return max(float(np.sqrt(np.square(x).mean())), 1e-6)


def _node(graph: Graph, op: str, inputs: list[str], attrs: Any, name: str) -> str:
    node = Node(graph.fresh(name), op, inputs, [], attrs)
    tensor = Tensor(graph.fresh(f"{node.name}_out"), ())
    graph.add(tensor)
    node.outputs = [tensor.name]
    graph.nodes.append(node)
    tensor.shape = REGISTRY[op].infer(graph, node)
    return tensor.name
