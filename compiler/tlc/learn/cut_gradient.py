# SPDX-License-Identifier: Apache-2.0
"""The gradients that a host will hand in: of the softmax cross-entropy of labelled samples, where the device segment ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.errors import UnsupportedOperator
from tlc.extras import require
from tlc.graph import Graph
from tlc.learn.sensitivity import check_labels, reals

__all__ = ["gradients_at"]


def gradients_at(
    graph: Graph, tensor: str, inputs: Mapping[str, NDArray[Any]], labels: NDArray[np.int64], *, where: str = "labels"
) -> NDArray[np.float32]:
    """d loss / d tensor of each sample, float32 (samples, …).

    Args:
        graph: the whole network, canonical; of an integer one, the reals that its constants stand for are taken.
        tensor: an activation of it.
        inputs: per graph input, float32 of (samples, …) in the graph's layout.
        labels: class numbers, (samples,).
        where: what an error about labels names.

    Raises:
        ToolchainError: TensorFlow is not installed.
        DataError: a label is no class of the network.
        UnsupportedOperator: the network holds an operator without a TensorFlow form.
    """
    require("tensorflow")
    import tensorflow as tf

    from tlc.learn.module import GraphModule

    try:
        module = GraphModule(reals(graph))
    except UnsupportedOperator as error:
        raise UnsupportedOperator(
            "the gradient at the cut is needed to find static scales, and this has none",
            where=error.where,
            remedy="--train-scales dynamic",
        ) from None
    logits, classes = module.logits, graph[module.logits].elements
    check_labels(labels, classes, where)
    behind = tensor == graph.outputs[0] and tensor != logits  # a softmax that the device computes
    found = []
    for index, label in enumerate(labels):
        sample = {name: tf.constant(values[index : index + 1], tf.float32) for name, values in inputs.items()}
        with tf.GradientTape() as tape:
            values = module(sample, [logits, tensor])
            if behind:
                loss = -tf.math.log(tf.reshape(values[tensor], [-1])[label] + 1e-7)
            else:
                flat = tf.reshape(values[logits], [1, classes])
                loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=[label], logits=flat)[0]
        found.append(tape.gradient(loss, values[tensor]).numpy())
    return np.concatenate(found).astype(np.float32)
