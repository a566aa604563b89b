# SPDX-License-Identifier: Apache-2.0
"""A program's calls as C text: struct initialisers, argument expressions, constant arrays."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.ops.base import Accumulator, Address, Bias, Grad, Param, Rows, Scratch, Table
from tlc.passes.backward import UPDATE
from tlc.passes.pack import Packing
from tlc.passes.schedule import gradient_name, scratch_name, sum_name
from tlc.program import Program, Step, align

__all__ = ["Array", "CCall", "Emitter", "c_array", "c_float", "identifier"]

C_TYPES = {
    "int8": "int8_t",
    "int16": "int16_t",
    "uint8": "uint8_t",
    "uint16": "uint16_t",
    "int32": "int32_t",
    "float32": "float",
}


@dataclass(frozen=True)
class Array:
    """A constant array in flash."""

    name: str
    c_type: str
    values: NDArray[Any]
    comment: str

    @property
    def bytes(self) -> int:
        """Flash it takes."""
        return int(self.values.nbytes)


@dataclass
class CCall:
    """One call as the template prints it."""

    name: str
    comment: str
    struct: str = ""
    fields: list[tuple[str, str]] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    text: str = ""
    layer: int = -1
    updates: str = ""
    """The learned tensor of which this is the update."""


def identifier(text: str) -> str:
    """Any name as a C identifier."""
    name = re.sub(r"[^0-9a-zA-Z]+", "_", text).strip("_").lower()
    return f"t_{name}" if not name or name[0].isdigit() else name


def c_float(value: float) -> str:
    """A float32 literal that reads back as the same float32."""
    text = f"{np.float32(value):.9g}"
    return f"{text}f" if any(mark in text for mark in ".en") else f"{text}.0f"


def c_array(values: NDArray[Any], indent: str = "    ", width: int = 116) -> str:
    """The values as lines of an initialiser."""
    if values.dtype == np.float32:
        words = [c_float(value) for value in values.ravel()]
    else:
        words = [str(value) for value in values.ravel().tolist()]
    lines, line = [], indent
    for word in words:
        if len(line) + len(word) + 2 > width:
            lines.append(line.rstrip())
            line = indent
        line += f"{word}, "
    return "\n".join([*lines, line.rstrip()])


class Emitter:
    """Collects the constant arrays while it turns steps into calls."""

    def __init__(self, program: Program, packing: Packing) -> None:
        self.program = program
        self.packing = packing
        self.arrays: dict[str, Array] = {}
        self.learned = {learned.tensor: learned for learned in program.learned}
        self.learned_rows: dict[str, NDArray[np.int8]] = {}
        for step in program.forward:
            for arg in step.call.args if step.call else ():
                if isinstance(arg, Rows) and arg.tensor in self.learned:
                    self.learned_rows[arg.tensor] = arg.values

    def forward(self) -> list[CCall]:
        """The calls of the forward pass; steps that compute nothing are left out."""
        graph = self.program.graph
        calls = []
        for index, step in enumerate(self.program.forward):
            if step.call is None:
                continue
            source = graph[graph.activations(step.node)[0]]
            shapes = f"{_shape(source.shape)} -> {_shape(graph[step.node.output].shape)}"
            macs = f"; {step.macs:,} MACs" if step.macs else ""
            calls.append(self._call(step, f"{step.node.op} '{step.node.name}': {shapes}{macs}", index))
        return calls

    def backward(self) -> list[CCall]:
        """The calls of the backward pass."""
        return [
            self._call(step, f"gradient of {step.node.op} '{step.node.name}'", -1) for step in self.program.backward
        ]

    def loss(self) -> CCall | None:
        """The call of the loss; the generated function adds the target and the verdict to its arguments."""
        step = self.program.loss
        if step is None:
            return None
        out = self._call(step, f"the loss, from '{self.program.top}'", -1)
        out.text = f"{out.text.removesuffix(');')}, target, verdict);"
        return out

    def weights(self, tensor: str, rows: NDArray[np.int8]) -> str:
        """The array that holds a raw weight tensor."""
        return self.add_array(f"w_{identifier(tensor)}", rows, f"{tensor} {_shape(rows.shape)}")

    def _call(self, step: Step, comment: str, layer: int) -> CCall:
        call = step.call
        assert call is not None
        if call.function == UPDATE:
            (arg,) = call.args
            assert isinstance(arg, Accumulator)
            return CCall(step.name, f"update of {arg.tensor}", updates=arg.tensor)
        out = CCall(step.name, comment, call.struct, layer=layer)
        for key, value in call.fields.items():
            out.fields.append((key, self._field(step, value)))
        scratch = self._scratch_offset(step)
        arguments = []
        for arg in call.args:
            if isinstance(arg, Scratch):
                arguments.append(f"a + {scratch}")
                scratch += align(arg.bytes)
            elif isinstance(arg, Rows):
                arguments.append(self._rows(step, arg, out, scratch))
                packed = self.packing.weights.get(arg.tensor)
                scratch += align(arg.ahead * packed.scratch_bytes) if packed else 0
            else:
                arguments.append(self._argument(step, arg))
        if self.program.learning.interleaved:
            for arg in call.args:
                if isinstance(arg, Accumulator):  # the kernels add
                    size = 4 * self.learned[arg.tensor].elements
                    out.before.append(f"memset(a + {self.program.offset(sum_name(arg.tensor))}, 0, {size});")
        head = [f"&{step.name}"] if call.struct else []
        out.text = f"{call.function}({', '.join([*head, *arguments])});"
        return out

    def _field(self, step: Step, value: int | float | Table) -> str:
        if isinstance(value, Table):
            return self.add_array(f"{step.name}_{value.suffix}", value.values, f"{step.node.op} '{step.node.name}'")
        if isinstance(value, float):
            return c_float(value)
        return "INT32_MIN" if value == -(1 << 31) else str(value)

    def _argument(self, step: Step, arg: Address | Bias | Table | Grad | Accumulator | Param) -> str:
        if isinstance(arg, Address):
            return self.address(arg.tensor, arg.is_output)
        if isinstance(arg, Grad):
            const = "" if arg.is_output else "const "
            return f"({const}float *)(a + {self.program.offset(gradient_name(arg.tensor))})"
        if isinstance(arg, Accumulator):
            return self.accumulator(arg.tensor)
        if isinstance(arg, Param):
            return f"(const int8_t *)(state + {self.learned[arg.tensor].offset})"
        if isinstance(arg, Bias) and step.node.name in self.program.folded:
            return f"(const int32_t *)(state + {self.program.folded[step.node.name]})"
        suffix = "bias" if isinstance(arg, Bias) else arg.suffix
        return self.add_array(f"{step.name}_{suffix}", arg.values, f"{step.node.op} '{step.node.name}'")

    def accumulator(self, tensor: str) -> str:
        """Where a learned tensor's gradient is summed up: in the state, or in the arena."""
        at = self.learned[tensor].accumulator
        where = f"a + {self.program.offset(sum_name(tensor))}" if at is None else f"state + {at}"
        return f"(float *)({where})"

    def address(self, tensor: str, is_output: bool) -> str:
        """An activation in the arena, or a constant in flash."""
        value = self.program.graph[tensor].data
        if value is not None:
            return self.add_array(f"k_{identifier(tensor)}", value, f"{tensor} {_shape(value.shape)}")
        return f"({'' if is_output else 'const '}int8_t *)(a + {self.program.offset(tensor)})"

    def _rows(self, step: Step, arg: Rows, out: CCall, scratch: int) -> str:
        name = f"{step.name}_w"
        row_bytes = arg.values.shape[1]
        if arg.tensor in self.learned:
            state = f"(const int8_t *)(state + {self.learned[arg.tensor].offset})"
            out.before.append(f"tlc_rows_t {name} = tlc_rows_raw({state}, {row_bytes});")
        elif self.packing.weights[arg.tensor].code:
            packed = self.packing.weights[arg.tensor]
            comment = f"{arg.tensor} {_shape(arg.values.shape)}, {packed.bits_per_weight:.2f} bits a weight"
            stream = self.add_array(f"w_{identifier(arg.tensor)}", packed.data, comment)
            row = f"(int8_t *)(a + {scratch})"
            out.before.append(f"tlc_rows_t {name} = tlc_rows_packed({stream}, {row_bytes}, &{packed.code}, {row});")
        else:
            out.before.append(f"tlc_rows_t {name} = tlc_rows_raw({self.weights(arg.tensor, arg.values)}, {row_bytes});")
        return f"&{name}"

    def _scratch_offset(self, step: Step) -> int:
        name = scratch_name(step.name)
        return self.program.offset(name) if name in self.program.buffers else 0

    def add_array(self, name: str, values: NDArray[Any], comment: str) -> str:
        """Adds a constant array and returns its name; equal arrays of one name are one."""
        known = self.arrays.get(name)
        if known is not None and not np.array_equal(known.values.ravel(), np.asarray(values).ravel()):
            return self.add_array(f"{name}_", values, comment)
        values = np.ascontiguousarray(values)
        self.arrays[name] = Array(name, C_TYPES[values.dtype.name], values, comment)
        return name


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(str(n) for n in shape)})"
