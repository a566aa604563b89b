# SPDX-License-Identifier: Apache-2.0
"""How much each weight and bias can lower the loss: empirical Fisher information on labelled samples.

For a tensor θ, N samples and the loss L of the whole float network (softmax cross-entropy of the true class)::

    score(θ) = Σ_d √F_d,    F_d = 1 / N · Σ_n (∂L_n / ∂θ_d)²

F_d is the diagonal of the empirical Fisher information. To first order a change of θ_d by a small ε against its gradient lowers
L_n by ε · |∂L_n / ∂θ_d|, whose root mean square is ε · √F_d: scores rank tensors by the decrease to expect when every element may
move as far as any other, and those of a selection add up.

Source: TinyTrain (arXiv 2307.09988), after Theis et al. (arXiv 1801.05787). There a channel o of an activation a with
gradient g scores 1 / (2 N) · Σ_n (Σ_d a_nd g_nd)², the loss that removing it would cost; a · g is the gradient with respect
to a factor on the channel. Ours is with respect to what learns itself, so that a bias that is zero has a score too. And it is a sum
of roots: Σ_d F_d is the decrease where each element moves by rate · gradient, but the rate is bounded by the steepest elements,
gradients are clipped, and the sum would rather have the few weights of an early layer than many later ones for as many bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.errors import DataError, ModelError, UnsupportedOperator
from tlc.extras import require
from tlc.graph import Graph, Tensor

__all__ = ["MAX_SAMPLES", "check_labels", "fisher_channels", "fisher_scores", "reals"]

MAX_SAMPLES = 256
"""Samples that are looked at; of more, as many are drawn."""
DIGITS = 6
"""Significant digits of a score: the order in which a machine adds must not decide a selection."""


def fisher_scores(
    graph: Graph,
    inputs: Mapping[str, NDArray[Any]],
    labels: NDArray[np.int64],
    wanted: Sequence[str],
    *,
    seed: int = 0,
    where: str = "labels",
) -> dict[str, float]:
    """The score of each wanted weight or bias: the sum of :func:`fisher_channels`, which says the rest."""
    axes = {name: len(graph[name].shape) - 1 for name in wanted}
    by_channel = fisher_channels(graph, inputs, labels, axes, seed=seed, where=where)
    return {name: _rounded(float(values.sum())) for name, values in by_channel.items()}


def fisher_channels(
    graph: Graph,
    inputs: Mapping[str, NDArray[Any]],
    labels: NDArray[np.int64],
    wanted: Mapping[str, int],
    *,
    seed: int = 0,
    where: str = "labels",
) -> dict[str, NDArray[np.float64]]:
    """The scores of the channels of each wanted weight or bias, (channels,): they add up.

    Args:
        graph: the whole network, canonical; of an integer one, the reals that its constants stand for are taken.
        inputs: per graph input, float32 of (samples, …) in the graph's layout.
        labels: class numbers, (samples,).
        wanted: constants of the graph, and which of their axes is the channels'.
        seed: draws the samples where there are more than ``MAX_SAMPLES``.
        where: what an error about labels names.

    Raises:
        ToolchainError: TensorFlow is not installed.
        DataError: a label is no class of the network.
        ModelError: a gradient is not finite.
        UnsupportedOperator: the network holds an operator without a TensorFlow form.
    """
    require("tensorflow")
    import tensorflow as tf

    from tlc.learn.module import GraphModule

    try:
        module = GraphModule(reals(graph))
    except UnsupportedOperator as error:
        raise UnsupportedOperator(
            "the gradient of the whole network is needed to choose what learns, and this has none",
            where=error.where,
            remedy="name what learns: --train SPEC",
        ) from None
    logits = module.logits
    classes = graph[logits].elements
    check_labels(labels, classes, where)
    chosen = np.arange(len(labels))
    if len(chosen) > MAX_SAMPLES:
        chosen = np.sort(np.random.default_rng(seed).choice(len(labels), MAX_SAMPLES, replace=False))
    names = list(wanted)
    variables = [module.weights[name] for name in names]

    @tf.function  # type: ignore[untyped-decorator,unused-ignore]
    def squares(sample: dict[str, Any], label: Any) -> Any:
        """g_d² of each wanted tensor, for one sample: each of the tensor's shape."""
        with tf.GradientTape() as tape:
            flat = tf.reshape(module(sample, [logits])[logits], [1, classes])
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=label, logits=flat)[0]
        gradients = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [tf.square(tf.cast(gradient, tf.float64)) for gradient in gradients]

    sums = [np.zeros(graph[name].shape) for name in names]
    for index in chosen:
        sample = {name: tf.constant(values[index : index + 1], tf.float32) for name, values in inputs.items()}
        for total, found in zip(sums, squares(sample, tf.constant(labels[index : index + 1])), strict=True):
            total += found.numpy()
    result = {}
    for (name, axis), total in zip(wanted.items(), sums, strict=True):
        if not np.isfinite(total).all():
            raise ModelError(
                "the gradient on the calibration data is not finite",
                where=f"tensor '{name}'",
                remedy="check the model's weights and the range of the samples",
            )
        others = tuple(other for other in range(total.ndim) if other != axis)
        roots = np.sqrt(total / len(chosen)).sum(axis=others)
        result[name] = np.array([_rounded(float(score)) for score in roots])
    return result


def check_labels(labels: NDArray[np.int64], classes: int, where: str) -> None:
    """Raises :class:`~tlc.errors.DataError` for the first label that is no class."""
    if labels.min() < 0 or labels.max() >= classes:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise DataError(
            f"label {wrong} is no class: the network has {classes}",
            where=where,
            remedy=f"number the classes from 0 to {classes - 1}",
        )


def _rounded(score: float) -> float:
    return float(f"{score:.{DIGITS - 1}e}")


def reals(graph: Graph) -> Graph:
    """A graph of the same reals in float32."""
    result = graph.copy()
    for name, tensor in graph.tensors.items():
        if tensor.quant is not None:
            data = None if tensor.data is None else tensor.quant.dequantize(tensor.data)
            result.tensors[name] = Tensor(name, tensor.shape, "float32", None, data, tensor.origin)
    return result
