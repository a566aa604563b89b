# SPDX-License-Identifier: Apache-2.0
"""Model and array files for the tests of the command line, made in milliseconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from tlc.builder import Builder
from tlc.frontends.onnx_writer import write_onnx
from tlc.frontends.tflite_writer import write_tflite
from tlc.graph import Graph, Tensor
from tlc.ops import REGISTRY
from tlc.ops.base import Activation
from tlc.passes.calibrate import calibrate
from tlc.passes.quantize import quantize

CLASSES = 5


def small(name: str = "small", seed: int = 1) -> Graph:
    """Two convolutions, a pool, a dense layer, softmax; (1, 8, 8, 1) → 5 classes. Weights that pack well: a few are
    large, so that most of their integers are small."""
    net = Builder(name, (1, 8, 8, 1), seed=seed)
    net.conv2d(4, 3, stride=2, activation=Activation.RELU)
    net.conv2d(24, 3, activation=Activation.RELU)
    net.max_pool2d(2)
    net.flatten()
    net.dense(CLASSES)
    net.softmax()
    graph = net.graph()
    for tensor in graph.tensors.values():
        if tensor.data is not None and tensor.data.ndim > 1:
            tensor.data.reshape(len(tensor.data), -1)[:, 0] *= 12
    return graph


def pair() -> Graph:
    """Two inputs, (1, 6, 6, 1) and (1, 4), that meet in an addition; then a dense layer."""
    net = Builder("pair", (1, 6, 6, 1), seed=2)
    net.conv2d(2, 3, stride=2, activation=Activation.RELU)
    net.flatten()
    one = net.dense(6)
    graph = net.graph()
    graph.add(Tensor("other", (1, 4)))
    graph.inputs.append("other")
    net.last = "other"
    two = net.dense(6)
    net.node("add", [one, two], REGISTRY["add"].Attrs(activation=Activation.RELU))
    net.dense(3)
    return net.graph()


def write_all(directory: Path) -> None:
    """``small.onnx``, ``small.tflite``, ``pair.onnx``; ``x.npy``, ``x.npz`` with labels, ``pair.npz``."""
    rng = np.random.default_rng(0)
    graph = small()
    save(graph, directory / "small.onnx")
    save(pair(), directory / "pair.onnx")
    x = rng.random((24, 8, 8, 1), np.float32)
    np.save(directory / "x.npy", x)
    np.savez(directory / "x.npz", x=x, y=rng.integers(0, CLASSES, len(x)))
    np.savez(directory / "pair.npz", input=rng.random((9, 6, 6, 1), np.float32), other=rng.random((9, 4), np.float32))
    (directory / "small.tflite").write_bytes(write_tflite(quantize(graph, calibrate(graph, {"input": x}))))


def save(graph: Graph, path: Path) -> None:
    onnx.save(write_onnx(graph), path)
