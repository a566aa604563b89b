# SPDX-License-Identifier: Apache-2.0
"""Small ONNX models as PyTorch and Keras export them: what lies behind a cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Maker:
    """Builds a model node by node; weights are drawn from a seed."""

    def __init__(self, shape: tuple[int, ...], seed: int = 0, batch: str | int = "batch") -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.input = helper.make_tensor_value_info("z", TensorProto.FLOAT, [batch, *shape])
        self.last = "z"

    def array(self, value: Any, name: str = "") -> str:
        name = name or f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def weight(self, *shape: int, scale: float | None = None, name: str = "") -> str:
        scale = scale or 1 / np.sqrt(np.prod(shape[1:]))
        return self.array((scale * self.rng.standard_normal(shape)).astype(np.float32), name)

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        names = [f"{kind}{len(self.nodes)}" + ("" if i == 0 else f"_{i}") for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs or [self.last], names, name=names[0], **attributes))
        self.last = names[0]
        return self.last

    def norm(self, channels: int, kind: str = "BatchNormalization", **attributes: Any) -> str:
        scale = self.array((1 + 0.2 * self.rng.standard_normal(channels)).astype(np.float32))
        inputs = [self.last, scale, self.weight(channels, scale=0.3)]
        if kind == "BatchNormalization":
            inputs += [
                self.weight(channels, scale=0.3),
                self.array(self.rng.uniform(0.5, 2, channels).astype(np.float32)),
            ]
        return self.op(kind, *inputs, **attributes)

    def dense(self, inputs: int, outputs: int) -> str:
        return self.op("Gemm", self.last, self.weight(outputs, inputs), self.weight(outputs, scale=0.1), transB=1)

    def bytes(self, opset: int = 17) -> bytes:
        output = helper.make_tensor_value_info(self.last, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "host", [self.input], [output], self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        return bytes(onnx.shape_inference.infer_shapes(model).SerializeToString())


def convolutions() -> bytes:
    """Grouped, dilated and depthwise convolutions with unequal strides, norms, pools, a residual, a resize."""
    m = Maker((8, 9, 7), seed=1)
    m.op("Conv", m.last, m.weight(12, 4, 3, 3), m.weight(12, scale=0.1), group=2, pads=[1, 1, 1, 1])
    m.norm(12)
    kept = m.op("Relu")
    m.op("Conv", m.last, m.weight(12, 12, 3, 3), dilations=[2, 1], pads=[2, 1, 2, 1])
    m.op("LeakyRelu", alpha=0.1)
    m.op("Add", m.last, kept)
    m.op("HardSwish")
    m.op("Conv", m.last, m.weight(24, 1, 3, 3), group=12, strides=[2, 1], auto_pad="SAME_UPPER")
    kept = m.op("Clip", m.last, m.array(np.float32(-1)), m.array(np.float32(1.5)))
    one = m.op("MaxPool", kept, kernel_shape=[2, 2], strides=[1, 1], pads=[0, 1, 1, 0])
    other = m.op("AveragePool", kept, kernel_shape=[2, 2], strides=[1, 1], ceil_mode=1, pads=[0, 1, 1, 0])
    m.op("Concat", one, other, axis=1)
    m.op("Resize", m.last, "", m.array(np.array([1, 1, 2, 1.5], np.float32)), mode="nearest")
    m.op("ConvTranspose", m.last, m.weight(48, 3, 3, 3), m.weight(6), group=2, strides=[2, 2], pads=[1, 0, 1, 2])
    m.op("GlobalAveragePool")
    m.op("Flatten")
    m.dense(6, 5)
    m.op("Softmax", axis=1)
    return m.bytes()


def series() -> bytes:
    """1-D convolutions as PyTorch has them, then an LSTM and a GRU."""
    m = Maker((6, 16), seed=2)
    m.op("Conv", m.last, m.weight(8, 6, 5), m.weight(8), pads=[2, 2])
    m.norm(8)
    m.op("Relu")
    m.op("MaxPool", m.last, kernel_shape=[2], strides=[2])
    m.op("ConvTranspose", m.last, m.weight(8, 4, 3), strides=[2])
    m.op("PRelu", m.last, m.weight(4, 1, scale=0.2))
    m.op("Transpose", m.last, perm=[2, 0, 1])  # (time, batch, channels)
    r, b = (lambda gates, h: m.weight(2, gates * h, h, scale=0.3)), (lambda n: m.weight(2, n, scale=0.2))
    m.op("LSTM", m.last, m.weight(2, 20, 4, scale=0.4), r(4, 5), b(40), hidden_size=5, direction="bidirectional")
    m.op("Transpose", m.last, perm=[0, 2, 1, 3])
    m.op("Reshape", m.last, m.array(np.array([0, 0, 10])))
    w, r2, b2 = m.weight(1, 9, 10, scale=0.4), m.weight(1, 9, 3, scale=0.4), m.weight(1, 18, scale=0.2)
    m.nodes.append(helper.make_node("GRU", [m.last, w, r2, b2], ["", "h"], hidden_size=3, linear_before_reset=1))
    m.last = "h"
    m.op("Squeeze", m.last, m.array(np.array([0])))
    m.dense(3, 4)
    return m.bytes()


def attention() -> bytes:
    """A transformer block as PyTorch exports it: decomposed GELU, an einsum-free attention, layer norms, dropout."""
    m = Maker((6, 8), seed=3)
    m.op("Add", m.last, m.weight(1, 6, 8, scale=0.1, name="positions"))
    start = m.norm(8, "LayerNormalization", axis=-1)
    m.op("MatMul", start, m.weight(8, 24))
    m.op("Add", m.last, m.weight(24, scale=0.1))
    m.op("Reshape", m.last, m.array(np.array([0, 6, 3, 2, 4])))
    heads = m.op("Transpose", m.last, perm=[2, 0, 3, 1, 4])
    parts = [m.op("Gather", heads, m.array(np.array(i)), axis=0) for i in range(3)]
    m.op("Transpose", parts[1], perm=[0, 1, 3, 2])
    m.op("MatMul", parts[0], m.last)
    m.op("Div", m.last, m.array(np.float32(2.0)))
    m.op("Softmax", axis=-1)
    m.op("MatMul", m.last, parts[2])
    m.op("Transpose", m.last, perm=[0, 2, 1, 3])
    m.op("Reshape", m.last, m.array(np.array([0, 6, 8])))
    x = m.op("Add", m.last, start)
    m.op("Div", x, m.array(np.float32(np.sqrt(2.0))))
    m.op("Erf")
    m.op("Add", m.last, m.array(np.float32(1.0)))
    m.op("Mul", x, m.last)
    m.op("Mul", m.last, m.array(np.float32(0.5)))
    m.op("Dropout", m.last, m.array(np.float32(0.3)))
    m.op("ReduceMean", axes=[1], keepdims=0)
    m.op("MatMul", m.last, m.op("Transpose", m.weight(3, 8, name="head"), perm=[1, 0]))
    m.op("LogSoftmax", axis=-1)
    return m.bytes()


def bound_to_one() -> bytes:
    """Its Reshape folds the batch away: it takes one sample at a time."""
    m = Maker((4, 3), seed=4, batch=1)
    m.op("Reshape", m.last, m.array(np.array([3, 4])))
    m.op("Relu")
    m.op("Reshape", m.last, m.array(np.array([1, 12])))
    m.dense(12, 3)
    m.op("Softmax")
    return m.bytes()


MODELS: dict[str, Callable[[], bytes]] = {
    "attention": attention,
    "bound_to_one": bound_to_one,
    "convolutions": convolutions,
    "series": series,
}
SHAPES = {"attention": (6, 8), "bound_to_one": (4, 3), "convolutions": (8, 9, 7), "series": (6, 16)}
CLASSES = {"attention": 3, "bound_to_one": 3, "convolutions": 5, "series": 4}
