# SPDX-License-Identifier: Apache-2.0
"""A program's calls as C text: struct initialisers, argument expressions, constant arrays."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.codegen.folding import fold_lines
from tlc.codegen.strips import strip_call
from tlc.graph import Graph
from tlc.ops.base import Accumulator, Address, Bias, Call, Grad, Kept, Param, Rows, Scratch, Table
from tlc.passes.backward import UPDATE
from tlc.passes.pack import Packing
from tlc.passes.schedule import gradient_name, scratch_name, sum_name
from tlc.program import Learned, Program, Step, align

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
    keeping: list[CCall] = field(default_factory=list)
    """What follows it to keep what the backward pass needs of its output."""
    updates: str = ""
    """The learned tensor of which this is the update."""
    kinds: list[list[tuple[str, str]]] = field(default_factory=list)
    """In place of the fields, where the call is for a strip: those of each kind of strip."""
    after: str = ""
    """A line that follows it in the loop over the strips."""


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
        self.in_integers = program.learning.arithmetic == "int"
        self.grad_type = "tlc_grad_t" if self.in_integers else "float"
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
            comment = f"{step.node.op} '{step.node.name}': {shapes}{macs}"
            make = strip_call if index < self.program.in_strips else Emitter.call
            made = make(self, step, comment, index)
            for number, call in enumerate(step.keeping):
                kept = replace(step, name=f"{step.name}_keep{number}", call=call, keeping=())
                made.keeping.append(self.call(kept, f"what is kept of '{step.node.output}'", -1))
            calls.append(made)
        return calls

    def backward(self) -> list[CCall]:
        """The calls of the backward pass."""
        return [self.call(step, f"gradient of {step.node.op} '{step.node.name}'", -1) for step in self.program.backward]

    def loss(self) -> CCall | None:
        """The call of the loss; the generated function adds the target and the verdict to its arguments."""
        step = self.program.loss
        if step is None:
            return None
        out = self.call(step, f"the loss, from '{self.program.loss_top}'", -1)
        out.text = f"{out.text.removesuffix(');')}, target, verdict);"
        if self.in_integers:  # its floats stand behind the scale, and are taken as integers there
            at = self.program.offset(gradient_name(self.program.loss_top))
            out.text = out.text.replace(f"({self.grad_type} *)(a + {at})", f"(float *)(a + {at + 4})")
        return out

    def weights(self, tensor: str, rows: NDArray[np.int8]) -> str:
        """The array that holds a raw weight tensor."""
        return self.add_array(f"w_{identifier(tensor)}", rows, f"{tensor} {_shape(rows.shape)}")

    def call(self, step: Step, comment: str, layer: int, rows: Mapping[str, str] | None = None) -> CCall:
        """The call of a step; ``rows``: what is added to the addresses of activations."""
        call = step.call
        assert call is not None
        if call.function == UPDATE:
            (arg,) = call.args
            assert isinstance(arg, Accumulator)
            return CCall(step.name, f"update of {arg.tensor}", updates=arg.tensor)
        out = CCall(step.name, comment, call.struct, layer=layer)
        out.fields = self.fields(step, call)
        scratch = self._scratch_offset(step)
        arguments = []
        for arg in call.args:
            if isinstance(arg, Scratch):
                arguments.append(f"a + {scratch}")
                scratch += align(arg.bytes)
            elif isinstance(arg, Rows):
                arguments.append(self._rows(step, arg, out, scratch))
                scratch += align(arg.ahead * self._row_scratch(arg))
            elif isinstance(arg, Bias) and self.program.folded.get(step.node.name, 0) is None:
                out.before += fold_lines(self, step, f"a + {scratch}")
                arguments.append(f"(const int32_t *)(a + {scratch})")
                scratch += align(4 * arg.values.size)
            elif isinstance(arg, Address):
                arguments.append(self.address(arg.tensor, arg.is_output, (rows or {}).get(arg.tensor, "")))
            else:
                arguments.append(self._argument(step, arg))
        if self.program.learning.interleaved:
            for arg in call.args:
                if isinstance(arg, Accumulator):  # the kernels add
                    whole = 4 * self.learned[arg.tensor].elements
                    size = 4 if self.in_integers else whole  # a scale of 0 says that nothing is there
                    out.before.append(f"memset(a + {self.program.offset(sum_name(arg.tensor))}, 0, {size});")
        head = [f"&{step.name}"] if call.struct else []
        out.text = f"{call.function}({', '.join([*head, *arguments])});"
        return out

    def fields(self, step: Step, call: Call) -> list[tuple[str, str]]:
        """What the struct of a call holds."""
        return [(key, self._field(step, value)) for key, value in call.fields.items()]

    def _field(self, step: Step, value: int | float | Table) -> str:
        if isinstance(value, Table):
            return self.add_array(f"{step.name}_{value.suffix}", value.values, f"{step.node.op} '{step.node.name}'")
        if isinstance(value, float):
            return c_float(value)
        return "INT32_MIN" if value == -(1 << 31) else str(value)

    def _argument(self, step: Step, arg: Bias | Table | Grad | Accumulator | Param | Kept) -> str:
        if isinstance(arg, Grad):
            const = "" if arg.is_output else "const "
            at = self.program.offset(gradient_name(arg.tensor, arg.part))
            return f"({const}{self.grad_type} *)(a + {at})"
        if isinstance(arg, Accumulator):
            return self.accumulator(arg.tensor)
        if isinstance(arg, Kept):
            const = "" if arg.is_output else "const "
            kind = "uint8_t" if arg.is_mask else "int8_t"
            return f"({const}{kind} *)(a + {self.program.offset(arg.name)})"
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
        return f"({self.grad_type} *)({where})"

    def address(self, tensor: str, is_output: bool, rows: str = "") -> str:
        """An activation in the arena, from some row on, or a constant in flash."""
        value = self.program.graph[tensor].data
        if value is not None:
            return self.add_array(f"k_{identifier(tensor)}", value, f"{tensor} {_shape(value.shape)}")
        return f"({'' if is_output else 'const '}int8_t *)(a + {self.program.offset(tensor)}{rows})"

    def _rows(self, step: Step, arg: Rows, out: CCall, scratch: int) -> str:
        name = f"{step.name}_w"
        row_bytes = arg.values.shape[1]
        learned = self.learned.get(arg.tensor)
        if learned is not None and learned.part is None:
            state = f"(const int8_t *)(state + {self.learned[arg.tensor].offset})"
            out.before.append(f"tlc_rows_t {name} = tlc_rows_raw({state}, {row_bytes});")
            return f"&{name}"
        row = f"(int8_t *)(a + {scratch})"
        if self.packing.weights[arg.tensor].code:
            packed = self.packing.weights[arg.tensor]
            comment = f"{arg.tensor} {_shape(arg.values.shape)}, {packed.bits_per_weight:.2f} bits a weight"
            stream = self.add_array(f"w_{identifier(arg.tensor)}", packed.data, comment)
            rows = f"tlc_rows_packed({stream}, {row_bytes}, &{packed.code}, {row})"
        else:
            rows = f"tlc_rows_raw({self.weights(arg.tensor, arg.values)}, {row_bytes})"
        if learned is not None:
            part = _slice(self.program.graph, learned, row_bytes)
            out.before.append(f"static const tlc_slice_t {name}_slice = {part};")
            rows = f"tlc_rows_sliced({rows}, &{name}_slice, (const int8_t *)(state + {learned.offset}), {row})"
        out.before.append(f"tlc_rows_t {name} = {rows};")
        return f"&{name}"

    def _row_scratch(self, arg: Rows) -> int:
        """What a row takes where the kernel cannot read it as it lies."""
        packed, learned = self.packing.weights.get(arg.tensor), self.learned.get(arg.tensor)
        if packed and packed.code:
            return packed.scratch_bytes
        return arg.values.shape[1] if learned and learned.part else 0

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


def _slice(graph: Graph, learned: Learned, row_bytes: int) -> str:
    """The ``tlc_slice_t`` of a weight of which a part learns."""
    part = learned.part
    assert part is not None
    depth = graph[learned.tensor].shape[-1] if part.ins else row_bytes
    first, last = part.ins or (0, depth)
    fields = {"first": part.outs[0], "last": part.outs[1], "taps": row_bytes // depth, "depth": depth}
    fields |= {"offset": first, "count": last - first}
    return "{" + ", ".join(f".{key} = {value}" for key, value in fields.items()) + "}"


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(str(n) for n in shape)})"
