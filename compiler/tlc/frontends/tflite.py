# SPDX-License-Identifier: Apache-2.0
"""A ``.tflite`` file as a graph: full-integer int8 models, and float32 ones.

An operator that tlc does not know, or uses in a way that the device has no kernel for, becomes an ``opaque`` node that
says why. A file that breaks the format, or its own rules, is a :class:`~tlc.errors.ModelError`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.errors import ModelError, UsageError, nearest
from tlc.frontends.tflite_schema import (
    OPTIONS,
    SCHEMA_VERSION,
    BuiltinOperator,
    FusedActivation,
    Padding,
    Reader,
    Table,
    TensorType,
    name_of,
    same_pads,
)
from tlc.graph import DType, Graph, Node, Origin, Quant, Shape, Tensor
from tlc.ops import REGISTRY
from tlc.ops.base import Activation

__all__ = ["read_tflite"]

_DTYPES: dict[int, DType] = {TensorType.FLOAT32: "float32", TensorType.INT8: "int8", TensorType.INT32: "int32"}
_CONSTANT_TYPES: dict[int, np.dtype[Any]] = {
    TensorType.FLOAT32: np.dtype("<f4"),
    TensorType.FLOAT16: np.dtype("<f2"),
    TensorType.INT8: np.dtype("<i1"),
    TensorType.INT32: np.dtype("<i4"),
    TensorType.INT64: np.dtype("<i8"),
}
_ACTIVATIONS: dict[int, Activation] = {
    FusedActivation.NONE: Activation.NONE,
    FusedActivation.RELU: Activation.RELU,
    FusedActivation.RELU6: Activation.RELU6,
    FusedActivation.RELU_N1_TO_1: Activation.RELU_N1_TO_1,
}
_MAX_RANK = 8
_MAX_ELEMENTS = (1 << 31) - 1
_REQUANTIZE = "convert the model with full integer quantization (int8 activations and weights)"


def read_tflite(source: str | Path | bytes, shapes: Mapping[str, Sequence[int]] | None = None) -> Graph:
    """The first subgraph of a TFLite model.

    The batch axis becomes 1. A float or uint8 input that is only quantized, and an output that is only dequantized,
    give way to the int8 tensor behind them, which takes the name of the model's input or output. Tensors keep the
    file's names, made unique.

    Args:
        source: a path, or the file's bytes.
        shapes: shapes for inputs, by name, batch axis included: for models with open dimensions.

    Raises:
        ModelError: the file is damaged, breaks a rule of the format, or leaves a dimension open.
        UsageError: ``shapes`` names no input of the model, or has another rank.
    """
    if isinstance(source, bytes):
        data, where, name = source, "model", "model"
    else:
        where, name = str(source), Path(source).stem
        try:
            data = Path(source).read_bytes()
        except OSError as error:
            raise ModelError(f"the model must be readable, but: {error.strerror}", where=where) from error
    return _Importer(Reader(data, where), name, shapes or {}).graph_of_file()


class _Opaque(Exception):
    """Why an operator cannot be one of ours."""


@dataclass
class _FileTensor:
    """A tensor as the file describes it."""

    index: int
    name: str  # the file's
    unique: str  # the graph's
    shape: Shape
    signature: Shape  # -1 where a dimension is open
    type: int
    table: Table
    raw: NDArray[np.uint8] | None  # the bytes of a constant

    @property
    def type_name(self) -> str:
        """FLOAT32, INT8, ..."""
        return name_of(TensorType, self.type)

    @property
    def batch(self) -> int:
        """The leading dimension as the file has it."""
        return self.shape[0] if self.shape else 1

    @property
    def shape_at_one(self) -> Shape:
        """The shape for a batch of 1."""
        return (1, *self.shape[1:]) if self.shape else ()


@dataclass
class _FileOperator:
    """An operator as the file describes it."""

    kind: str  # BuiltinOperator's name, or the custom operator's
    inputs: list[int]  # -1: an optional input that is absent
    outputs: list[int]
    table: Table

    def options(self, name: str) -> Table | None:
        """The operator's options, where they are of that kind."""
        if self.table.number("builtin_options_type") != OPTIONS[name][0]:
            return None
        return self.table.child("builtin_options", name)


