# SPDX-License-Identifier: Apache-2.0
"""Graphs and ``.tflite`` files for tests: an integer network of all operators, and files made field by field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tlc.frontends.tflite_pack import pack_model
from tlc.frontends.tflite_schema import OPTIONS, BuiltinOperator, TensorType
from tlc.graph import Graph, Node, Quant, Tensor
from tlc.ops import REGISTRY
from tlc.ops.base import Activation


class Network:
    """Builds an integer graph layer by layer, weights and scales at random."""

    def __init__(self, seed: int, name: str = "net") -> None:
        self.rng = np.random.default_rng(seed)
        self.graph = Graph(name)

    def input(self, name: str, *shape: int) -> str:
        """A model input."""
        self.graph.add(Tensor(name, shape, "int8", Quant.per_tensor(0.05, -3)))
        self.graph.inputs.append(name)
        return name

    def node(
        self, op: str, inputs: Sequence[str], scale: float | None = 0.05, zero_point: int = 4, **attrs: Any
    ) -> str:
        """One node; ``scale`` None keeps the first input's quantization."""
        name = self.graph.fresh(op)
        output = f"{name}:out"
        quant = self.graph[inputs[0]].quant if scale is None else Quant.per_tensor(scale, zero_point)
        node = Node(name, op, list(inputs), [output], REGISTRY[op].Attrs(**attrs))
        self.graph.add(Tensor(output, REGISTRY[op].infer(self.graph, node), "int8", quant))
        self.graph.nodes.append(node)
        return output

    def layer(self, op: str, x: str, *weight: int, bias: bool = True, **attrs: Any) -> str:
        """One node with weights, of which some are -128."""
        axis = {"conv2d": 0, "depthwise_conv2d": 3, "dense": 0}[op]
        channels = weight[axis]
        data = self.rng.integers(-128, 128, weight).astype(np.int8)
        data.flat[0] = -128
        scales = self.rng.uniform(0.001, 0.01, channels).astype(np.float32)
        inputs = [x, self.graph.constant(f"{op}/w", data, Quant(scales, 0, axis)).name]
        if bias:
            unit = self.graph[x].quant
            assert unit is not None
            values = self.rng.integers(-2000, 2000, channels).astype(np.int32)
            quant = Quant((np.float32(unit.s) * scales).astype(np.float32), 0, 0)
            inputs.append(self.graph.constant(f"{op}/b", values, quant).name)
        return self.node(op, inputs, **attrs)

    def done(self, *outputs: str) -> Graph:
        """The graph."""
        self.graph.outputs = list(outputs)
        return self.graph


def all_operators(seed: int = 0) -> Graph:
    """A network in which every operator that TFLite has a form for occurs."""
    net = Network(seed)
    rng = net.rng
    x = net.input("image", 1, 11, 10, 4)
    y = net.layer("conv2d", x, 8, 3, 3, 4, strides=(2, 1), pads=(1, 1, 1, 1), activation=Activation.RELU)
    y = net.layer("conv2d", y, 8, 3, 2, 4, groups=2, pads=(0, 1, 0, 0), bias=False)
    y = net.layer("depthwise_conv2d", y, 1, 3, 3, 16, pads=(2, 2, 2, 2), dilations=(2, 2), activation=Activation.RELU6)
    y = net.node("max_pool2d", [y], None, kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    y = net.node("average_pool2d", [y], None, kernel=(2, 2), strides=(1, 1), pads=(0, 0, 1, 1))
    shortcut = net.layer("conv2d", y, 16, 1, 1, 16)
    y = net.node("add", [y, shortcut], 0.08, activation=Activation.RELU_N1_TO_1)
    row = net.graph.constant("row", rng.integers(-128, 128, (1, 1, 1, 16)).astype(np.int8), Quant.per_tensor(0.02, 7))
    y = net.node("mul", [y, row.name], 0.03)
    y = net.node("sub", [shortcut, y], 0.06)
    y = net.node("clamp", [y], 0.04, -128, activation=Activation.RELU)
    y = net.node("clamp", [y], 0.03, -100, activation=Activation.RELU6)
    y = net.node("quantize", [y], 0.05)
    y = net.node("pad", [y], None, pads=((0, 0), (0, 1), (1, 0), (0, 0)), value=-1.5)
    y = net.node("pad", [y], None, pads=((0, 0), (1, 1), (0, 0), (0, 0)))
    y = net.node("transpose", [y], None, perm=(0, 3, 1, 2))
    y = net.node("mean", [y], 0.02, axes=(2, 3), keep_dims=False)
    y = net.node("reshape", [y], None, shape=(1, 4, 4))
    y = net.layer("dense", y, 6, 4, activation=Activation.RELU)
    y = net.node("reshape", [y], None, shape=(1, 24))
    y = net.layer("dense", y, 10, 24, bias=False, scale=0.1)
    y = net.node("softmax", [y], 1 / 256, -128)
    return net.done(y)


def tensor(
    name: str, shape: Sequence[int], scale: float | None = 0.05, zero_point: int = 0, **fields: Any
) -> dict[str, Any]:
    """A ``Tensor`` table; int8 unless ``fields`` says otherwise."""
    table: dict[str, Any] = {"name": name, "shape": shape, "type": TensorType.INT8, **fields}
    if scale is not None and "quantization" not in fields:
        table["quantization"] = {"scale": [scale], "zero_point": [zero_point]}
    return table


def file_of(
    tensors: Sequence[dict[str, Any]],
    operators: Sequence[tuple[Any, ...]],
    inputs: Sequence[int],
    outputs: Sequence[int],
    **model: Any,
) -> bytes:
    """A file of one subgraph.

    Args:
        tensors: tables, where ``data`` stands for a buffer with these bytes.
        operators: (kind, inputs, outputs) or (kind, inputs, outputs, options' name, options); kind is the name of a
            builtin operator, a number, or the name of a custom operator.
        model: fields of the ``Model`` table that replace ours.
    """
    buffers: list[dict[str, Any]] = [{}]
    tables = []
    for item in tensors:
        table = dict(item)
        if "data" in table:
            data = np.asarray(table.pop("data"))
            table["buffer"] = len(buffers)
            buffers.append({"data": np.frombuffer(data.tobytes(), np.uint8)})
        tables.append(table)
    codes: list[dict[str, Any]] = []
    nodes = []
    for kind, reads, writes, *options in operators:
        if isinstance(kind, int) or kind in BuiltinOperator.__members__:
            number = kind if isinstance(kind, int) else BuiltinOperator[kind]
            codes.append({"deprecated_builtin_code": min(number, 127), "builtin_code": number})
        else:
            codes.append({"deprecated_builtin_code": 32, "builtin_code": 32, "custom_code": kind})
        node: dict[str, Any] = {"opcode_index": len(codes) - 1, "inputs": reads, "outputs": writes}
        if options:
            node |= {"builtin_options_type": OPTIONS[options[0]][0], "builtin_options": (options[0], options[1])}
        nodes.append(node)
    main = {"tensors": tables, "inputs": inputs, "outputs": outputs, "operators": nodes, "name": "main"}
    fields: dict[str, Any] = {
        "version": 3,
        "operator_codes": codes,
        "subgraphs": [main],
        "description": "test",
        "buffers": buffers,
    }
    return pack_model(fields | model)
