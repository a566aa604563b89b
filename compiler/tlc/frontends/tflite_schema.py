# SPDX-License-Identifier: Apache-2.0
"""The part of the TFLite flatbuffer schema that tlc reads and writes, and a reader that no file can lead astray.

Numbers are those of TensorFlow's public ``schema.fbs`` (version 3, identifier ``TFL3``). The generated classes of the
``flatbuffers`` tool are not used for reading: they follow any offset that the file names.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.errors import ModelError

__all__ = [
    "IDENTIFIER",
    "OPTIONS",
    "SCHEMA_VERSION",
    "TABLES",
    "BuiltinOperator",
    "Field",
    "FusedActivation",
    "Padding",
    "Reader",
    "Table",
    "TensorType",
    "name_of",
    "same_pads",
]

IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3
_LEAST_TABLE = 16  # bytes: an offset in a vector, the table's own offset, and two fields or more


class TensorType(IntEnum):
    """``TensorType`` of the schema."""

    FLOAT32 = 0
    FLOAT16 = 1
    INT32 = 2
    UINT8 = 3
    INT64 = 4
    STRING = 5
    BOOL = 6
    INT16 = 7
    COMPLEX64 = 8
    INT8 = 9
    FLOAT64 = 10
    COMPLEX128 = 11
    UINT64 = 12
    RESOURCE = 13
    VARIANT = 14
    UINT32 = 15
    UINT16 = 16
    INT4 = 17
    BFLOAT16 = 18
    INT2 = 19
    UINT4 = 20


class Padding(IntEnum):
    """``Padding`` of the schema."""

    SAME = 0
    VALID = 1


class FusedActivation(IntEnum):
    """``ActivationFunctionType`` of the schema."""

    NONE = 0
    RELU = 1
    RELU_N1_TO_1 = 2
    RELU6 = 3
    TANH = 4
    SIGN_BIT = 5


class BuiltinOperator(IntEnum):
    """``BuiltinOperator`` of the schema: what we read or write, and common ones for the sake of messages."""

    ADD = 0
    AVERAGE_POOL_2D = 1
    CONCATENATION = 2
    CONV_2D = 3
    DEPTHWISE_CONV_2D = 4
    DEPTH_TO_SPACE = 5
    DEQUANTIZE = 6
    EMBEDDING_LOOKUP = 7
    FLOOR = 8
    FULLY_CONNECTED = 9
    L2_NORMALIZATION = 11
    L2_POOL_2D = 12
    LOCAL_RESPONSE_NORMALIZATION = 13
    LOGISTIC = 14
    LSTM = 16
    MAX_POOL_2D = 17
    MUL = 18
    RELU = 19
    RELU_N1_TO_1 = 20
    RELU6 = 21
    RESHAPE = 22
    RESIZE_BILINEAR = 23
    RNN = 24
    SOFTMAX = 25
    SPACE_TO_DEPTH = 26
    SVDF = 27
    TANH = 28
    CUSTOM = 32
    PAD = 34
    UNIDIRECTIONAL_SEQUENCE_RNN = 35
    GATHER = 36
    BATCH_TO_SPACE_ND = 37
    SPACE_TO_BATCH_ND = 38
    TRANSPOSE = 39
    MEAN = 40
    SUB = 41
    DIV = 42
    SQUEEZE = 43
    UNIDIRECTIONAL_SEQUENCE_LSTM = 44
    STRIDED_SLICE = 45
    EXP = 47
    TOPK_V2 = 48
    SPLIT = 49
    LOG_SOFTMAX = 50
    CAST = 53
    PRELU = 54
    MAXIMUM = 55
    ARG_MAX = 56
    MINIMUM = 57
    LESS = 58
    NEG = 59
    PADV2 = 60
    GREATER = 61
    SLICE = 65
    SIN = 66
    TRANSPOSE_CONV = 67
    TILE = 69
    EXPAND_DIMS = 70
    LOG = 73
    SUM = 74
    SQRT = 75
    RSQRT = 76
    SHAPE = 77
    POW = 78
    ARG_MIN = 79
    REDUCE_MAX = 82
    PACK = 83
    ONE_HOT = 85
    UNPACK = 88
    REDUCE_MIN = 89
    SQUARE = 92
    FILL = 94
    RESIZE_NEAREST_NEIGHBOR = 97
    LEAKY_RELU = 98
    SQUARED_DIFFERENCE = 99
    MIRROR_PAD = 100
    ABS = 101
    SPLIT_V = 102
    QUANTIZE = 114
    HARD_SWISH = 117
    IF = 118
    WHILE = 119
    BATCH_MATMUL = 126
    PLACEHOLDER_FOR_GREATER_OP_CODES = 127
    CALL_ONCE = 129
    VAR_HANDLE = 142
    READ_VARIABLE = 143
    ASSIGN_VARIABLE = 144
    GELU = 150


@dataclass(frozen=True)
class Field:
    """One field of a table: its number, its scalar format (as in :mod:`struct`) or what it points at, its default.

    ``kind`` is a scalar format (``"b" "B" "?" "i" "I" "Q" "f"``), ``"string"``, ``"[]"`` plus a scalar format for a
    vector of numbers, ``"table"`` or ``"tables"``; then ``of`` names the table, ``"*"`` one of :data:`OPTIONS`.
    """

    number: int
    kind: str
    default: int | float | bool = 0
    of: str = ""


OPTIONS: dict[str, tuple[int, dict[str, Field]]] = {
    # name: (number in the BuiltinOptions union, fields)
    "Conv2DOptions": (
        1,
        {
            "padding": Field(0, "b"),
            "stride_w": Field(1, "i"),
            "stride_h": Field(2, "i"),
            "fused_activation_function": Field(3, "b"),
            "dilation_w_factor": Field(4, "i", 1),
            "dilation_h_factor": Field(5, "i", 1),
        },
    ),
    "DepthwiseConv2DOptions": (
        2,
        {
            "padding": Field(0, "b"),
            "stride_w": Field(1, "i"),
            "stride_h": Field(2, "i"),
            "depth_multiplier": Field(3, "i"),
            "fused_activation_function": Field(4, "b"),
            "dilation_w_factor": Field(5, "i", 1),
            "dilation_h_factor": Field(6, "i", 1),
        },
    ),
    "Pool2DOptions": (
        5,
        {
            "padding": Field(0, "b"),
            "stride_w": Field(1, "i"),
            "stride_h": Field(2, "i"),
            "filter_width": Field(3, "i"),
            "filter_height": Field(4, "i"),
            "fused_activation_function": Field(5, "b"),
        },
    ),
    "FullyConnectedOptions": (
        8,
        {
            "fused_activation_function": Field(0, "b"),
            "weights_format": Field(1, "b"),
            "keep_num_dims": Field(2, "?", False),
        },
    ),
    "SoftmaxOptions": (9, {"beta": Field(0, "f", 0.0)}),
    "AddOptions": (11, {"fused_activation_function": Field(0, "b")}),
    "ReshapeOptions": (17, {"new_shape": Field(0, "[]i")}),
    "MulOptions": (21, {"fused_activation_function": Field(0, "b")}),
    "PadOptions": (22, {}),
    "TransposeOptions": (26, {}),
    "ReducerOptions": (27, {"keep_dims": Field(0, "?", False)}),
    "SubOptions": (28, {"fused_activation_function": Field(0, "b")}),
    "SqueezeOptions": (30, {"squeeze_dims": Field(0, "[]i")}),
    "MaximumMinimumOptions": (39, {}),
    "PadV2Options": (43, {}),
    "DequantizeOptions": (38, {}),
    "ExpandDimsOptions": (52, {}),
    "QuantizeOptions": (89, {}),
}

TABLES: dict[str, dict[str, Field]] = {
    "Model": {
        "version": Field(0, "I"),
        "operator_codes": Field(1, "tables", of="OperatorCode"),
        "subgraphs": Field(2, "tables", of="SubGraph"),
        "description": Field(3, "string"),
        "buffers": Field(4, "tables", of="Buffer"),
    },
    "OperatorCode": {
        "deprecated_builtin_code": Field(0, "b"),
        "custom_code": Field(1, "string"),
        "version": Field(2, "i", 1),
        "builtin_code": Field(3, "i"),
    },
    "SubGraph": {
        "tensors": Field(0, "tables", of="Tensor"),
        "inputs": Field(1, "[]i"),
        "outputs": Field(2, "[]i"),
        "operators": Field(3, "tables", of="Operator"),
        "name": Field(4, "string"),
    },
    "Tensor": {
        "shape": Field(0, "[]i"),
        "type": Field(1, "b"),
        "buffer": Field(2, "I"),
        "name": Field(3, "string"),
        "quantization": Field(4, "table", of="QuantizationParameters"),
        "is_variable": Field(5, "?", False),
        "sparsity": Field(6, "table", of="SparsityParameters"),
        "shape_signature": Field(7, "[]i"),
        "external_buffer": Field(10, "I"),
    },
    "SparsityParameters": {},
    "QuantizationParameters": {
        "scale": Field(2, "[]f"),
        "zero_point": Field(3, "[]q"),
        "quantized_dimension": Field(6, "i"),
    },
    "Operator": {
        "opcode_index": Field(0, "I"),
        "inputs": Field(1, "[]i"),
        "outputs": Field(2, "[]i"),
        "builtin_options_type": Field(3, "B"),
        "builtin_options": Field(4, "table", of="*"),
    },
    "Buffer": {"data": Field(0, "[]B"), "offset": Field(1, "Q"), "size": Field(2, "Q")},
    **{name: fields for name, (_, fields) in OPTIONS.items()},
}


def name_of(kind: type[IntEnum], number: int) -> str:
    """The name of a number, or the number itself where the list above does not have it."""
    try:
        return kind(number).name
    except ValueError:
        return f"{kind.__name__} {number}"


def same_pads(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Zeros before and after one axis under ``Padding.SAME``: the output has ceil(size / stride) values."""
    out = -(-size // stride)
    total = max((out - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


class Reader:
    """Bounds-checked access to a flatbuffer.

    Raises:
        ModelError: for every offset that leads out of the file, and for files that make the reader visit the same bytes
            over and over (a flatbuffer may share what it points at, so a small file could otherwise ask for any work).
    """

    def __init__(self, data: bytes, where: str) -> None:
        self.data = data
        self.where = where
        self._budget = 4 * len(data) + (1 << 16)

    def fail(self, rule: str) -> ModelError:
        """The error for a file that breaks the format."""
        return ModelError(rule, where=self.where, remedy="the file is damaged or is no .tflite model: export it again")

    def root(self, table: str) -> Table:
        """The table that the file begins with."""
        if len(self.data) < 8 or self.data[4:8] != IDENTIFIER:
            found = self.data[4:8].decode("latin-1").encode("unicode_escape").decode("ascii")
            raise self.fail(
                f"a TFLite model has 'TFL3' at byte 4, but this file of {len(self.data)} bytes has '{found}'"
            )
        return self.table(self.scalar("I", 0), table)

    def scalar(self, form: str, at: int) -> Any:
        """One little-endian number at an offset."""
        size = struct.calcsize("<" + form)
        if at < 0 or at + size > len(self.data):
            raise self.fail(f"an offset must lie within the file's {len(self.data)} bytes, but one is {at}")
        return struct.unpack_from("<" + form, self.data, at)[0]

    def table(self, at: int, table: str) -> Table:
        """The table at an offset."""
        vtable = at - self.scalar("i", at)
        size = self.scalar("H", vtable)
        if size < 4 or size % 2 or vtable + size > len(self.data):
            raise self.fail(f"a table's index must lie within the file, but one of {size} bytes is at {vtable}")
        return Table(self, at, vtable, size, table)

    def vector(self, at: int, size: int) -> tuple[int, int]:
        """Where a vector's items begin, and how many there are."""
        count = self.scalar("I", at)
        start = at + 4
        if start + count * size > len(self.data):
            raise self.fail(f"a vector must lie within the {len(self.data)} bytes, but one at {at} has {count} items")
        return start, count

    def spend(self, size: int) -> None:
        """Counts work against what a file of this size can need."""
        self._budget -= size
        if self._budget < 0:
            raise self.fail("a file must not refer to the same bytes over and over, but this one does")


@dataclass(frozen=True)
class Table:
    """A table of the file: fields by name."""

    reader: Reader
    at: int
    vtable: int
    vtable_size: int
    name: str

    def _position(self, field: Field) -> int | None:
        slot = 4 + 2 * field.number
        if slot >= self.vtable_size:
            return None
        offset = self.reader.scalar("H", self.vtable + slot)
        return self.at + offset if offset else None

    def _target(self, name: str) -> int | None:
        position = self._position(TABLES[self.name][name])
        return None if position is None else position + int(self.reader.scalar("I", position))

    def number(self, name: str) -> Any:
        """A scalar field: int, float, or bool."""
        field = TABLES[self.name][name]
        position = self._position(field)
        return field.default if position is None else self.reader.scalar(field.kind, position)

    def string(self, name: str) -> str:
        """A string field; empty where it is absent. Bytes that are no UTF-8 are replaced."""
        target = self._target(name)
        if target is None:
            return ""
        start, count = self.reader.vector(target, 1)
        self.reader.spend(count)
        return self.reader.data[start : start + count].decode("utf-8", "replace")

    def numbers(self, name: str) -> NDArray[Any] | None:
        """A vector of numbers as a read-only view; None where it is absent."""
        target = self._target(name)
        if target is None:
            return None
        dtype = np.dtype("<" + TABLES[self.name][name].kind[2:])
        start, count = self.reader.vector(target, dtype.itemsize)
        if dtype.itemsize > 1:  # bytes are a constant's: they are viewed, not visited
            self.reader.spend(count * dtype.itemsize)
        return np.frombuffer(self.reader.data, dtype, count, start)

    def child(self, name: str, table: str = "") -> Table | None:
        """A table field; None where it is absent."""
        target = self._target(name)
        return None if target is None else self.reader.table(target, table or TABLES[self.name][name].of)

    def children(self, name: str) -> list[Table]:
        """A vector of tables; empty where it is absent."""
        target = self._target(name)
        if target is None:
            return []
        start, count = self.reader.vector(target, 4)
        self.reader.spend(_LEAST_TABLE * count)
        places = range(start, start + 4 * count, 4)
        of = TABLES[self.name][name].of
        return [self.reader.table(place + int(self.reader.scalar("I", place)), of) for place in places]
