# SPDX-License-Identifier: Apache-2.0
"""Float ONNX (opsets 7 to 26) → :class:`~tlc.graph.Graph`.

Every tensor of the file that is known becomes a tensor of the same name in the file's layout; where an operator of ours
wants channels last, transposes stand before and after it. :func:`tlc.passes.canonicalize.canonicalize` takes them away.
What cannot be said by our operators becomes an ``opaque`` node with the reason, so that the graph is always whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tlc.build import attributes, emit
from tlc.errors import ModelError
from tlc.frontends.onnx_load import captured, load_onnx, opset_of, shape_of
from tlc.graph import Graph, Node, Origin, Shape, Tensor
from tlc.ops import REGISTRY
from tlc.ops.base import Activation

__all__ = ["read_onnx"]

Array = NDArray[Any]
FLOAT = onnx.TensorProto.FLOAT
UNBOUNDED = 3.0e38
"""A clip limit from there on is none: exporters write the largest float32 for it."""


def read_onnx(model: str | Path | bytes, shapes: Mapping[str, Shape] | None = None) -> Graph:
    """Reads a model.

    Args:
        model: a file, or its bytes.
        shapes: per input, the shape that replaces the file's.

    Raises:
        ModelError: the file is no ONNX model of a supported opset, is damaged, has a symbolic dimension beside the
            batch, or weights that are not finite.
        UsageError: ``shapes`` does not fit the model's inputs.
    """
    name = "model" if isinstance(model, bytes) else Path(model).stem
    return _Reader(load_onnx(model, shapes), name).read()


class _Opaque(Exception):
    """Why an operator stays opaque."""


@dataclass(frozen=True)
class _Call:
    """A node of the file."""

    proto: onnx.NodeProto
    attributes: Mapping[str, Any]

    def input(self, index: int) -> str:
        """A name, or "" where it is left out."""
        return str(self.proto.input[index]) if index < len(self.proto.input) else ""

    @property
    def output(self) -> str:
        return str(self.proto.output[0])

    def ints(self, name: str, default: Sequence[int]) -> tuple[int, ...]:
        return tuple(int(i) for i in self.attributes.get(name, default))

    def int(self, name: str, default: int) -> int:
        return int(self.attributes.get(name, default))

    def float(self, name: str, default: float) -> float:
        return float(self.attributes.get(name, default))

    def text(self, name: str, default: str) -> str:
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)


class _Reader:
    def __init__(self, proto: onnx.ModelProto, name: str) -> None:
        self.proto = proto
        self.opset = opset_of(proto)
        self.graph = Graph(name)
        self.constants: dict[str, Array] = {}
        self.tensors: dict[str, str] = {}  # the file's name → ours
        self.info: dict[str, onnx.ValueInfoProto] = {}
        for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output):
            self.info[value.name] = value

    def read(self) -> Graph:
        graph = self.graph
        for tensor in self.proto.graph.initializer:
            self.constants[tensor.name] = numpy_helper.to_array(tensor)
        for value in self.proto.graph.input:
            if value.name not in self.constants:
                shape = shape_of(value) or ()
                self.tensors[value.name] = value.name
                graph.add(Tensor(value.name, shape, origin=_origin(value.name, shape)))
                graph.inputs.append(value.name)
        for node in self.proto.graph.node:
            self._node(node)
        for value in self.proto.graph.output:
            graph.outputs.append(self._output(value.name))
        graph.prune()
        read = {name for node in graph.nodes for name in node.inputs}
        graph.inputs = [name for name in graph.inputs if name in read]
        if not graph.inputs:
            raise ModelError("no input leads to an output", where=graph.name)
        graph.prune()
        return graph

    def _node(self, proto: onnx.NodeProto) -> None:
        call = _Call(proto, {a.name: helper.get_attribute_value(a) for a in proto.attribute})
        if proto.op_type == "Constant" and proto.domain in ("", "ai.onnx"):
            self._constant(call)
            return
        before, tensors = len(self.graph.nodes), set(self.graph.tensors)
        try:
            self._lower(call)
        except _Opaque as reason:
            del self.graph.nodes[before:]
            for name in set(self.graph.tensors) - tensors:
                del self.graph.tensors[name]
            self._opaque(call, str(reason))

    def _constant(self, call: _Call) -> None:
        name, value = next(iter(call.attributes.items()))
        if name == "value":
            self.constants[call.output] = numpy_helper.to_array(value)
        elif name.startswith("value_int"):
            self.constants[call.output] = np.array(value, np.int64)
        elif name.startswith("value_float"):
            self.constants[call.output] = np.array(value, np.float32)
        else:
            self._opaque(call, "constants must be tensors of numbers")

    def _lower(self, call: _Call) -> None:
        proto = call.proto
        if proto.domain not in ("", "ai.onnx"):
            raise _Opaque(f"operators of domain '{proto.domain}' are not supported")
        lower = self.OPERATORS.get(proto.op_type)
        if lower is None:
            raise _Opaque("the operator is not supported")
        if any(name for name in proto.output[1:]):
            used = {n for other in self.proto.graph.node for n in captured(other)}
            used |= {o.name for o in self.proto.graph.output}
            if used & set(proto.output[1:]):
                raise _Opaque("its further outputs are used, only the first one is supported")
        for name in [n for n in proto.input if n in self.tensors]:
            self._require_known(name)
        if proto.op_type not in ("Identity", "Dropout"):
            self._require_known(call.output)
        try:
            lower(self, call)
        except (ValueError, ModelError) as error:  # shapes of constants that ONNX's own checks let through
            if isinstance(error, ModelError) and error.remedy:
                raise
            rule = (
                error.rule
                if isinstance(error, ModelError)
                else f"its inputs and attributes do not fit together: {error}"
            )
            where = f"{proto.op_type} '{proto.name or call.output}'"
            raise ModelError(rule, where=where, remedy="check the export") from error
        made = self.graph[self.tensors[call.output]].shape
        said = self._shape(call.output)
        if made != said:
            raise ModelError(
                f"the shape of '{call.output}' must be {list(said)} by ONNX's rules, but by ours it is {list(made)}",
                where=f"{proto.op_type} '{proto.name or call.output}'",
                remedy="please report this model",
            )

    def _require_known(self, name: str) -> None:
        kind = self.info[name].type.tensor_type.elem_type if name in self.info else 0
        if kind != FLOAT:
            said = onnx.TensorProto.DataType.Name(kind).lower() if kind else "of unknown type"
            raise _Opaque(f"activations must be float32, but '{name}' is {said}")
        shape = self._shape(name)
        if not shape or 0 in shape:
            raise _Opaque(f"the shape of '{name}' must be known and have a batch axis")
        if shape[0] != 1:
            raise _Opaque(f"the first axis must be the batch of 1, but '{name}' is {'x'.join(map(str, shape))}")

    def _shape(self, name: str) -> Shape:
        if name in self.constants:
            return tuple(self.constants[name].shape)
        shape = shape_of(self.info[name]) if name in self.info else None
        return (0,) if shape is None else shape

    def _opaque(self, call: _Call, reason: str) -> None:
        names = dict.fromkeys(name for name in captured(call.proto) if name in self.tensors)
        outputs = []
        for name in call.proto.output:
            if name:
                shape = self._shape(name)
                outputs.append(self.graph.add(Tensor(self.graph.fresh(name), shape, origin=_origin(name, shape))).name)
                self.tensors[name] = outputs[-1]
        attrs = attributes("opaque", op_type=call.proto.op_type, reason=reason)
        label = self.graph.fresh(call.proto.name or call.proto.output[0])
        self.graph.nodes.append(Node(label, "opaque", [self.tensors[n] for n in names], outputs, attrs))

    def _output(self, name: str) -> str:
        """The output of our graph, which has the file's output as its origin."""
        if name not in self.tensors:
            raise ModelError("must depend on an input, but it is a constant", where=f"output '{name}'")
        tensor = self.graph[self.tensors[name]]
        assert tensor.origin is not None
        if tensor.origin.name == name:
            return tensor.name
        if tensor.name in (*self.graph.inputs, *self.graph.outputs):
            shape = attributes("reshape", shape=tensor.shape)
            return emit(self.graph, "reshape", [tensor.name], shape, name=name, origin=_origin(name, tensor.shape)).name
        tensor.origin = _origin(name, tensor.origin.shape)
        return tensor.name

    # ---- what the operators below are made of ------------------------------------------------------------------------

    def x(self, call: _Call, index: int = 0) -> str:
        """An input of ours that must be an activation."""
        name = call.input(index)
        if name not in self.tensors:
            raise _Opaque(f"input {index} must be computed, but it is a constant")
        return self.tensors[name]

    def weights(self, call: _Call, index: int) -> Array:
        """An input that must be constant, as float32; refuses what is not finite."""
        name = call.input(index)
        if name not in self.constants:
            raise _Opaque(f"input {index} must be a constant, but '{name}' is computed")
        data = self.constants[name]
        if data.dtype != np.float32:
            raise _Opaque(f"constants must be float32, but '{name}' is {data.dtype}")
        if not np.isfinite(data).all():
            raise ModelError(
                "weights must be finite, but some are infinite",
                where=f"constant '{name}'",
                remedy="train again, or export an earlier checkpoint",
            )
        return data

    def integers(self, call: _Call, index: int, attribute: str) -> tuple[int, ...] | None:
        """Integers that older opsets have as an attribute and newer ones as a constant input; None: left out."""
        name = call.input(index)
        if name:
            if name not in self.constants:
                raise _Opaque(f"{attribute} must be a constant, but '{name}' is computed")
            return tuple(int(i) for i in self.constants[name].ravel())
        return call.ints(attribute, ()) if attribute in call.attributes else None

    def emit(
        self, call: _Call, op: str, inputs: list[str], attrs: Any = None, perm: tuple[int, ...] | None = None
    ) -> str:
        """A node whose output is the file's output, permuted to our layout (and maybe reshaped)."""
        name = call.output
        shape = self._shape(name)
        plain = perm is None or list(perm) == sorted(perm)
        origin = Origin(name, shape, perm or tuple(range(len(shape))))
        label = f"{name}" if plain and shape == self._shape_of(op, inputs, attrs) else f"{name}_nhwc"
        return emit(self.graph, op, inputs, attrs, name=label, node_name=call.proto.name or name, origin=origin).name

    def _shape_of(self, op: str, inputs: list[str], attrs: Any) -> Shape:
        probe = Node("", op, inputs, [], attrs or attributes(op))
        return REGISTRY[op].infer(self.graph, probe)

    def done(self, call: _Call, name: str) -> None:
        """Notes which tensor of ours the file's output is."""
        self.tensors[call.output] = name

    def constant(self, call: _Call, suffix: str, data: Array) -> str:
        """Adds a constant of a node."""
        return self.graph.constant(f"{call.output}/{suffix}", np.ascontiguousarray(data, np.float32)).name

    def transpose(self, name: str, perm: Sequence[int], origin: Origin | None, label: str) -> str:
        """Nothing where the permutation is the identity."""
        if list(perm) == sorted(perm):
            return name
        attrs = attributes("transpose", perm=tuple(int(i) for i in perm))
        return emit(self.graph, "transpose", [name], attrs, name=label, origin=origin).name

    def reshape(self, name: str, shape: Sequence[int], origin: Origin | None, label: str) -> str:
        """Nothing where the shape is the same."""
        shape = tuple(int(i) for i in shape)
        if self.graph[name].shape == shape:
            return name
        return emit(self.graph, "reshape", [name], attributes("reshape", shape=shape), name=label, origin=origin).name

    def channels_last(self, name: str) -> str:
        """(N, C, ...) → (N, ..., C)."""
        tensor = self.graph[name]
        perm = _to_last(len(tensor.shape))
        assert tensor.origin is not None
        origin = (
            Origin(tensor.origin.name, tensor.origin.shape, perm) if len(tensor.origin.shape) == len(perm) else None
        )
        return self.transpose(name, perm, origin, f"{name}_nhwc")

    def images(self, name: str) -> str:
        """(N, C, H, W) → (N, H, W, C); (N, C, W) → (N, 1, W, C)."""
        shape = self.graph[name].shape
        if len(shape) not in (3, 4):
            raise _Opaque(f"it must be over one or two axes, but '{name}' is {'x'.join(map(str, shape))}")
        last = self.channels_last(name)
        if len(shape) == 4:
            return last
        _, width, channels = self.graph[last].shape
        return self.reshape(last, (1, 1, width, channels), self.graph[last].origin, f"{name}_nhwc")

    def from_images(self, call: _Call, name: str) -> None:
        """The way back, to the shape that the file's output has."""
        shape = self._shape(call.output)
        rank = len(shape)
        origin = Origin(call.output, shape, _to_last(rank))
        if rank == 3:
            name = self.reshape(name, (1, shape[2], shape[1]), origin, f"{call.output}_nwc")
        self.back(call, name)

    def back(self, call: _Call, name: str) -> None:
        """(N, ..., C) → (N, C, ...), the file's output."""
        shape = self._shape(call.output)
        perm = (0, len(shape) - 1, *range(1, len(shape) - 1))
        self.done(call, self.transpose(name, perm, _origin(call.output, shape), call.output))

    # ---- operators ---------------------------------------------------------------------------------------------------

    def same(self, call: _Call) -> None:
        """Identity; Dropout, which is one at inference."""
        training = call.input(2) if call.proto.op_type == "Dropout" else ""
        if training and (training not in self.constants or self.constants[training].any()):
            raise _Opaque("it must not be in training mode")
        self.done(call, self.x(call))

    def conv(self, call: _Call) -> None:
        x, weight = self.x(call), self.weights(call, 1)
        bias = self.weights(call, 2) if call.input(2) else None
        shape = self.graph[x].shape
        spatial = len(shape) - 2
        if spatial not in (1, 2):
            raise _Opaque(f"convolutions must be over one or two axes, but '{call.input(0)}' has {spatial}")
        kernel = tuple(weight.shape[2:])
        strides = call.ints("strides", (1,) * spatial)
        dilations = call.ints("dilations", (1,) * spatial)
        groups = call.int("group", 1)
        pads = _pads(call, shape[2:], kernel, strides, dilations)
        if spatial == 1:
            weight = weight[:, :, np.newaxis, :]
            strides, dilations, pads = (1, *strides), (1, *dilations), (0, pads[0], 0, pads[1])
        channels = shape[1]
        if groups == channels and groups > 1:
            op, ours = "depthwise_conv2d", weight.transpose(1, 2, 3, 0)
            attrs = attributes(op, strides=strides, dilations=dilations, pads=pads)
        else:
            op, ours = "conv2d", weight.transpose(0, 2, 3, 1)
            attrs = attributes(op, strides=strides, dilations=dilations, pads=pads, groups=groups)
        inputs = [self.images(x), self.constant(call, "weight", ours)]
        if bias is not None:
            inputs.append(self.constant(call, "bias", bias))
        self.from_images(call, self.emit(call, op, inputs, attrs, _to_last(spatial + 2)))

    def gemm(self, call: _Call) -> None:
        x, weight = self.x(call), self.weights(call, 1)
        if call.int("transA", 0):
            raise _Opaque("the left side must not be transposed (transA = 1)")
        weight = (weight if call.int("transB", 0) else weight.T) * np.float32(call.float("alpha", 1.0))
        inputs = [x, self.constant(call, "weight", weight)]
        c, beta = call.input(2), np.float32(call.float("beta", 1.0))
        if c in self.tensors:
            if beta != 1.0:
                raise _Opaque(f"beta must be 1 where C is computed, but it is {beta}")
            y = emit(self.graph, "dense", inputs, name=f"{call.output}/product").name
            self.done(call, self.emit(call, "add", [y, self.aligned(self.tensors[c], 2)]))
            return
        if c and beta != 0.0:
            bias = self.weights(call, 2)
            if bias.size not in (1, len(weight)):
                raise _Opaque(f"C must be one number per output, but its shape is {bias.shape}")
            bias = np.broadcast_to(bias.ravel(), (len(weight),)) * beta
            inputs.append(self.constant(call, "bias", bias))
        self.done(call, self.emit(call, "dense", inputs))

    def matmul(self, call: _Call) -> None:
        if call.input(0) in self.constants:
            self._matmul_from_left(call)
            return
        x, weight = self.x(call), self.weights(call, 1)
        if math.prod(weight.shape[:-2]) != 1:
            raise _Opaque(f"a stack of matrices is not supported: '{call.input(1)}' has the shape {weight.shape}")
        matrix = weight.reshape(weight.shape[-2:]) if weight.ndim > 1 else weight[:, np.newaxis]
        if weight.ndim > len(self.graph[x].shape):
            raise _Opaque("the right side must not have more axes than the left one")
        y = self.emit(call, "dense", [x, self.constant(call, "weight", matrix.T)])
        shape = self._shape(call.output)
        self.done(call, self.reshape(y, shape, _origin(call.output, shape), call.output))

    def _matmul_from_left(self, call: _Call) -> None:
        """A · X = (Xᵀ · Aᵀ)ᵀ."""
        x, matrix = self.x(call, 1), self.weights(call, 0)
        rank = len(self.graph[x].shape)
        if matrix.ndim != 2 or rank < 3:
            raise _Opaque("a constant left side must be one matrix, and the right side have a batch axis before it")
        swap = (*range(rank - 2), rank - 1, rank - 2)
        turned = self.transpose(x, swap, None, f"{call.output}/turned")
        y = self.emit(call, "dense", [turned, self.constant(call, "weight", matrix)], None, swap)
        self.done(call, self.transpose(y, swap, _origin(call.output, self._shape(call.output)), call.output))

    def aligned(self, name: str, rank: int) -> str:
        """Axes of 1 before all others, as NumPy's broadcast adds them."""
        shape = self.graph[name].shape
        return self.reshape(name, (1,) * (rank - len(shape)) + shape, self.graph[name].origin, f"{name}/aligned")

    def binary(self, call: _Call) -> None:
        op = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "mul"}[call.proto.op_type]
        rank = len(self._shape(call.output))
        inputs = []
        for index in (0, 1):
            if call.input(index) in self.tensors:
                if call.proto.op_type == "Div" and index == 1:
                    raise _Opaque(f"the divisor must be a constant, but '{call.input(1)}' is computed")
                inputs.append(self.aligned(self.x(call, index), rank))
                continue
            data = self.constants.get(call.input(index))
            if data is None or data.dtype != np.float32 or not np.isfinite(data).all():
                raise _Opaque(f"constants must be finite float32, but '{call.input(index)}' is not")
            if call.proto.op_type == "Div":
                if index == 0:
                    raise _Opaque("a constant divided by an activation is not supported")
                if not data.all():
                    raise _Opaque("the divisor must not be 0")
                data = (1.0 / data.astype(np.float64)).astype(np.float32)
            inputs.append(self.constant(call, "constant", data))
        if not any(name in self.graph.tensors and not self.graph[name].is_constant for name in inputs):
            raise _Opaque("both sides are constants")
        self.done(call, self.emit(call, op, inputs))

    def relu(self, call: _Call) -> None:
        self.done(call, self.emit(call, "clamp", [self.x(call)], attributes("clamp", activation=Activation.RELU)))

    def clip(self, call: _Call) -> None:
        limits = []
        for index, key, none in ((1, "min", -math.inf), (2, "max", math.inf)):
            name = call.input(index)
            if name and name not in self.constants:
                raise _Opaque(f"{key} must be a constant, but '{name}' is computed")
            limit = float(self.constants[name].reshape(())) if name else call.float(key, none)
            limits.append(math.copysign(math.inf, limit) if abs(limit) > UNBOUNDED else limit)
        bounds = (limits[0], limits[1])
        if bounds == Activation.NONE.bounds:
            self.same(call)
            return
        activation = next((a for a in Activation if a.bounds == bounds), None)
        if activation is None:
            known = ", ".join(f"{a.bounds[0]:g}..{a.bounds[1]:g}" for a in Activation if a is not Activation.NONE)
            raise _Opaque(f"limits must be one of {known}, but they are {bounds[0]:g}..{bounds[1]:g}")
        self.done(call, self.emit(call, "clamp", [self.x(call)], attributes("clamp", activation=activation)))

    def softmax(self, call: _Call) -> None:
        x = self.x(call)
        shape = self.graph[x].shape
        rank = len(shape)
        axis = call.int("axis", 1 if self.opset < 13 else -1) % rank
        if axis == 0:
            raise _Opaque("a softmax over the batch axis is not supported")
        origin = _origin(call.output, shape)
        if self.opset < 13:  # over all axes from there on
            flat = self.reshape(x, (*shape[:axis], math.prod(shape[axis:])), None, f"{call.output}/flat")
            y = self.emit(call, "softmax", [flat])
            self.done(call, self.reshape(y, shape, origin, call.output))
            return
        perm = (*(a for a in range(rank) if a != axis), axis)
        turned = self.transpose(x, perm, None, f"{call.output}/turned")
        y = self.emit(call, "softmax", [turned], None, perm)
        self.done(call, self.transpose(y, np.argsort(perm).tolist(), origin, call.output))

    def pool(self, call: _Call) -> None:
        x = self.x(call)
        shape = self.graph[x].shape
        kernel = call.ints("kernel_shape", ())
        spatial = len(kernel)
        if spatial not in (1, 2):
            raise _Opaque(f"pooling must be over one or two axes, but it is over {spatial}")
        if any(d != 1 for d in call.ints("dilations", (1,))):
            raise _Opaque("dilated pooling is not supported")
        strides = call.ints("strides", (1,) * spatial)
        pads = _pads(call, shape[2:], kernel, strides, (1,) * spatial)
        average = call.proto.op_type == "AveragePool"
        counted = average and call.int("count_include_pad", 0) == 1 and any(pads)
        # With ceil_mode the last window may reach beyond the padding: what lies there counts for nothing, so that it is
        # padding of ours. ONNX Runtime has no window that begins beyond the values; ONNX's own rule knows that only in
        # newer opsets.
        said = self._shape(call.output)[2:]
        extra = []
        for axis in range(spatial):
            padded = shape[2 + axis] + pads[axis] + pads[axis + spatial]
            windows = (padded - kernel[axis]) // strides[axis] + 1
            if call.int("ceil_mode", 0) and windows * strides[axis] < shape[2 + axis] + pads[axis]:
                windows += (padded - kernel[axis]) % strides[axis] != 0
            if windows != said[axis]:
                raise _Opaque(f"ceil_mode gives {said[axis]} windows by ONNX's rule and {windows} in ONNX Runtime")
            extra.append(max(0, (windows - 1) * strides[axis] + kernel[axis] - padded))
        if spatial == 1:
            kernel, strides, extra = (1, *kernel), (1, *strides), [0, *extra]
            pads = (0, pads[0], 0, pads[1])
        image = self.images(x)
        if counted:
            around = ((0, 0), (pads[0], pads[2]), (pads[1], pads[3]), (0, 0))
            image = emit(self.graph, "pad", [image], attributes("pad", pads=around), name=f"{call.output}/padded").name
            pads = (0, 0, 0, 0)
        pads = (pads[0], pads[1], pads[2] + extra[0], pads[3] + extra[1])
        op = "average_pool2d" if average else "max_pool2d"
        attrs = attributes(op, kernel=kernel, strides=strides, pads=pads)
        self.from_images(call, self.emit(call, op, [image], attrs, _to_last(spatial + 2)))

    def global_average(self, call: _Call) -> None:
        x = self.x(call)
        rank = len(self.graph[x].shape)
        if rank < 3:
            self.same(call)
            return
        attrs = attributes("mean", axes=tuple(range(1, rank - 1)), keep_dims=True)
        self.back(call, self.emit(call, "mean", [self.channels_last(x)], attrs, _to_last(rank)))

    def global_max(self, call: _Call) -> None:
        image = self.images(self.x(call))
        kernel = self.graph[image].shape[1:3]
        attrs = attributes("max_pool2d", kernel=kernel, strides=kernel)
        rank = len(self._shape(call.output))
        self.from_images(call, self.emit(call, "max_pool2d", [image], attrs, _to_last(rank)))

    def reduce_mean(self, call: _Call) -> None:
        x = self.x(call)
        rank = len(self.graph[x].shape)
        axes = self.integers(call, 1, "axes")
        if not axes:
            if call.int("noop_with_empty_axes", 0):
                self.same(call)
                return
            axes = tuple(range(rank))
        keep = bool(call.int("keepdims", 1))
        positive = sorted({axis % rank for axis in axes})
        if 0 in positive and not keep:
            raise _Opaque("the batch axis must stay")
        positive = [axis for axis in positive if axis]  # the batch is 1: its mean is itself
        if not positive:
            self.same(call)
            return
        self.done(call, self.emit(call, "mean", [x], attributes("mean", axes=tuple(positive), keep_dims=keep)))

    def shape_only(self, call: _Call) -> None:
        """Reshape, Flatten, Squeeze, Unsqueeze: ONNX's shape inference knows what comes out."""
        shape = self._shape(call.output)
        x = self.x(call)
        if self.graph[x].shape == shape:
            self.done(call, x)
            return
        attrs = attributes("reshape", shape=shape)
        self.done(call, self.emit(call, "reshape", [x], attrs))

    def permute(self, call: _Call) -> None:
        x = self.x(call)
        shape = self.graph[x].shape
        perm = call.ints("perm", range(len(shape))[::-1])
        if perm[0] != 0:
            units = [axis for axis in perm if shape[axis] != 1]
            if units != sorted(units):
                raise _Opaque(f"the batch axis must stay the first, but the permutation is {perm}")
            self.shape_only(call)
            return
        if perm == tuple(range(len(perm))):
            self.done(call, x)
            return
        self.done(call, self.emit(call, "transpose", [x], attributes("transpose", perm=perm)))

    def pad(self, call: _Call) -> None:
        x = self.x(call)
        rank = len(self.graph[x].shape)
        if (mode := call.text("mode", "constant")) != "constant":
            raise _Opaque(f"padding must be by a constant, but the mode is '{mode}'")
        pads = self.integers(call, 1, "pads") or ()
        value = call.float("value", 0.0)
        if call.input(2):
            value = float(self.weights(call, 2).reshape(()))
        axes = tuple(range(rank))
        if call.input(3):
            axes = tuple(axis % rank for axis in self.integers(call, 3, "axes") or ())
        around = [(0, 0)] * rank
        for index, axis in enumerate(axes):
            around[axis] = (pads[index], pads[index + len(axes)])
        if any(side < 0 for pair in around for side in pair):
            raise _Opaque("negative pads (a crop) are not supported")
        if around[0] != (0, 0):
            raise _Opaque("the batch axis must not be padded")
        if not any(side for pair in around for side in pair):
            self.same(call)
            return
        self.done(call, self.emit(call, "pad", [x], attributes("pad", pads=tuple(around), value=value)))

    def batch_norm(self, call: _Call) -> None:
        if call.int("training_mode", 0) or not call.int("spatial", 1):
            raise _Opaque("it must use fixed statistics, one per channel")
        x = self.x(call)
        parameters = [self.weights(call, index) for index in range(1, 5)]
        names = [
            self.constant(call, suffix, data)
            for suffix, data in zip(("gamma", "beta", "mean", "variance"), parameters, strict=True)
        ]
        attrs = attributes("batch_norm", epsilon=call.float("epsilon", 1e-5))
        rank = len(self.graph[x].shape)
        if rank < 3:
            self.done(call, self.emit(call, "batch_norm", [x, *names], attrs))
            return
        self.back(call, self.emit(call, "batch_norm", [self.channels_last(x), *names], attrs, _to_last(rank)))

    OPERATORS: ClassVar[dict[str, Callable[[_Reader, _Call], None]]] = {
        "Add": binary,
        "AveragePool": pool,
        "BatchNormalization": batch_norm,
        "Clip": clip,
        "Conv": conv,
        "Div": binary,
        "Dropout": same,
        "Flatten": shape_only,
        "Gemm": gemm,
        "GlobalAveragePool": global_average,
        "GlobalMaxPool": global_max,
        "Identity": same,
        "MatMul": matmul,
        "MaxPool": pool,
        "Mul": binary,
        "Pad": pad,
        "ReduceMean": reduce_mean,
        "Relu": relu,
        "Reshape": shape_only,
        "Softmax": softmax,
        "Squeeze": shape_only,
        "Sub": binary,
        "Transpose": permute,
        "Unsqueeze": shape_only,
    }


def _origin(name: str, shape: Shape) -> Origin:
    return Origin(name, shape, tuple(range(len(shape))))


def _to_last(rank: int) -> tuple[int, ...]:
    """The permutation (N, C, ...) → (N, ..., C)."""
    return (0, *range(2, rank), 1)


def _pads(
    call: _Call, shape: Shape, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[int, ...]:
    """Begin of every axis, then end of every axis, as ONNX orders them."""
    auto = call.text("auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        pads = call.ints("pads", (0,) * (2 * len(kernel)))
        if min(pads) < 0:
            raise _Opaque("negative pads (a crop) are not supported")
        return pads
    if auto == "VALID":
        return (0,) * (2 * len(kernel))
    begin, end = [], []
    for extent, k, stride, dilation in zip(shape, kernel, strides, dilations, strict=True):
        windows = -(-extent // stride)
        total = max(0, (windows - 1) * stride + (k - 1) * dilation + 1 - extent)
        small, large = total // 2, total - total // 2
        begin.append(small if auto == "SAME_UPPER" else large)
        end.append(large if auto == "SAME_UPPER" else small)
    return (*begin, *end)
