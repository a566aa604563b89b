# SPDX-License-Identifier: Apache-2.0
"""The networks, of the kind that people put on microcontrollers, and how they learn before they are compiled."""

from __future__ import annotations

from typing import Any

import numpy as np

from tlc.builder import Builder
from tlc.graph import Graph
from tlc.ops import REGISTRY
from tlc.ops.base import Activation

from .task import Set

__all__ = ["lenet", "pretrain", "residual", "speech", "watch"]

RELU = Activation.RELU


def speech(seed: int) -> Graph:
    """A depthwise-separable CNN for 49 frames of 10 MFCC."""
    net = Builder("speech", (1, 49, 10, 1), seed)
    net.conv2d(16, 3, activation=RELU)
    for channels, stride in ((32, 2), (64, 2), (64, 2), (64, 1)):
        net.depthwise_conv2d(3, stride=stride, activation=RELU)
        net.conv2d(channels, 1, activation=RELU)
    net.mean()
    net.dense(10)
    return net.graph()


def watch(seed: int) -> Graph:
    """A 1-D CNN for two seconds of six axes at 25 Hz."""
    net = Builder("watch", (1, 50, 1, 6), seed)
    for channels in (16, 32, 48):
        net.conv2d(channels, (5, 1), activation=RELU)
        net.node("max_pool2d", [net.last], REGISTRY["max_pool2d"].Attrs(kernel=(2, 1), strides=(2, 1)))
    net.mean()
    net.dense(32, activation=RELU)
    net.dense(7)
    return net.graph()


def lenet(seed: int) -> Graph:
    """LeNet-5 for 28 × 28 grey pixels, with ReLU and maxima."""
    net = Builder("lenet", (1, 28, 28, 1), seed)
    net.conv2d(6, 5, activation=RELU)
    net.max_pool2d(2)
    net.conv2d(16, 5, same=False, activation=RELU)
    net.max_pool2d(2)
    net.flatten()
    net.dense(120, activation=RELU)
    net.dense(84, activation=RELU)
    net.dense(10)
    return net.graph()


def residual(seed: int) -> Graph:
    """A residual CNN for 28 × 28 grey pixels: three blocks of two convolutions, as ResNet-8, and half as wide."""
    net = Builder("residual", (1, 28, 28, 1), seed)
    net.conv2d(8, 3, stride=2, activation=RELU)
    for channels, stride in ((8, 1), (16, 2), (32, 2)):
        before = net.last
        net.conv2d(channels, 3, stride=stride, activation=RELU)
        branch = net.conv2d(channels, 3)
        net.last = before
        short = net.conv2d(channels, 1, stride=stride) if stride > 1 else before
        net.node("add", [branch, short], REGISTRY["add"].Attrs(activation=RELU))
    net.mean()
    net.dense(10)
    return net.graph()


def pretrain(graph: Graph, samples: Set, epochs: int, seed: int, batch: int = 50) -> Graph:
    """Adam on the cross-entropy, its rate falling to a tenth in the end; the trained graph."""
    import tensorflow as tf

    from tlc.learn.module import GraphModule

    tf.keras.utils.set_random_seed(seed)
    module = GraphModule(graph)
    count = epochs * (len(samples) // batch)
    schedule = tf.keras.optimizers.schedules.CosineDecay(2e-3, count, alpha=0.1)
    optimizer = tf.keras.optimizers.Adam(schedule)
    variables = list(module.trainable_variables)
    optimizer.build(variables)

    @tf.function(input_signature=[tf.TensorSpec([None, *samples.x.shape[1:]]), tf.TensorSpec([None], tf.int64)])
    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            logits = module({"input": x}, [module.logits])[module.logits]
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        for picked in np.array_split(rng.permutation(len(samples)), len(samples) // batch):
            step(samples.x[picked], samples.y[picked])
    return module.trained()
