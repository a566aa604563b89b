# SPDX-License-Identifier: Apache-2.0
"""A graph → float ONNX with any number of samples on the leading axis.

An integer graph is written as the float network that it approximates: weights and biases dequantized, QUANTIZE nothing.
Layouts are ours (channels last); transposes stand where ONNX's operators want channels first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tlc.errors import ModelError, UnsupportedOperator
from tlc.graph import Graph, Node, Tensor
from tlc.ops.base import Activation

__all__ = ["BATCH", "OPSET", "write_onnx"]

OPSET = 17
IR_VERSION = 8
BATCH = "batch"
FLOAT = onnx.TensorProto.FLOAT


def write_onnx(graph: Graph, *, all_tensors: bool = False, name: str | None = None) -> onnx.ModelProto:
    """Writes a graph as ONNX, opset 17.

    Args:
        graph: float, or integer with its quantization.
        all_tensors: make every activation that a node computes an output.
        name: of the ONNX graph.

    Raises:
        UnsupportedOperator: the graph holds an operator of the model file that is not known (opaque).
    """
    return _Writer(graph).write(all_tensors, name or graph.name)


class _Writer:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.taken = set(graph.tensors)

    def write(self, all_tensors: bool, name: str) -> onnx.ModelProto:
        graph = self.graph
        for node in graph.nodes:
            self.node(node)
        outputs = list(graph.outputs)
        if all_tensors:
            outputs += [n for node in graph.nodes for n in node.outputs if n not in graph.outputs]
        known = set(graph.inputs)
        named = {}
        for output in outputs:  # ONNX Runtime wants outputs to be computed
            if output in known:
                named[output] = self.add("Identity", [output])
        proto = helper.make_graph(
            self.nodes,
            name,
            [self.info(graph[n]) for n in graph.inputs],
            [self.info(graph[n], named.get(n)) for n in dict.fromkeys(outputs)],
            list(self.initializers.values()),
        )
        model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        model.producer_name = "tlc"
        try:
            onnx.checker.check_model(model)
        except onnx.checker.ValidationError as error:
            raise ModelError(f"cannot be written as ONNX: {error}", where=name) from error
        return model

    @staticmethod
    def info(tensor: Tensor, name: str | None = None) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name or tensor.name, FLOAT, [BATCH, *tensor.shape[1:]])

    def fresh(self, stem: str) -> str:
        name, number = stem, 1
        while name in self.taken:
            name, number = f"{stem}_{number}", number + 1
        self.taken.add(name)
        return name

    def add(self, op: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        output = output or self.fresh(f"{inputs[0]}/{op}")
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=self.fresh(f"{output}/{op}"), **attributes))
        return output

    def constant(self, stem: str, data: NDArray[Any]) -> str:
        name = self.fresh(stem)
        self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(data), name)
        return name

    def real(self, name: str) -> NDArray[Any]:
        """A constant as reals."""
        tensor = self.graph[name]
        data = self.graph.data(name)
        return np.asarray(tensor.quant.dequantize(data) if tensor.quant else data, np.float32)

    def operand(self, name: str) -> str:
        """An input of an element-wise operator: an activation, or a constant that becomes an initializer."""
        if not self.graph[name].is_constant:
            return name
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(self.real(name)), name)
        return name

    def node(self, node: Node) -> None:
        if node.op == "opaque":
            raise UnsupportedOperator(
                f"only known operators can be written, but this one is not: {node.attrs.reason}",
                where=f"{node.attrs.op_type} '{node.name}'",
            )
        _WRITERS[node.op](self, node)

    def clamp(self, activation: Activation, x: str, output: str) -> None:
        if activation is Activation.NONE:
            self.add("Identity", [x], output)
        elif activation is Activation.RELU:
            self.add("Relu", [x], output)
        else:
            low, high = (self.constant(f"{output}/limit", np.array(b, np.float32)) for b in activation.bounds)
            self.add("Clip", [x, low, high], output)

    def activated(self, node: Node, op: str, inputs: Sequence[str], **attributes: Any) -> None:
        """An operator and its activation."""
        if node.attrs.activation is Activation.NONE:
            self.add(op, inputs, node.output, **attributes)
        else:
            self.clamp(node.attrs.activation, self.add(op, inputs, **attributes), node.output)

    def on_images(self, node: Node, op: str, inputs: Sequence[str], **attributes: Any) -> None:
        """An operator that wants channels first, on its first input, with an activation."""
        first = self.add("Transpose", [node.inputs[0]], self.fresh(f"{node.inputs[0]}/nchw"), perm=[0, 3, 1, 2])
        last = self.fresh(f"{node.output}/nchw")
        if node.attrs.activation is Activation.NONE:
            self.add(op, [first, *inputs], last, **attributes)
        else:
            linear = self.add(op, [first, *inputs], self.fresh(f"{node.output}/linear"), **attributes)
            self.clamp(node.attrs.activation, linear, last)
        self.add("Transpose", [last], node.output, perm=[0, 2, 3, 1])


def _conv(writer: _Writer, node: Node) -> None:
    weight = writer.real(node.inputs[1])
    groups = 1
    if node.op == "depthwise_conv2d":
        weight = weight.transpose(3, 0, 1, 2)
        groups = writer.graph[node.inputs[0]].shape[3]
    else:
        weight = weight.transpose(0, 3, 1, 2)
        groups = node.attrs.groups
    inputs = [writer.constant(node.inputs[1], weight)]
    if len(node.inputs) > 2:
        inputs.append(writer.constant(node.inputs[2], writer.real(node.inputs[2])))
    writer.on_images(
        node,
        "Conv",
        inputs,
        kernel_shape=list(weight.shape[2:]),
        strides=list(node.attrs.strides),
        dilations=list(node.attrs.dilations),
        pads=list(node.attrs.pads),
        group=groups,
    )


def _pool(writer: _Writer, node: Node) -> None:
    op = "MaxPool" if node.op == "max_pool2d" else "AveragePool"
    extra = {} if op == "MaxPool" else {"count_include_pad": 0}
    attrs = node.attrs
    writer.on_images(
        node, op, [], kernel_shape=list(attrs.kernel), strides=list(attrs.strides), pads=list(attrs.pads), **extra
    )


def _dense(writer: _Writer, node: Node) -> None:
    weight = writer.real(node.inputs[1])
    x = node.inputs[0]
    bias = writer.real(node.inputs[2]) if len(node.inputs) > 2 else None
    if len(writer.graph[x].shape) == 2:
        inputs = [x, writer.constant(node.inputs[1], weight)]
        if bias is not None:
            inputs.append(writer.constant(node.inputs[2], bias))
        writer.activated(node, "Gemm", inputs, transB=1)
    elif bias is None:
        writer.activated(node, "MatMul", [x, writer.constant(node.inputs[1], weight.T)])
    else:
        product = writer.add("MatMul", [x, writer.constant(node.inputs[1], weight.T)])
        writer.activated(node, "Add", [product, writer.constant(node.inputs[2], bias)])


def _binary(writer: _Writer, node: Node) -> None:
    op = {"add": "Add", "sub": "Sub", "mul": "Mul"}[node.op]
    writer.activated(node, op, [writer.operand(name) for name in node.inputs])


def _clamp(writer: _Writer, node: Node) -> None:
    writer.clamp(node.attrs.activation, node.inputs[0], node.output)


def _softmax(writer: _Writer, node: Node) -> None:
    x = node.inputs[0]
    if node.attrs.beta != 1.0:
        x = writer.add("Mul", [x, writer.constant(f"{x}/beta", np.array(node.attrs.beta, np.float32))])
    writer.add("Softmax", [x], node.output, axis=-1)


def _mean(writer: _Writer, node: Node) -> None:
    attrs = node.attrs
    writer.add("ReduceMean", node.inputs, node.output, axes=list(attrs.axes), keepdims=int(attrs.keep_dims))


def _reshape(writer: _Writer, node: Node) -> None:
    shape = np.array([0, *node.attrs.shape[1:]], np.int64)  # 0: as many samples as come in
    writer.add("Reshape", [node.inputs[0], writer.constant(f"{node.output}/shape", shape)], node.output)


def _transpose(writer: _Writer, node: Node) -> None:
    writer.add("Transpose", node.inputs, node.output, perm=list(node.attrs.perm))


def _pad(writer: _Writer, node: Node) -> None:
    pads = [before for before, _ in node.attrs.pads] + [after for _, after in node.attrs.pads]
    around = writer.constant(f"{node.output}/pads", np.array(pads, np.int64))
    value = writer.constant(f"{node.output}/value", np.array(node.attrs.value, np.float32))
    writer.add("Pad", [node.inputs[0], around, value], node.output)


def _batch_norm(writer: _Writer, node: Node) -> None:
    gamma, beta, mean, variance = (writer.real(name).astype(np.float64) for name in node.inputs[1:])
    scale = gamma / np.sqrt(variance + node.attrs.epsilon)
    factor = writer.constant(f"{node.output}/scale", scale.astype(np.float32))
    term = writer.constant(f"{node.output}/offset", (beta - mean * scale).astype(np.float32))
    writer.add("Add", [writer.add("Mul", [node.inputs[0], factor]), term], node.output)


def _quantize(writer: _Writer, node: Node) -> None:
    writer.add("Identity", node.inputs, node.output)


_WRITERS: dict[str, Callable[[_Writer, Node], None]] = {
    "add": _binary,
    "average_pool2d": _pool,
    "batch_norm": _batch_norm,
    "clamp": _clamp,
    "conv2d": _conv,
    "dense": _dense,
    "depthwise_conv2d": _conv,
    "max_pool2d": _pool,
    "mean": _mean,
    "mul": _binary,
    "pad": _pad,
    "quantize": _quantize,
    "reshape": _reshape,
    "softmax": _softmax,
    "sub": _binary,
    "transpose": _transpose,
}
