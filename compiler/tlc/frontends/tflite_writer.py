# SPDX-License-Identifier: Apache-2.0
"""A graph as a ``.tflite`` file that the interpreters of LiteRT and of TFLite Micro run.

The integer graph's arithmetic contract is theirs, so the file computes what the device computes, byte for byte. What
TFLite has no operator for is written as operators that compute the same: padding that is neither SAME nor VALID as a
PAD before a VALID layer, a stand-alone clamp to [-1, 1] as MAXIMUM and MINIMUM (TFLite Micro has no RELU_N1_TO_1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.errors import ModelError, UnsupportedOperator
from tlc.frontends.tflite_pack import pack_model
from tlc.frontends.tflite_schema import (
    OPTIONS,
    SCHEMA_VERSION,
    BuiltinOperator,
    FusedActivation,
    Padding,
    TensorType,
    same_pads,
)
from tlc.graph import DType, Graph, Node, Quant, Shape, Tensor
from tlc.ops.base import Activation, activation_range

__all__ = ["write_tflite"]

_TYPES = {"float32": TensorType.FLOAT32, "int8": TensorType.INT8, "int32": TensorType.INT32}
_FUSED = {activation: FusedActivation[activation.name] for activation in Activation}


def write_tflite(graph: Graph, *, description: str = "tlc") -> bytes:
    """The graph as a TFLite flatbuffer; the same graph gives the same bytes.

    Args:
        graph: integer (int8 activations with a quantization, int8 weights, int32 biases) or float32.
        description: free text in the file.

    Raises:
        UnsupportedOperator: for a node that no sequence of TFLite operators computes exactly: an opaque operator, or an
            average pool with explicit padding that is not SAME's.
        ModelError: for an int8 tensor without a quantization.
    """
    writer = _Writer(graph)
    for node in graph.nodes:
        writer.node(node)
    return writer.finish(description)


@dataclass
class _Code:
    """An operator code of the file."""

    operator: BuiltinOperator
    version: int


class _Writer:
    """Collects the file's tensors, buffers and operators."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.is_integer = any(tensor.dtype == "int8" for tensor in graph.tensors.values())
        self.tensors: list[dict[str, Any]] = []
        self.buffers: list[dict[str, Any]] = [{}]  # buffer 0 is empty by the format: "no constant"
        self.codes: list[_Code] = []
        self.operators: list[dict[str, Any]] = []
        self.index: dict[tuple[Any, ...], int] = {}
        self.names: set[str] = set(graph.tensors)
        self.lowering: dict[str, Callable[[Node], None]] = {
            "conv2d": self.conv2d,
            "depthwise_conv2d": self.depthwise_conv2d,
            "dense": self.dense,
            "add": self.arithmetic,
            "sub": self.arithmetic,
            "mul": self.arithmetic,
            "clamp": self.clamp,
            "softmax": self.softmax,
            "max_pool2d": self.max_pool2d,
            "average_pool2d": self.average_pool2d,
            "mean": self.mean,
            "reshape": self.reshape,
            "transpose": self.transpose,
            "pad": self.pad,
            "batch_norm": self.batch_norm,
            "quantize": self.quantize,
        }
        self.edge_inputs = [self.tensor(graph[name]) for name in graph.inputs]

    def node(self, node: Node) -> None:
        """Writes one node."""
        lower = self.lowering.get(node.op)
        if lower is None:
            reason = getattr(node.attrs, "op_type", node.op)
            raise self.unsupported(node, f"'{reason}' has no TFLite form")
        lower(node)

    def finish(self, description: str) -> bytes:
        """The file."""
        outputs = [self.tensor(self.graph[name]) for name in self.graph.outputs]
        return pack_model(
            {
                "version": SCHEMA_VERSION,
                "operator_codes": [
                    {
                        "deprecated_builtin_code": min(code.operator, BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES),
                        "version": code.version,
                        "builtin_code": code.operator,
                    }
                    for code in self.codes
                ],
                "subgraphs": [
                    {
                        "tensors": self.tensors,
                        "inputs": self.edge_inputs,
                        "outputs": outputs,
                        "operators": self.operators,
                        "name": self.graph.name,
                    }
                ],
                "description": description,
                "buffers": self.buffers,
            }
        )

    # ---- the parts -------------------------------------------------------------------------------------------------

    def tensor(self, tensor: Tensor, quant: Quant | None = None) -> int:
        """The file's index of a tensor, written once for each quantization it is read with."""
        quant = quant or tensor.quant
        if tensor.dtype == "int8" and quant is None:
            raise ModelError("an int8 tensor must have a scale, but it has none", where=f"tensor '{tensor.name}'")
        scales = () if quant is None else (quant.scale.tobytes(), quant.zero_point, quant.axis)
        key = (tensor.name, *scales)
        if key not in self.index:
            taken = any(known[0] == tensor.name for known in self.index)
            name = self.fresh(tensor.name) if taken else tensor.name
            self.index[key] = self.new_tensor(name, tensor.shape, _TYPES[tensor.dtype], quant, tensor.data)
        return self.index[key]

    def new_tensor(
        self, name: str, shape: Shape, dtype: TensorType, quant: Quant | None, data: NDArray[Any] | None = None
    ) -> int:
        """Adds a tensor, and a buffer where it is constant."""
        spec: dict[str, Any] = {"shape": shape, "type": dtype, "name": name}
        if data is not None:
            little = np.ascontiguousarray(data, data.dtype.newbyteorder("<"))
            spec["buffer"] = len(self.buffers)
            self.buffers.append({"data": np.frombuffer(little.tobytes(), np.uint8)})
        if quant is not None:
            spec["quantization"] = {
                "scale": quant.scale,
                "zero_point": np.full(quant.scale.size, quant.zero_point, np.int64),
                "quantized_dimension": quant.axis or 0,
            }
        self.tensors.append(spec)
        return len(self.tensors) - 1

    def fresh(self, stem: str) -> str:
        """A tensor name that is not taken."""
        name, number = stem, 0
        while name in self.names:
            number += 1
            name = f"{stem}_{number}"
        self.names.add(name)
        return name

    def integers(self, node: Node, role: str, values: Any) -> int:
        """A constant int32 tensor: axes, shapes, paddings."""
        data = np.asarray(values, np.int32)
        return self.new_tensor(self.fresh(f"{node.name}/{role}"), data.shape, TensorType.INT32, None, data)

    def activation(self, node: Node, role: str, shape: Shape, like: Tensor) -> int:
        """An activation between two operators that one node becomes, quantized as ``like``."""
        return self.new_tensor(self.fresh(f"{node.name}/{role}"), shape, _TYPES[like.dtype], like.quant)

    def emit(
        self,
        operator: BuiltinOperator,
        version: int,
        inputs: Sequence[int],
        output: int,
        options: tuple[str, dict[str, Any]] | None = None,
    ) -> None:
        """Adds an operator."""
        code = _Code(operator, version)
        if code not in self.codes:
            self.codes.append(code)
        spec: dict[str, Any] = {"opcode_index": self.codes.index(code), "inputs": list(inputs), "outputs": [output]}
        if options is not None:
            spec["builtin_options_type"] = OPTIONS[options[0]][0]
            spec["builtin_options"] = options
        self.operators.append(spec)

    def values(self, node: Node) -> tuple[list[Tensor], Tensor, int]:
        """A node's inputs, its output, and the output's index."""
        output = self.graph[node.output]
        return [self.graph[name] for name in node.inputs], output, self.tensor(output)

    def same_quant(self, node: Node) -> None:
        """TFLite copies integers here: both sides must mean the same by them."""
        x, y = self.graph[node.inputs[0]], self.graph[node.output]
        if x.quant is not None and not x.quant.same(y.quant):
            raise self.unsupported(node, "input and output must have one scale and zero point, but they differ")

    def unsupported(self, node: Node, rule: str) -> UnsupportedOperator:
        """The error for a node without an exact TFLite form."""
        remedy = "the model runs on the device, but cannot be written as .tflite"
        return UnsupportedOperator(rule, where=f"{node.op} '{node.name}'", remedy=remedy)

    def version(self, integer: int, real: int = 1) -> int:
        """An operator's version for int8 and for float32."""
        return integer if self.is_integer else real

    # ---- layers with weights ---------------------------------------------------------------------------------------

    def bias(self, node: Node, channels: int | None = None) -> list[int]:
        """The bias as a list of none or one; its scale is the product of the input's and the weights'.

        Args:
            channels: of a convolution: without a bias it gets zeros, as LiteRT demands one of grouped convolutions.
        """
        x, w = (self.graph[name] for name in node.inputs[:2])
        quant = None
        if x.quant is not None and w.quant is not None:
            scale = np.float32(x.quant.s) * w.quant.scale
            quant = Quant(scale.astype(np.float32), 0, 0 if scale.size > 1 else None)
        if len(node.inputs) > 2:
            return [self.tensor(self.graph[node.inputs[2]], quant)]
        if channels is None:
            return []
        dtype: DType = "int32" if self.is_integer else "float32"
        zeros = np.zeros(channels, np.dtype(dtype))
        return [self.new_tensor(self.fresh(f"{node.name}/bias"), zeros.shape, _TYPES[dtype], quant, zeros)]

    def conv2d(self, node: Node) -> None:
        (x, w, *_), y, out = self.values(node)
        version = 6 if node.attrs.groups > 1 else self.version(3, 2 if max(node.attrs.dilations) > 1 else 1)
        source, padding = self.padded(node, x, y, w.shape[1:3], node.attrs.dilations)
        self.emit(
            BuiltinOperator.CONV_2D,
            version,
            [source, self.tensor(w), *self.bias(node, y.shape[3])],
            out,
            ("Conv2DOptions", self.window(node, padding) | self.dilation(node)),
        )

    def depthwise_conv2d(self, node: Node) -> None:
        (x, w, *_), y, out = self.values(node)
        source, padding = self.padded(node, x, y, w.shape[1:3], node.attrs.dilations)
        multiplier = {"depth_multiplier": w.shape[3] // x.shape[3]}
        self.emit(
            BuiltinOperator.DEPTHWISE_CONV_2D,
            self.version(3, 2 if max(node.attrs.dilations) > 1 else 1),
            [source, self.tensor(w), *self.bias(node, y.shape[3])],
            out,
            ("DepthwiseConv2DOptions", self.window(node, padding) | self.dilation(node) | multiplier),
        )

    def dense(self, node: Node) -> None:
        (x, w, *_), _, out = self.values(node)
        keep = len(x.shape) != 2
        version = 6 if len(node.inputs) < 3 else 5 if keep else self.version(4)
        options = {"fused_activation_function": _FUSED[node.attrs.activation], "keep_num_dims": keep}
        inputs = [self.tensor(x), self.tensor(w), *self.bias(node)]
        self.emit(BuiltinOperator.FULLY_CONNECTED, version, inputs, out, ("FullyConnectedOptions", options))

    # ---- windows ---------------------------------------------------------------------------------------------------

    def window(self, node: Node, padding: Padding) -> dict[str, Any]:
        """The options that convolutions and pools share."""
        return {
            "padding": padding,
            "stride_h": node.attrs.strides[0],
            "stride_w": node.attrs.strides[1],
            "fused_activation_function": _FUSED[node.attrs.activation],
        }

    def dilation(self, node: Node) -> dict[str, Any]:
        """The options of dilated convolutions."""
        return {"dilation_h_factor": node.attrs.dilations[0], "dilation_w_factor": node.attrs.dilations[1]}

    def implicit_padding(self, node: Node, x: Tensor, y: Tensor, kernel: Shape, dilations: Shape) -> Padding | None:
        """SAME or VALID where either reads the same values. Padding below the last window does not matter."""
        strides = node.attrs.strides
        outputs, starts = y.shape[1:3], node.attrs.pads[:2]
        spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        sizes = x.shape[1:3]
        valid = tuple((n - span) // s + 1 for n, span, s in zip(sizes, spans, strides, strict=True))
        if starts == (0, 0) and outputs == valid:
            return Padding.VALID
        same = tuple(-(-n // s) for n, s in zip(sizes, strides, strict=True))
        firsts = tuple(same_pads(n, k, s, d)[0] for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True))
        return Padding.SAME if starts == firsts and outputs == same else None

    def padded(self, node: Node, x: Tensor, y: Tensor, kernel: Shape, dilations: Shape) -> tuple[int, Padding]:
        """The layer's input, padded by an operator of its own where TFLite's layer cannot, and what is left to pad."""
        padding = self.implicit_padding(node, x, y, kernel, dilations)
        if padding is not None:
            return self.tensor(x), padding
        return self.zeros_around(node, x, None), Padding.VALID

    def zeros_around(self, node: Node, x: Tensor, fill: float | int | None) -> int:
        """Writes the padding of a window operator; ``fill`` is the value as stored, None for a real zero."""
        top, left, bottom, right = node.attrs.pads
        n, height, width, channels = x.shape
        source = self.activation(node, "padded", (n, height + top + bottom, width + left + right, channels), x)
        self.emit_pad(node, self.tensor(x), ((0, 0), (top, bottom), (left, right), (0, 0)), source, x, fill)
        return source

    def emit_pad(self, node: Node, x: int, pads: Any, out: int, like: Tensor, fill: float | int | None) -> None:
        """PAD, or PADV2 where the value is not a real zero."""
        inputs = [x, self.integers(node, "paddings", pads)]
        if fill is None:
            self.emit(BuiltinOperator.PAD, self.version(2), inputs, out, ("PadOptions", {}))
            return
        data = np.array(fill, np.dtype(like.dtype))
        inputs.append(self.new_tensor(self.fresh(f"{node.name}/value"), (), _TYPES[like.dtype], like.quant, data))
        self.emit(BuiltinOperator.PADV2, self.version(2), inputs, out, ("PadV2Options", {}))

    def pool(self, node: Node, operator: BuiltinOperator, source: int, padding: Padding) -> None:
        """Writes a pool over an input that is padded already, or needs no more than ``padding``."""
        options = self.window(node, padding) | {
            "filter_height": node.attrs.kernel[0],
            "filter_width": node.attrs.kernel[1],
        }
        self.emit(operator, self.version(2), [source], self.tensor(self.graph[node.output]), ("Pool2DOptions", options))

    def max_pool2d(self, node: Node) -> None:
        self.same_quant(node)
        (x,), y, _ = self.values(node)
        padding = self.implicit_padding(node, x, y, node.attrs.kernel, (1, 1))
        if padding is not None:
            self.pool(node, BuiltinOperator.MAX_POOL_2D, self.tensor(x), padding)
            return
        lowest = -128 if self.is_integer else float(np.finfo(np.float32).min)
        self.pool(node, BuiltinOperator.MAX_POOL_2D, self.zeros_around(node, x, lowest), Padding.VALID)

    def average_pool2d(self, node: Node) -> None:
        self.same_quant(node)
        (x,), y, _ = self.values(node)
        padding = self.implicit_padding(node, x, y, node.attrs.kernel, (1, 1))
        if padding is None:
            rule = (
                "TFLite averages over values only, so its padding must be that of SAME or VALID, "
                f"but it is {node.attrs.pads} (top, left, bottom, right)"
            )
            raise self.unsupported(node, rule)
        self.pool(node, BuiltinOperator.AVERAGE_POOL_2D, self.tensor(x), padding)

    # ---- value by value --------------------------------------------------------------------------------------------

    def arithmetic(self, node: Node) -> None:
        (a, b), _, out = self.values(node)
        operator, name = {
            "add": (BuiltinOperator.ADD, "AddOptions"),
            "sub": (BuiltinOperator.SUB, "SubOptions"),
            "mul": (BuiltinOperator.MUL, "MulOptions"),
        }[node.op]
        options = {"fused_activation_function": _FUSED[node.attrs.activation]}
        self.emit(operator, self.version(2), [self.tensor(a), self.tensor(b)], out, (name, options))

    def clamp(self, node: Node) -> None:
        (x,), y, out = self.values(node)
        activation = node.attrs.activation
        if activation is Activation.RELU:
            self.emit(BuiltinOperator.RELU, self.version(2), [self.tensor(x)], out)
            return
        # TFLite Micro's RELU6 does not requantize as LiteRT's does: a QUANTIZE before it makes both agree.
        source, requantizes = self.tensor(x), x.quant is not None and not x.quant.same(y.quant)
        if requantizes:
            source = out if activation is Activation.NONE else self.activation(node, "requantized", x.shape, y)
            self.emit(BuiltinOperator.QUANTIZE, 2, [self.tensor(x)], source, ("QuantizeOptions", {}))
        if activation is Activation.RELU6:
            self.emit(BuiltinOperator.RELU6, self.version(2), [source], out)
        elif activation is Activation.RELU_N1_TO_1:
            low, high = activation.bounds if y.quant is None else activation_range(activation, y.quant)
            between = self.activation(node, "at_least", x.shape, y)
            for operator, bound, at, to in (
                (BuiltinOperator.MAXIMUM, low, source, between),
                (BuiltinOperator.MINIMUM, high, between, out),
            ):
                data = np.array(bound, np.dtype(y.dtype))
                limit = self.new_tensor(self.fresh(f"{node.name}/bound"), (), _TYPES[y.dtype], y.quant, data)
                self.emit(operator, self.version(2), [at, limit], to, ("MaximumMinimumOptions", {}))
        elif not requantizes:
            self.emit_reshape(node, source, out, y.shape)

    def quantize(self, node: Node) -> None:
        (x,), _, out = self.values(node)
        self.emit(BuiltinOperator.QUANTIZE, 2, [self.tensor(x)], out, ("QuantizeOptions", {}))

    def softmax(self, node: Node) -> None:
        (x,), _, out = self.values(node)
        options = {"beta": node.attrs.beta}
        self.emit(BuiltinOperator.SOFTMAX, self.version(2), [self.tensor(x)], out, ("SoftmaxOptions", options))

    def batch_norm(self, node: Node) -> None:
        """MUL and ADD: only float graphs hold a batch norm."""
        x, y = self.graph[node.inputs[0]], self.graph[node.output]
        gamma, beta, mean, variance = (self.graph.data(name).astype(np.float64) for name in node.inputs[1:5])
        scale = gamma / np.sqrt(variance + node.attrs.epsilon)
        scaled = self.activation(node, "scaled", x.shape, y)
        options = {"fused_activation_function": FusedActivation.NONE}
        source = self.tensor(x)
        for operator, name, values, to in (
            (BuiltinOperator.MUL, "Mul", scale, scaled),
            (BuiltinOperator.ADD, "Add", beta - mean * scale, self.tensor(y)),
        ):
            data = values.astype(np.float32)
            constant = self.new_tensor(self.fresh(f"{node.name}/{name}"), data.shape, TensorType.FLOAT32, None, data)
            self.emit(operator, 1, [source, constant], to, (f"{name}Options", options))
            source = to

    # ---- shape -----------------------------------------------------------------------------------------------------

    def mean(self, node: Node) -> None:
        (x,), _, out = self.values(node)
        inputs = [self.tensor(x), self.integers(node, "axes", node.attrs.axes)]
        options = {"keep_dims": node.attrs.keep_dims}
        self.emit(BuiltinOperator.MEAN, self.version(2), inputs, out, ("ReducerOptions", options))

    def reshape(self, node: Node) -> None:
        self.same_quant(node)
        (x,), y, out = self.values(node)
        self.emit_reshape(node, self.tensor(x), out, y.shape)

    def emit_reshape(self, node: Node, x: int, out: int, shape: Shape) -> None:
        """RESHAPE, its shape both as a constant (LiteRT) and as an option (older readers)."""
        inputs = [x, self.integers(node, "shape", shape)]
        self.emit(BuiltinOperator.RESHAPE, 1, inputs, out, ("ReshapeOptions", {"new_shape": shape}))

    def transpose(self, node: Node) -> None:
        self.same_quant(node)
        (x,), _, out = self.values(node)
        inputs = [self.tensor(x), self.integers(node, "perm", node.attrs.perm)]
        self.emit(BuiltinOperator.TRANSPOSE, self.version(2), inputs, out, ("TransposeOptions", {}))

    def pad(self, node: Node) -> None:
        self.same_quant(node)
        (x,), _, out = self.values(node)
        value = float(node.attrs.value)
        fill: float | int | None = None if value == 0.0 else value
        if fill is not None and x.quant is not None:
            fill = int(x.quant.quantize(np.array(value)))
        self.emit_pad(node, self.tensor(x), node.attrs.pads, out, x, fill)
