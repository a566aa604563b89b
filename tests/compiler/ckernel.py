# SPDX-License-Identifier: Apache-2.0
"""Runs the C call of an operator on this machine, as generated code would make it, under UBSan.

The kernels are compiled once a process. The calls of many cases become one C file each batch, so that a sweep costs one
compiler run. Activations lie against pages that may not be touched: reading or writing beyond them ends the process.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.graph import Graph, Node
from tlc.ops import REGISTRY
from tlc.ops.base import Address, Bias, Rows, Scratch, Table

FIRMWARE = Path(__file__).parents[2] / "firmware"
FLAGS = [
    "-std=c99",
    "-O1",
    "-g",
    "-fPIC",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fsanitize=undefined",
    "-fno-sanitize-recover=all",
]
C_TYPES = {"int8": "int8_t", "uint8": "uint8_t", "int16": "int16_t", "uint16": "uint16_t", "int32": "int32_t"}
MARK = 0x5A


@dataclass(frozen=True)
class Case:
    """One node of an integer graph, and values of its activations in the node's order: (samples, ...) int8 each."""

    graph: Graph
    node: Node
    inputs: Sequence[NDArray[np.int8]]

    def reference(self) -> NDArray[np.int8]:
        """What the operator's NumPy form gives."""
        activations = iter(self.inputs)
        tensors = [self.graph[name] for name in self.node.inputs]
        values = [next(activations) if tensor.data is None else tensor.data for tensor in tensors]
        return REGISTRY[self.node.op].int8(self.graph, self.node, values)


def run_c(cases: Sequence[Case], *, in_place: bool = False) -> list[NDArray[np.int8]]:
    """What the C calls of the cases give; ``in_place``: with the output over the first input of its size."""
    source = '#include "tlc/kernels.h"\n' + "\n".join(_function(number, case) for number, case in enumerate(cases))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "cases.c").write_text(source)
        objects = [str(path) for path in _kernel_objects()]
        _gcc([*FLAGS, "-shared", str(directory / "cases.c"), *objects, "-o", str(directory / "cases.so")])
        library = ctypes.CDLL(str(directory / "cases.so"))
    return [_run(library[f"case_{number}"], case, in_place) for number, case in enumerate(cases)]


@functools.cache
def _kernel_objects() -> tuple[Path, ...]:
    directory = Path(_keep().name)
    sources = sorted([*FIRMWARE.glob("src/kernels/*.c"), *FIRMWARE.glob("src/pack/*.c")])
    for source in sources:
        _gcc([*FLAGS, "-c", str(source), "-o", str(directory / f"{source.stem}.o")])
    return tuple(directory / f"{source.stem}.o" for source in sources)


@functools.cache
def _keep() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


def _gcc(arguments: list[str]) -> None:
    done = subprocess.run(["gcc", f"-I{FIRMWARE / 'include'}", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _function(number: int, case: Case) -> str:
    """``case_N(arena)``: the pointers of the activations, and last that of the output."""
    call = REGISTRY[case.node.op].call(case.graph, case.node)
    assert call is not None
    names = [*case.graph.activations(case.node), case.node.output]
    lines: list[str] = []
    arrays: list[str] = []
    fields = ", ".join(f".{key} = {_field(number, key, value, arrays)}" for key, value in call.fields.items())
    arguments = [_argument(number, index, arg, case, names, arrays, lines) for index, arg in enumerate(call.args)]
    if call.struct:
        lines.append(f"static const {call.struct} p = {{{fields}}};")
        arguments.insert(0, "&p")
    lines.append(f"{call.function}({', '.join(arguments)});")
    body = "\n    ".join(lines)
    head = f"void case_{number}(int8_t *const *v)"
    return "\n".join([*arrays, f"{head};", f"{head} {{\n    {body}\n}}\n"])


def _field(number: int, key: str, value: Any, arrays: list[str]) -> str:
    if isinstance(value, Table):
        return _array(f"t{number}_{key}", value.values, arrays)
    if isinstance(value, float):
        return f"{float(np.float32(value))!r}f"
    return "INT32_MIN" if value == -(1 << 31) else str(int(value))


def _argument(
    number: int, index: int, arg: Any, case: Case, names: list[str], arrays: list[str], lines: list[str]
) -> str:
    stem = f"a{number}_{index}"
    if isinstance(arg, Address):
        data = case.graph[arg.tensor].data
        return f"v[{names.index(arg.tensor)}]" if data is None else _array(stem, data, arrays)
    if isinstance(arg, Rows):
        weights = _array(stem, arg.values, arrays)
        lines.append(f"tlc_rows_t rows{index} = tlc_rows_raw({weights}, {arg.values.shape[1]});")
        return f"&rows{index}"
    if isinstance(arg, Bias | Table):
        return _array(stem, arg.values, arrays)
    assert isinstance(arg, Scratch), arg
    arrays.append(f"static int8_t {stem}[{max(1, arg.bytes)}] __attribute__((aligned(16)));")
    return stem


def _array(name: str, values: NDArray[Any], arrays: list[str]) -> str:
    words = ", ".join("INT32_MIN" if word == -(1 << 31) else str(word) for word in values.ravel().tolist())
    c_type = C_TYPES[values.dtype.name]
    arrays.append(f"static const {c_type} {name}[{values.size}] = {{{words}}};")
    return name


def _run(function: Any, case: Case, in_place: bool) -> NDArray[np.int8]:
    outputs = []
    shape = case.graph[case.node.output].shape
    for sample in range(len(case.inputs[0])):
        buffers = [Guarded(values[sample].size) for values in case.inputs] + [Guarded(int(np.prod(shape)))]
        for buffer, values in zip(buffers, case.inputs, strict=False):
            buffer.values[:] = values[sample].ravel()
        if in_place:
            buffers[-1] = next(buffer for buffer in buffers if buffer.values.size == buffers[-1].values.size)
        function((ctypes.c_void_p * len(buffers))(*(buffer.address for buffer in buffers)))
        assert all(buffer.is_intact() for buffer in buffers), f"{case.node.op} wrote before its output"
        assert all(
            np.array_equal(buffer.values, values[sample].ravel())
            for buffer, values in zip(buffers, case.inputs, strict=False)
            if buffer is not buffers[-1]
        ), f"{case.node.op} wrote to its input"
        outputs.append(buffers[-1].values.reshape(shape[1:]).copy())
    return np.stack(outputs)


class Guarded:
    """Bytes that end where a page begins that may not be touched; the bytes before them are marked."""

    def __init__(self, size: int) -> None:
        pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self.memory = mmap.mmap(-1, pages + mmap.PAGESIZE)
        whole = np.frombuffer(self.memory, np.int8)
        whole[:] = MARK
        self.values = whole[pages - size : pages]
        self.before = whole[: pages - size]
        self.address = whole.ctypes.data + pages - size
        libc = ctypes.CDLL(None, use_errno=True)
        guard = ctypes.c_void_p(whole.ctypes.data + pages)
        assert libc.mprotect(guard, ctypes.c_size_t(mmap.PAGESIZE), mmap.PROT_READ * 0) == 0

    def is_intact(self) -> bool:
        """Whether nothing was written before the bytes."""
        return bool((self.before == MARK).all())