class _Importer:
    """One conversion."""

    def __init__(self, reader: Reader, name: str, shapes: Mapping[str, Sequence[int]]) -> None:
        self.reader = reader
        self.shapes = {key: tuple(int(n) for n in value) for key, value in shapes.items()}
        self.graph = Graph(name)
        self.taken: set[str] = set()
        self.tensors: list[_FileTensor] = []
        self.operators: list[_FileOperator] = []
        self.values: dict[int, str] = {}  # file index of an activation that exists already → name in the graph
        self.constants: dict[tuple[Any, ...], str] = {}  # (file index, quantization) → name in the graph
        self.written: set[int] = set()  # file indices of what is not constant
        self.foreign: dict[str, str] = {}  # activations of a type that a graph cannot hold → the type
        self.folded: dict[int, NDArray[np.float32]] = {}  # constants that the file dequantizes
        self.convert: dict[str, Callable[[_FileOperator], None]] = {
            "CONV_2D": self.conv2d,
            "DEPTHWISE_CONV_2D": self.depthwise_conv2d,
            "FULLY_CONNECTED": self.fully_connected,
            "ADD": lambda op: self.arithmetic(op, "add", "AddOptions"),
            "SUB": lambda op: self.arithmetic(op, "sub", "SubOptions"),
            "MUL": lambda op: self.arithmetic(op, "mul", "MulOptions"),
            "RELU": lambda op: self.clamp(op, Activation.RELU),
            "RELU6": lambda op: self.clamp(op, Activation.RELU6),
            "RELU_N1_TO_1": lambda op: self.clamp(op, Activation.RELU_N1_TO_1),
            "SOFTMAX": self.softmax,
            "MAX_POOL_2D": lambda op: self.pool(op, "max_pool2d"),
            "AVERAGE_POOL_2D": lambda op: self.pool(op, "average_pool2d"),
            "MEAN": self.mean,
            "RESHAPE": self.reshape,
            "SQUEEZE": self.squeeze,
            "EXPAND_DIMS": self.expand_dims,
            "TRANSPOSE": self.transpose,
            "PAD": self.pad,
            "PADV2": self.pad,
            "QUANTIZE": self.quantize,
        }

    # ---- the file as it is -----------------------------------------------------------------------------------------

    def graph_of_file(self) -> Graph:
        """The whole conversion."""
        model = self.reader.root("Model")
        version = model.number("version")
        if version != SCHEMA_VERSION:
            raise self.reader.fail(f"a TFLite model has schema version {SCHEMA_VERSION}, but this one has {version}")
        subgraphs = model.children("subgraphs")
        if not subgraphs:
            raise self.reader.fail("a model must have a subgraph, but this one has none")
        main = subgraphs[0]
        self.read_tensors(main, model.children("buffers"))
        self.read_operators(main, self.operator_kinds(model))
        inputs, outputs = self.indices(main, "inputs"), self.indices(main, "outputs")
        if not inputs or not outputs:
            raise self.reader.fail(f"a model must have inputs and outputs, but it has {len(inputs)} and {len(outputs)}")
        if len(set(inputs)) != len(inputs):
            raise self.reader.fail("a model's inputs must be different tensors, but one is named twice")
        self.check_order(inputs)
        self.fold_constants()
        inputs, outputs = self.absorb_edges(inputs, outputs)
        self.make_inputs(inputs)
        for op in self.operators:
            self.operator(op)
        for index in outputs:
            if index not in self.values:
                raise self.fail(index, "an output must be computed, but this one is a constant")
        self.graph.outputs = [self.values[index] for index in outputs]
        self.graph.prune()
        self.check_types()
        return self.graph

    def read_tensors(self, main: Table, buffers: list[Table]) -> None:
        """Fills ``tensors``."""
        for index, table in enumerate(main.children("tensors")):
            file_name = " ".join(table.string("name").split()) or f"tensor_{index}"
            where = f"tensor '{file_name}'"
            shape = self.dimensions(table.numbers("shape"), where, 0)
            signature = self.dimensions(table.numbers("shape_signature"), where, -1)
            if len(signature) != len(shape):
                signature = shape
            number = table.number("buffer")
            if number >= len(buffers):
                raise self.reader.fail(f"{where} has buffer {number}, but there are {len(buffers)}")
            raw = self.buffer(buffers[number]) if number else None
            if raw is None and table.number("external_buffer"):
                raise ModelError("weights in other files cannot be read", where=where, remedy="export one single file")
            unique = self.fresh(file_name)
            self.tensors.append(
                _FileTensor(index, file_name, unique, shape, signature, table.number("type"), table, raw)
            )

    def dimensions(self, values: NDArray[Any] | None, where: str, least: int) -> Shape:
        """A shape, every dimension at least ``least``."""
        shape = () if values is None else tuple(int(n) for n in values[: _MAX_RANK + 1])
        if len(shape) > _MAX_RANK:
            raise ModelError(f"a tensor has at most {_MAX_RANK} dimensions, but this has more", where=where)
        if min(shape, default=least) < least:
            raise ModelError(f"a dimension must be {least} or more, but the shape is {list(shape)}", where=where)
        self.check_size(shape, where)
        return shape

    def check_size(self, shape: Shape, where: str) -> None:
        """Raises where a tensor is larger than anything that can run."""
        if math.prod(max(n, 1) for n in shape) > _MAX_ELEMENTS:
            raise ModelError(
                f"a tensor has at most {_MAX_ELEMENTS} values, but the shape is {list(shape)}", where=where
            )

    def buffer(self, table: Table) -> NDArray[np.uint8] | None:
        """A buffer's bytes; None where it is empty. Files of more than 2 GB keep them behind the flatbuffer."""
        data = table.numbers("data")
        if data is not None and data.size:
            return data
        offset, size = table.number("offset"), table.number("size")
        if offset <= 1 or size == 0:
            return None
        if offset + size > len(self.reader.data):
            raise self.reader.fail(f"a buffer of {size} bytes at {offset} leads out of the file")
        return np.frombuffer(self.reader.data, np.uint8, size, offset)

    def operator_kinds(self, model: Table) -> list[str]:
        """The name of each operator code. Codes beyond 127 came later and have a field of their own."""
        kinds = []
        for code in model.children("operator_codes"):
            number = max(code.number("deprecated_builtin_code"), code.number("builtin_code"))
            if number == BuiltinOperator.CUSTOM:
                kinds.append(code.string("custom_code") or "CUSTOM")
            else:
                kinds.append(name_of(BuiltinOperator, number))
        return kinds

    def read_operators(self, main: Table, kinds: list[str]) -> None:
        """Fills ``operators``."""
        for table in main.children("operators"):
            code = table.number("opcode_index")
            if code >= len(kinds):
                raise self.reader.fail(f"an operator has code {code}, but there are {len(kinds)}")
            inputs, outputs = self.indices(table, "inputs", optional=True), self.indices(table, "outputs")
            self.operators.append(_FileOperator(kinds[code], inputs, outputs, table))

    def indices(self, table: Table, name: str, optional: bool = False) -> list[int]:
        """Indices of tensors."""
        values = table.numbers(name)
        result = [] if values is None else [int(n) for n in values]
        for index in result:
            if not (-1 if optional else 0) <= index < len(self.tensors):
                raise self.reader.fail(f"a list of {name} has tensor {index}, but there are {len(self.tensors)}")
        return result

    def check_order(self, inputs: list[int]) -> None:
        """Every activation must be written once, and before it is read."""
        written = self.written
        written.update(inputs)
        for index in inputs:
            if self.tensors[index].raw is not None:
                raise self.fail(index, "an input must not be a constant, but this one is")
        for op in self.operators:
            for index in op.inputs:
                if index >= 0 and index not in written and not self.is_constant(index):
                    kind = "variable" if self.tensors[index].table.number("is_variable") else "tensor"
                    raise self.fail(index, f"a {kind} must be written before it is read, but {op.kind} reads it first")
            for index in op.outputs:
                if index in written or self.tensors[index].raw is not None:
                    raise self.fail(index, f"a tensor must be written once, but {op.kind} writes it again")
                written.add(index)

    def is_constant(self, index: int) -> bool:
        """Whether a tensor's value stands in the file; a constant without values takes no bytes."""
        tensor = self.tensors[index]
        return tensor.raw is not None or index in self.folded or (0 in tensor.shape and index not in self.written)

    # ---- edges -----------------------------------------------------------------------------------------------------

    def readers(self) -> dict[int, list[_FileOperator]]:
        """The operators that read each tensor."""
        readers: dict[int, list[_FileOperator]] = {}
        for op in self.operators:
            for index in set(op.inputs):
                readers.setdefault(index, []).append(op)
        return readers

    def fold_constants(self) -> None:
        """Computes DEQUANTIZE of constants: weights that a float model stores in fewer bits."""
        kept = []
        for op in self.operators:
            if op.kind == "DEQUANTIZE" and len(op.inputs) == len(op.outputs) == 1 and self.is_constant(op.inputs[0]):
                value = self.dequantized(self.tensors[op.inputs[0]], self.tensors[op.outputs[0]])
                if value is not None:
                    self.folded[op.outputs[0]] = value
                    continue
            kept.append(op)
        self.operators = kept

    def dequantized(self, source: _FileTensor, target: _FileTensor) -> NDArray[np.float32] | None:
        """The value of a constant as float32; None where the format is not ours."""
        if target.type != TensorType.FLOAT32 or target.shape != source.shape:
            return None
        try:
            if source.type == TensorType.FLOAT16:
                return self.data(source.index).astype(np.float32)
            if source.type == TensorType.INT8:
                return self.quant(source.index).dequantize(self.data(source.index))
        except _Opaque:
            pass
        return None

    def absorb_edges(self, inputs: list[int], outputs: list[int]) -> tuple[list[int], list[int]]:
        """Replaces float and uint8 tensors at the edge by the int8 tensors behind them."""
        readers = self.readers()
        absorbed: set[int] = set()
        new_inputs = []
        for index in inputs:
            users = readers.get(index, [])
            if len(users) == 1 and index not in outputs and self.is_edge(users[0], "QUANTIZE", index, users[0].outputs):
                absorbed.add(id(users[0]))
                inner = users[0].outputs[0]
                self.rename(inner, index)
                index = inner
            new_inputs.append(index)
        writers = {index: op for op in self.operators for index in op.outputs}
        new_outputs = []
        for index in outputs:
            op = writers.get(index)
            if op is not None and index not in readers and self.is_edge(op, "DEQUANTIZE", index, op.inputs):
                absorbed.add(id(op))
                inner = op.inputs[0]
                if inner not in outputs and inner not in new_outputs and inner not in new_inputs:
                    self.rename(inner, index)
                index = inner
            new_outputs.append(index)
        self.operators = [op for op in self.operators if id(op) not in absorbed]
        return new_inputs, new_outputs

    def is_edge(self, op: _FileOperator, kind: str, outer: int, inner: list[int]) -> bool:
        """Whether an operator only changes how the same values are stored.

        Float to int8 is ``QUANTIZE`` and back is ``DEQUANTIZE``; between uint8 and int8 both ways are ``QUANTIZE``.
        """
        if len(op.inputs) != 1 or len(op.outputs) != 1 or inner[0] < 0 or self.is_constant(inner[0]):
            return False
        if self.tensors[inner[0]].type != TensorType.INT8:
            return False
        if self.tensors[outer].type == TensorType.FLOAT32:
            return op.kind == kind
        if self.tensors[outer].type != TensorType.UINT8 or op.kind != "QUANTIZE":
            return False
        unsigned, signed = self.one_scale(outer), self.one_scale(inner[0])
        return unsigned.s == signed.s and unsigned.zero_point - signed.zero_point == 128

    def rename(self, inner: int, outer: int) -> None:
        """The int8 tensor takes the name of the model's edge."""
        self.tensors[inner].name = self.tensors[outer].name
        self.tensors[inner].unique = self.tensors[outer].unique

    def make_inputs(self, inputs: list[int]) -> None:
        """Adds the graph's inputs with their static shapes."""
        names = [self.tensors[index].name for index in inputs]
        for name in self.shapes:
            if name not in names:
                raise UsageError(f"the model has no input '{name}'", where="--shape", remedy=nearest(name, names))
        for index in inputs:
            tensor = self.tensors[index]
            shape = self.input_shape(tensor)
            self.new_activation(tensor, shape)
            self.graph.inputs.append(tensor.unique)

    def input_shape(self, tensor: _FileTensor) -> Shape:
        """An input's shape at a batch of 1."""
        where = f"input '{tensor.name}'"
        given = self.shapes.get(tensor.name)
        if given is not None:
            if len(given) != len(tensor.shape) or min(given, default=0) < 1:
                rule = f"a shape has {len(tensor.shape)} positive dimensions, but {list(given)} was given"
                raise UsageError(rule, where=f"--shape {tensor.name}")
            self.check_size(given, where)
            return (1, *given[1:])
        if not tensor.shape:
            raise ModelError("an input must have a batch axis, but it is a scalar", where=where)
        known = ["1", *("N" if n == -1 else str(n) for n in tensor.signature[1:])]
        for axis, size in enumerate(tensor.signature[1:], 1):
            if size == -1:
                example = "x".join("16" if n == "N" else n for n in known)
                raise ModelError(
                    f"dimensions must be static, but dimension {axis} of [{', '.join(known)}] is open",
                    where=where,
                    remedy=f"give its shape, for example --shape {tensor.name}={example}",
                )
        if 0 in tensor.shape[1:]:
            raise ModelError(f"dimensions must be positive, but the shape is {list(tensor.shape)}", where=where)
        return tensor.shape_at_one

    # ---- tensors of the graph --------------------------------------------------------------------------------------

    def fail(self, index: int, rule: str, remedy: str = "") -> ModelError:
        """The error for a tensor."""
        return ModelError(rule, where=f"tensor '{self.tensors[index].name}'", remedy=remedy)

    def fresh(self, stem: str) -> str:
        """A name for a tensor or a node that is not taken."""
        name, number = stem, 0
        while name in self.taken:
            number += 1
            name = f"{stem}_{number}"
        self.taken.add(name)
        return name

    def new_activation(self, tensor: _FileTensor, shape: Shape) -> Tensor:
        """Adds an activation of the file to the graph."""
        dtype = _DTYPES.get(tensor.type)
        quant = None
        if dtype is None:
            self.foreign[tensor.unique] = tensor.type_name
        elif dtype == "int8":
            quant = self.one_scale(tensor.index)
        origin = Origin(tensor.name, shape, tuple(range(len(shape))))
        self.values[tensor.index] = tensor.unique
        return self.graph.add(Tensor(tensor.unique, shape, dtype or "int32", quant, None, origin))

    def one_scale(self, index: int) -> Quant:
        """An activation's quantization."""
        try:
            quant = self.quant(index)
        except _Opaque as reason:
            raise self.fail(index, f"an activation has one scale and zero point, but {reason}", _REQUANTIZE) from reason
        if quant.axis is not None:
            raise self.fail(index, f"an activation has one scale, but it has {quant.scale.size}", _REQUANTIZE)
        return quant

    def quant(self, index: int) -> Quant:
        """A tensor's quantization, checked."""
        tensor = self.tensors[index]
        table = tensor.table.child("quantization")
        scales = None if table is None else table.numbers("scale")
        if table is None or scales is None or scales.size == 0:
            raise self.fail(index, f"an {tensor.type_name} tensor must have a scale, but it has none", _REQUANTIZE)
        points = table.numbers("zero_point")
        points = np.zeros(1, np.int64) if points is None or points.size == 0 else points
        scales = scales.astype(np.float32)
        if not (np.isfinite(scales).all() and (scales > 0).all()):
            worst = scales[~(np.isfinite(scales) & (scales > 0))][0]
            raise self.fail(index, f"scales must be finite and positive, but one is {worst}", _REQUANTIZE)
        low, high = (0, 255) if tensor.type == TensorType.UINT8 else (-128, 127)
        if int(points.min()) < low or int(points.max()) > high:
            rule = f"a zero point must be in [{low}, {high}], but one is {int(points[np.argmax(np.abs(points))])}"
            raise self.fail(index, rule)
        if scales.size == 1:
            return Quant(scales, int(points[0]))
        axis = table.number("quantized_dimension")
        if (
            not 0 <= axis < len(tensor.shape)
            or tensor.shape[axis] != scales.size
            or points.size not in (1, scales.size)
        ):
            rule = f"{scales.size} scales along dimension {axis} must fit the shape {list(tensor.shape)}, but do not"
            raise self.fail(index, rule)
        if points.any():
            raise _Opaque(f"'{tensor.name}' has a zero point for each channel, and not all are 0")
        return Quant(scales, 0, axis)

    def data(self, index: int) -> NDArray[Any]:
        """The value of a constant, in native byte order."""
        tensor = self.tensors[index]
        if index in self.folded:
            return self.folded[index]
        dtype = _CONSTANT_TYPES.get(tensor.type)
        if dtype is None:
            raise _Opaque(f"the constant '{tensor.name}' is {tensor.type_name}")
        if tensor.table.child("sparsity") is not None:
            raise _Opaque(f"the constant '{tensor.name}' is stored sparsely")
        raw = np.zeros(0, np.uint8) if tensor.raw is None else tensor.raw
        if raw.size != math.prod(tensor.shape) * dtype.itemsize:
            rule = (
                f"a constant of shape {list(tensor.shape)} and type {tensor.type_name} does not have {raw.size} bytes"
            )
            raise self.fail(index, rule, "the file is damaged: export it again")
        self.reader.spend(raw.size)
        value = np.frombuffer(raw, dtype).reshape(tensor.shape)
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise self.fail(index, "weights must be finite, but one is NaN or infinite", "train or export it again")
        native: NDArray[Any] = value.astype(value.dtype.newbyteorder("="), copy=False)
        return native

    def constant(self, index: int, quant: Quant | None = None) -> str:
        """Adds a constant to the graph, once, and returns its name."""
        tensor = self.tensors[index]
        value = self.data(index)
        if value.dtype == np.float16:
            value = value.astype(np.float32)
        if value.dtype == np.int64:
            raise _Opaque(f"the constant '{tensor.name}' is {tensor.type_name}")
        if value.dtype == np.int8 and quant is None:
            quant = self.quant(index)
        key = (index,) if quant is None else (index, quant.scale.tobytes(), quant.zero_point, quant.axis)
        if key not in self.constants:
            name = self.fresh(tensor.unique) if tensor.unique in self.graph.tensors else tensor.unique
            dtype: DType = value.dtype.name  # type: ignore[assignment]
            self.graph.add(Tensor(name, value.shape, dtype, quant, value))
            self.constants[key] = name
        return self.constants[key]

    def integers(self, op: _FileOperator, position: int, role: str) -> NDArray[np.int64]:
        """A constant of axes, sizes or paddings."""
        if position >= len(op.inputs) or op.inputs[position] < 0:
            raise _Opaque(f"it has no {role}")
        index = op.inputs[position]
        if not self.is_constant(index):
            raise _Opaque(f"its {role} are computed")
        value = self.data(index)
        if value.dtype.kind != "i":
            raise self.fail(index, f"{role} must be integers, but they are {self.tensors[index].type_name}")
        return np.asarray(value, np.int64)

    def check_types(self) -> None:
        """Raises for a live activation of a type that neither device nor host part can take."""
        named = {name for node in self.graph.nodes for name in (*node.inputs, *node.outputs)}
        for name in sorted((named | set(self.graph.inputs) | set(self.graph.outputs)) & self.foreign.keys()):
            origin = self.graph[name].origin
            raise ModelError(
                f"activations must be INT8, INT32 or FLOAT32, but it is {self.foreign[name]}",
                where=f"tensor '{origin.name if origin else name}'",
                remedy=_REQUANTIZE,
            )

    # ---- nodes of the graph ----------------------------------------------------------------------------------------

    def operator(self, op: _FileOperator) -> None:
        """Adds a node for an operator: ours where it can be, else an opaque one."""
        convert = self.convert.get(op.kind)
        try:
            if convert is None:
                raise _Opaque("tlc has no such operator")
            if len(op.outputs) != 1:
                raise self.reader.fail(f"{op.kind} must have 1 output, but it has {len(op.outputs)}")
            convert(op)
        except _Opaque as reason:
            self.opaque(op, str(reason))

    def opaque(self, op: _FileOperator, reason: str) -> None:
        """A node that nobody but the host's own runtime can run."""
        names = []
        for index in op.inputs:
            if index in self.values:
                names.append(self.values[index])
            elif index >= 0:
                try:
                    names.append(self.constant(index))
                except (_Opaque, ModelError):
                    continue  # a type that a graph cannot hold
        for index in op.outputs:
            self.new_activation(self.tensors[index], self.tensors[index].shape_at_one)
        outputs = [self.tensors[index].unique for index in op.outputs]
        attrs = REGISTRY["opaque"].Attrs(op_type=op.kind, reason=reason)
        self.graph.nodes.append(Node(self.fresh(op.kind.lower()), "opaque", names, outputs, attrs))

    def emit(self, op: _FileOperator, kind: str, inputs: list[str], **attrs: Any) -> None:
        """Adds one of our nodes, and its output with the shape that our rule gives it."""
        output = self.tensors[op.outputs[0]]
        where = f"{op.kind} '{output.name}'"
        node = Node(kind, kind, inputs, [output.unique], REGISTRY[kind].Attrs(**attrs))
        try:
            shape = REGISTRY[kind].infer(self.graph, node)
        except ValueError as error:
            raise ModelError(f"the shapes must fit the operator, but: {error}", where=where) from error
        self.check_size(shape, where)
        if shape[:1] != (1,):
            raise _Opaque(f"its output is {list(shape)}, so the batch axis is lost")
        if min(shape) < 1:
            raise ModelError(f"an output must have values, but its shape is {list(shape)}", where=where)
        if not self.shapes and shape != output.shape_at_one:  # shapes that --shape gave hold for the whole graph
            rule = f"the output's shape must be {list(shape)}, but the file has {list(output.shape)}"
            raise ModelError(rule, where=where, remedy="the file is damaged: export it again")
        self.new_activation(output, shape)
        node.name = self.fresh(kind)
        self.graph.nodes.append(node)

    def reshaped(self, x: Tensor, shape: Shape) -> Tensor:
        """An activation under another shape, by a reshape that the file does without."""
        y = self.graph.add(Tensor(self.fresh(f"{x.name}/reshaped"), shape, x.dtype, x.quant))
        attrs = REGISTRY["reshape"].Attrs(shape=shape)
        self.graph.nodes.append(Node(self.fresh("reshape"), "reshape", [x.name], [y.name], attrs))
        return y

    def activation_input(self, op: _FileOperator, position: int = 0) -> Tensor:
        """An input that must be computed."""
        if position >= len(op.inputs) or op.inputs[position] < 0:
            raise self.reader.fail(f"{op.kind} must have input {position}, but it has none")
        if op.inputs[position] not in self.values:
            raise _Opaque(f"its input '{self.tensors[op.inputs[position]].name}' is a constant")
        tensor = self.graph[self.values[op.inputs[position]]]
        if tensor.name in self.foreign or tensor.dtype == "int32":
            raise _Opaque(f"its input '{tensor.name}' is {self.foreign.get(tensor.name, 'INT32')}")
        self.same_type(op, tensor)
        if 0 in tensor.shape:
            raise _Opaque(f"the shape of '{tensor.name}' is not known")
        return tensor

    def same_type(self, op: _FileOperator, tensor: Tensor) -> None:
        """Our operators do not mix integers and floats."""
        if op.outputs and _DTYPES.get(self.tensors[op.outputs[0]].type) != tensor.dtype:
            raise _Opaque(f"it turns {tensor.dtype} into {self.tensors[op.outputs[0]].type_name}")

    def same_quant(self, op: _FileOperator, x: Tensor) -> None:
        """Our operators that copy integers do not change their meaning."""
        if x.quant is not None and not x.quant.same(self.quant(op.outputs[0])):
            raise _Opaque("input and output have different scales or zero points")

    def fused(self, options: Table | None) -> Activation:
        """The fused activation."""
        number = 0 if options is None else options.number("fused_activation_function")
        if number not in _ACTIVATIONS:
            raise _Opaque(f"its fused activation is {name_of(FusedActivation, number)}")
        return _ACTIVATIONS[number]

    def require_options(self, op: _FileOperator, name: str) -> Table:
        """Options without which an operator means nothing."""
        options = op.options(name)
        if options is None:
            raise self.reader.fail(f"{op.kind} must have {name}, but it has none")
        return options

    # ---- layers with weights ---------------------------------------------------------------------------------------

    def weights(self, op: _FileOperator, x: Tensor, rank: int, axis: int) -> Tensor:
        """The weights: int8, symmetric, one scale or one an output channel; or float."""
        if len(op.inputs) < 2 or op.inputs[1] < 0:
            raise self.reader.fail(f"{op.kind} must have weights, but it has none")
        index = op.inputs[1]
        tensor = self.tensors[index]
        if not self.is_constant(index):
            raise _Opaque("its weights are computed")
        if len(tensor.shape) != rank or 0 in tensor.shape:
            raise self.fail(
                index, f"weights of {op.kind} have {rank} dimensions, but the shape is {list(tensor.shape)}"
            )
        w = self.graph[self.constant(index)]
        if w.dtype != x.dtype:
            raise _Opaque(f"its input is {x.dtype} and its weights are {tensor.type_name}")
        if w.quant is not None and w.quant.zero_point != 0:
            raise _Opaque("its weights are not symmetric: their zero point is not 0")
        if w.quant is not None and w.quant.axis not in (None, axis):
            raise _Opaque(f"its weights have a scale for each index of axis {w.quant.axis}, not of axis {axis}")
        return w

    def bias(self, op: _FileOperator, x: Tensor, w: Tensor, channels: int) -> list[str]:
        """The bias as a list of none or one."""
        if len(op.inputs) < 3 or op.inputs[2] < 0:
            return []
        index = op.inputs[2]
        tensor = self.tensors[index]
        if not self.is_constant(index):
            raise _Opaque("its bias is computed")
        wanted = (TensorType.FLOAT32, TensorType.FLOAT16) if x.quant is None else (TensorType.INT32,)
        if tensor.type not in wanted:
            raise _Opaque(f"its bias is {tensor.type_name}")
        if math.prod(tensor.shape) != channels or len(tensor.shape) != 1:
            raise self.fail(index, f"a bias for {channels} channels must have as many values, not {list(tensor.shape)}")
        if x.quant is None or w.quant is None:
            return [self.constant(index)]
        scale = (np.float32(x.quant.s) * w.quant.scale).astype(np.float32)
        return [self.constant(index, Quant(scale, 0, 0 if scale.size > 1 else None))]

    def window(self, op: _FileOperator, options: Table, x: Tensor, kernel: Shape, dilations: Shape) -> dict[str, Any]:
        """Strides and explicit pads."""
        strides = self.pair(op, options, "stride_h", "stride_w")
        number = options.number("padding")
        if number == Padding.VALID:
            pads = [(0, 0), (0, 0)]
        elif number == Padding.SAME:
            sizes = zip(x.shape[1:3], kernel, strides, dilations, strict=True)
            pads = [same_pads(*axis) for axis in sizes]
        else:
            raise self.reader.fail(f"padding of {op.kind} must be 0 or 1, but it is {number}")
        for n, k, d, (before, after) in zip(x.shape[1:3], kernel, dilations, pads, strict=True):
            if n + before + after < (k - 1) * d + 1:
                rule = f"a window of {k} with dilation {d} must fit its input, but that has {n}"
                raise ModelError(rule, where=f"{op.kind} '{self.tensors[op.outputs[0]].name}'")
        return {"strides": strides, "pads": (pads[0][0], pads[1][0], pads[0][1], pads[1][1])}

    def pair(self, op: _FileOperator, options: Table, *names: str) -> Shape:
        """Two options that must be positive: strides, dilations, sizes."""
        values = tuple(int(options.number(name)) for name in names)
        if min(values) < 1:
            raise self.reader.fail(f"{' and '.join(names)} of {op.kind} must be positive, but they are {values}")
        return values

    def image(self, op: _FileOperator) -> Tensor:
        """An input of shape (1, H, W, C)."""
        x = self.activation_input(op)
        if len(x.shape) != 4:
            raise self.fail(op.inputs[0], f"{op.kind} takes 4 dimensions, but the shape is {list(x.shape)}")
        return x

    def conv2d(self, op: _FileOperator) -> None:
        """CONV_2D."""
        x, options = self.image(op), self.require_options(op, "Conv2DOptions")
        activation = self.fused(options)
        w = self.weights(op, x, 4, 0)
        if x.shape[3] % w.shape[3] or w.shape[0] % (x.shape[3] // w.shape[3]):
            rule = f"weights {list(w.shape)} must fit an input of {x.shape[3]} channels, but do not"
            raise self.fail(op.inputs[1], rule)
        dilations = self.pair(op, options, "dilation_h_factor", "dilation_w_factor")
        self.emit(
            op,
            "conv2d",
            [x.name, w.name, *self.bias(op, x, w, w.shape[0])],
            dilations=dilations,
            groups=x.shape[3] // w.shape[3],
            activation=activation,
            **self.window(op, options, x, w.shape[1:3], dilations),
        )

    def depthwise_conv2d(self, op: _FileOperator) -> None:
        """DEPTHWISE_CONV_2D."""
        x, options = self.image(op), self.require_options(op, "DepthwiseConv2DOptions")
        activation = self.fused(options)
        w = self.weights(op, x, 4, 3)
        if w.shape[0] != 1 or w.shape[3] % x.shape[3]:
            rule = f"weights {list(w.shape)} must fit an input of {x.shape[3]} channels, but do not"
            raise self.fail(op.inputs[1], rule)
        dilations = self.pair(op, options, "dilation_h_factor", "dilation_w_factor")
        self.emit(
            op,
            "depthwise_conv2d",
            [x.name, w.name, *self.bias(op, x, w, w.shape[3])],
            dilations=dilations,
            activation=activation,
            **self.window(op, options, x, w.shape[1:3], dilations),
        )

    def fully_connected(self, op: _FileOperator) -> None:
        """FULLY_CONNECTED; without keep_num_dims it flattens its input first."""
        x, options = self.activation_input(op), op.options("FullyConnectedOptions")
        activation = self.fused(options)
        if options is not None and options.number("weights_format"):
            raise _Opaque("its weights are shuffled")
        w = self.weights(op, x, 2, 0)
        keep = options is not None and options.number("keep_num_dims")
        if keep or len(x.shape) == 2:
            if x.shape[-1] != w.shape[1]:
                rule = f"weights {list(w.shape)} must fit an input of shape {list(x.shape)}, but do not"
                raise self.fail(op.inputs[1], rule)
        elif x.elements == w.shape[1]:
            x = self.reshaped(x, (1, x.elements))
        else:
            raise _Opaque(f"it turns {list(x.shape)} into rows of {w.shape[1]}, so the batch axis is lost")
        self.emit(op, "dense", [x.name, w.name, *self.bias(op, x, w, w.shape[0])], activation=activation)

    # ---- value by value --------------------------------------------------------------------------------------------

    def operand(self, op: _FileOperator, position: int) -> Tensor:
        """An input that may be a constant."""
        if position >= len(op.inputs) or op.inputs[position] < 0:
            raise self.reader.fail(f"{op.kind} must have input {position}, but it has none")
        index = op.inputs[position]
        if index in self.values:
            return self.activation_input(op, position)
        tensor = self.graph[self.constant(index)]
        self.same_type(op, tensor)
        if tensor.quant is not None and tensor.quant.axis is not None:
            raise _Opaque(f"its constant '{tensor.name}' has a scale for each channel")
        return tensor

    def arithmetic(self, op: _FileOperator, kind: str, options: str) -> None:
        """ADD, SUB, MUL."""
        a, b = self.operand(op, 0), self.operand(op, 1)
        if a.is_constant and b.is_constant:
            raise _Opaque("both inputs are constants")
        activation = self.fused(op.options(options))
        rank = max(len(a.shape), len(b.shape))
        # Samples broadcast on the leading axis, so what is computed needs all axes.
        names = [
            x.name
            if x.is_constant or len(x.shape) == rank
            else self.reshaped(x, (1,) * (rank - len(x.shape)) + x.shape).name
            for x in (a, b)
        ]
        self.emit(op, kind, names, activation=activation)

    def clamp(self, op: _FileOperator, activation: Activation) -> None:
        """RELU, RELU6, RELU_N1_TO_1."""
        self.emit(op, "clamp", [self.activation_input(op).name], activation=activation)

    def quantize(self, op: _FileOperator) -> None:
        """QUANTIZE from int8 to int8."""
        x = self.activation_input(op)
        if x.dtype != "int8":
            raise _Opaque(f"it quantizes {x.dtype}")
        self.emit(op, "quantize", [x.name])

    def softmax(self, op: _FileOperator) -> None:
        """SOFTMAX."""
        x, options = self.activation_input(op), self.require_options(op, "SoftmaxOptions")
        beta = float(options.number("beta"))
        if not (math.isfinite(beta) and beta > 0):
            raise self.reader.fail(f"beta of SOFTMAX must be finite and positive, but it is {beta}")
        if x.quant is not None and not Quant.per_tensor(1 / 256, -128).same(self.quant(op.outputs[0])):
            raise _Opaque("its output's scale is not 1/256, or the zero point not -128")
        if len(x.shape) < 2:
            raise _Opaque("it runs along the batch axis")
        self.emit(op, "softmax", [x.name], beta=beta)

    # ---- windows without weights -----------------------------------------------------------------------------------

    def pool(self, op: _FileOperator, kind: str) -> None:
        """MAX_POOL_2D, AVERAGE_POOL_2D."""
        x, options = self.image(op), self.require_options(op, "Pool2DOptions")
        self.same_quant(op, x)
        kernel = self.pair(op, options, "filter_height", "filter_width")
        window = self.window(op, options, x, kernel, (1, 1))
        self.emit(op, kind, [x.name], kernel=kernel, activation=self.fused(options), **window)

    def mean(self, op: _FileOperator) -> None:
        """MEAN."""
        x, options = self.activation_input(op), op.options("ReducerOptions")
        axes = self.axes(op, self.integers(op, 1, "axes"), len(x.shape))
        if 0 in axes:
            raise _Opaque("it averages over the batch axis")
        keep_dims = options is not None and bool(options.number("keep_dims"))
        self.emit(op, "mean", [x.name], axes=axes, keep_dims=keep_dims)

    def axes(self, op: _FileOperator, values: NDArray[np.int64], rank: int) -> Shape:
        """Axes, positive and in order."""
        axes = [int(n) for n in values.reshape(-1)[: 2 * _MAX_RANK]]
        if any(not -rank <= axis < rank for axis in axes):
            raise self.reader.fail(f"an axis of {op.kind} must be one of {rank}, but they are {axes}")
        return tuple(sorted({axis % rank for axis in axes}))

    # ---- shape -----------------------------------------------------------------------------------------------------

    def reshape(self, op: _FileOperator) -> None:
        """RESHAPE: the shape is a constant, an option, or, where it is computed, the output's."""
        x = self.activation_input(op)
        options = op.options("ReshapeOptions")
        given = options.numbers("new_shape") if options is not None else None
        if len(op.inputs) > 1 and op.inputs[1] >= 0:
            given = self.integers(op, 1, "sizes") if self.is_constant(op.inputs[1]) else None
        wanted = self.tensors[op.outputs[0]].shape if given is None else tuple(int(n) for n in given.reshape(-1)[:9])
        self.emit_reshape(op, x, self.resolve(op, x, wanted))

    def resolve(self, op: _FileOperator, x: Tensor, wanted: Shape) -> Shape:
        """The sizes of a RESHAPE for a batch of 1; -1 stands for what is left."""
        if len(wanted) > _MAX_RANK or min(wanted, default=1) < -1 or wanted.count(-1) > 1 or 0 in wanted:
            raise self.reader.fail(f"RESHAPE must have positive sizes and at most one -1, but has {list(wanted)}")
        rest = wanted[1:]
        if -1 in rest:
            known = math.prod(n for n in rest if n != -1)
            rest = tuple(x.elements // known if n == -1 else n for n in rest)
        if wanted and wanted[0] in (-1, 1, self.tensors[op.inputs[0]].batch) and math.prod(rest) == x.elements:
            return (1, *rest)
        raise _Opaque(f"it makes {list(wanted)} of {list(x.shape)}, so the batch axis is lost")

    def emit_reshape(self, op: _FileOperator, x: Tensor, shape: Shape) -> None:
        """A reshape that keeps the batch axis."""
        self.same_quant(op, x)
        if math.prod(shape) != x.elements or shape[:1] != (1,):
            raise _Opaque(f"it makes {list(shape)} of {list(x.shape)}, so the batch axis is lost")
        self.emit(op, "reshape", [x.name], shape=shape)

    def squeeze(self, op: _FileOperator) -> None:
        """SQUEEZE; without dimensions it drops every 1."""
        x, options = self.activation_input(op), op.options("SqueezeOptions")
        given = None if options is None else options.numbers("squeeze_dims")
        if given is None or given.size == 0:
            given = np.array([axis for axis, n in enumerate(self.tensors[op.inputs[0]].shape) if n == 1], np.int64)
        axes = self.axes(op, given.astype(np.int64), len(x.shape))
        self.emit_reshape(op, x, tuple(n for axis, n in enumerate(x.shape) if axis not in axes or n != 1))

    def expand_dims(self, op: _FileOperator) -> None:
        """EXPAND_DIMS."""
        x = self.activation_input(op)
        axes = self.axes(op, self.integers(op, 1, "axis"), len(x.shape) + 1)
        if len(axes) != 1:
            raise self.reader.fail(f"EXPAND_DIMS must have one axis, but it has {list(axes)}")
        axis = axes[0]
        if axis == 0 and self.tensors[op.inputs[0]].batch != 1:
            raise _Opaque("it adds an axis before the batch axis")
        self.emit_reshape(op, x, (*x.shape[:axis], 1, *x.shape[axis:]))

    def transpose(self, op: _FileOperator) -> None:
        """TRANSPOSE."""
        x = self.activation_input(op)
        self.same_quant(op, x)
        perm = tuple(int(n) for n in self.integers(op, 1, "axes").reshape(-1)[: _MAX_RANK + 1])
        if sorted(perm) != list(range(len(x.shape))):
            raise self.reader.fail(f"axes of TRANSPOSE must be a permutation of {len(x.shape)}, but are {list(perm)}")
        if perm[0] != 0:
            raise _Opaque("it moves the batch axis")
        self.emit(op, "transpose", [x.name], perm=perm)

    def pad(self, op: _FileOperator) -> None:
        """PAD, PADV2."""
        x = self.activation_input(op)
        self.same_quant(op, x)
        table = self.integers(op, 1, "paddings")
        if table.shape != (len(x.shape), 2) or table.min() < 0:
            rule = f"paddings of shape ({len(x.shape)}, 2) must not be negative, but they are {table.tolist()[:8]}"
            raise self.fail(op.inputs[1], rule)
        if table[0].any():
            raise _Opaque("it pads the batch axis")
        value = 0.0
        if op.kind == "PADV2":
            fill = self.operand(op, 2)
            if fill.data is None or fill.data.size != 1:
                raise _Opaque("its value is not a constant")
            if fill.quant is not None and not fill.quant.same(x.quant):
                raise _Opaque("its value has another scale or zero point than its input")
            value = float((fill.quant.dequantize(fill.data) if fill.quant else fill.data).reshape(()))
        self.emit(op, "pad", [x.name], pads=tuple((int(a), int(b)) for a, b in table), value=value)
