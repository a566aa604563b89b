# SPDX-License-Identifier: Apache-2.0
"""A TFLite flatbuffer from nested dictionaries, by the tables of :mod:`tlc.frontends.tflite_schema`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flatbuffers
import numpy as np

from tlc.frontends.tflite_schema import IDENTIFIER, TABLES, Field

__all__ = ["pack_model"]

_ALIGNMENT = 16  # of constants, in bytes: what the schema asks of Buffer.data
_SLOTS: dict[str, str] = {
    "b": "Int8",
    "B": "Uint8",
    "?": "Bool",
    "i": "Int32",
    "I": "Uint32",
    "Q": "Uint64",
    "f": "Float32",
}


def pack_model(model: Mapping[str, Any]) -> bytes:
    """The file of a ``Model`` table: scalars, strings, vectors as sequences or arrays, tables as mappings.

    ``Operator.builtin_options`` is a pair of the options' name and their fields. The same model gives the same bytes.
    """
    # The largest part is the constants: room for them at once saves the builder from growing step by step.
    constants = sum(2 * _ALIGNMENT + np.asarray(buffer.get("data", ())).size for buffer in model["buffers"])
    builder = flatbuffers.Builder(1024 + constants)
    builder.Finish(_pack(builder, "Model", model), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def _pack(builder: flatbuffers.Builder, table: str, values: Mapping[str, Any]) -> int:
    """Writes a table, children first, and returns its offset."""
    fields = TABLES[table]
    offsets = {name: _pack_child(builder, fields[name], value) for name, value in values.items()}
    builder.StartObject(1 + max((field.number for field in fields.values()), default=-1))
    for name, value in offsets.items():
        field = fields[name]
        if field.kind in _SLOTS:
            getattr(builder, f"Prepend{_SLOTS[field.kind]}Slot")(field.number, value, field.default)
        else:
            builder.PrependUOffsetTRelativeSlot(field.number, value, 0)
    return int(builder.EndObject())


def _pack_child(builder: flatbuffers.Builder, field: Field, value: Any) -> Any:
    """The offset of what a field points at; a scalar field's value itself."""
    if field.kind == "string":
        return builder.CreateString(value)
    if field.kind == "table":
        of, values = value if field.of == "*" else (field.of, value)
        return _pack(builder, of, values)
    if field.kind == "tables":
        children = [_pack(builder, field.of, child) for child in value]
        builder.StartVector(4, len(children), 4)
        for child in reversed(children):
            builder.PrependUOffsetTRelative(child)
        return builder.EndVector()
    if field.kind.startswith("[]"):
        dtype = np.dtype("<" + field.kind[2:])
        raw = np.asarray(value, dtype).tobytes()
        alignment = _ALIGNMENT if dtype.itemsize == 1 else dtype.itemsize
        builder.StartVector(dtype.itemsize, len(raw) // dtype.itemsize, alignment)
        builder.head -= len(raw)
        builder.Bytes[builder.Head() : builder.Head() + len(raw)] = raw
        return builder.EndVector()
    return value
