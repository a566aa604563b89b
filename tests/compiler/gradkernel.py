# SPDX-License-Identifier: Apache-2.0
"""Runs the backward calls of an operator on this machine, as generated code would make them, under UBSan.

Buffers lie against pages that may not be touched, as those of :mod:`ckernel`.
"""

from __future__ import annotations

import ctypes
import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ckernel import C_TYPES, FIRMWARE, FLAGS, Case, Guarded, _gcc
from numpy.typing import NDArray

from tlc.ops import REGISTRY
from tlc.ops.base import Accumulator, Address, Call, Grad, Rows, Scratch, Table

Arrays = dict[int, NDArray[np.float32]]


def run_gradients(
    cases: Sequence[Case], wanted: Sequence[frozenset[int]], dy: Sequence[NDArray[np.float32]], start: Sequence[Arrays]
) -> list[Arrays]:
    """The gradients of each case's first sample, added to ``start`` where that has them; else set."""
    calls = []
    for case, indices, begin in zip(cases, wanted, start, strict=True):
        activations = {i for i in indices if case.graph[case.node.inputs[i]].data is None}
        made = REGISTRY[case.node.op].backward(case.graph, case.node, indices, frozenset(activations & begin.keys()))
        assert made is not None
        calls.append(made)
    source = '#include "tlc/train.h"\n' + "\n".join(
        _function(number, case, made) for number, (case, made) in enumerate(zip(cases, calls, strict=True))
    )
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "cases.c").write_text(source)
        objects = [str(path) for path in _objects()]
        _gcc([*FLAGS, "-shared", str(directory / "cases.c"), *objects, "-o", str(directory / "cases.so")])
        library = ctypes.CDLL(str(directory / "cases.so"))
    rows = zip(cases, wanted, dy, start, strict=True)
    return [_run(library[f"case_{number}"], *row) for number, row in enumerate(rows)]


def reference(case: Case, wanted: frozenset[int], dy: NDArray[np.float32], start: Arrays) -> Arrays:
    """The same in NumPy."""
    inputs, output = _values(case)
    sums = {i: start[i].copy() if i in start else np.zeros(_shape(case, i), np.float32) for i in wanted}
    REGISTRY[case.node.op].gradient(case.graph, case.node, inputs, output, dy, sums)
    return sums


def shapes(case: Case, wanted: frozenset[int]) -> dict[int, tuple[int, ...]]:
    """Of the gradients: weights with the output channel first."""
    return {i: _shape(case, i) for i in wanted}


def _shape(case: Case, index: int) -> tuple[int, ...]:
    tensor = case.graph[case.node.inputs[index]]
    axis = REGISTRY[case.node.op].weight_axis(case.node)
    if axis is None or index != 1:
        return tensor.shape
    return (tensor.shape[axis], *(n for i, n in enumerate(tensor.shape) if i != axis))


def _values(case: Case) -> tuple[list[NDArray[Any]], NDArray[np.int8]]:
    activations = iter(case.inputs)
    inputs = []
    for name in case.node.inputs:
        data = case.graph[name].data
        inputs.append(next(activations)[:1] if data is None else data)
    return inputs, REGISTRY[case.node.op].int8(case.graph, case.node, inputs)


@functools.cache
def _objects() -> tuple[Path, ...]:
    directory = Path(_keep().name)
    sources = sorted([*FIRMWARE.glob("src/train/*.c"), *FIRMWARE.glob("src/pack/*.c")])
    for source in sources:
        _gcc([*FLAGS, "-ffp-contract=off", "-c", str(source), "-o", str(directory / f"{source.stem}.o")])
    return tuple(directory / f"{source.stem}.o" for source in sources)


@functools.cache
def _keep() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


def _function(number: int, case: Case, calls: Sequence[Call]) -> str:
    """``case_N(values, gradients)``: by index of the input, and last of the output."""
    names = [*case.node.inputs, case.node.output]
    arrays: list[str] = []
    lines: list[str] = []
    for at, call in enumerate(calls):
        stem = f"n{number}_{at}"
        fields = ", ".join(f".{key} = {_field(f'{stem}_{key}', value, arrays)}" for key, value in call.fields.items())
        lines.append(f"static const {call.struct} p{at} = {{{fields}}};")
        arguments = [f"&p{at}"]
        for index, arg in enumerate(call.args):
            if isinstance(arg, Address):
                data = case.graph[arg.tensor].data
                address = f"v[{names.index(arg.tensor)}]"
                arguments.append(address if data is None else _array(f"{stem}_{index}", data, arrays))
            elif isinstance(arg, Rows):
                weights = _array(f"{stem}_{index}", arg.values, arrays)
                lines.append(f"tlc_rows_t rows{at} = tlc_rows_raw({weights}, {arg.values.shape[1]});")
                arguments.append(f"&rows{at}")
            elif isinstance(arg, Scratch):
                arrays.append(f"static float {stem}_{index}[{arg.bytes // 4}];")
                arguments.append(f"{stem}_{index}")
            else:
                assert isinstance(arg, Grad | Accumulator), arg
                arguments.append(f"g[{names.index(arg.tensor)}]")
        lines.append(f"{call.function}({', '.join(arguments)});")
    head = f"void case_{number}(int8_t *const *v, float *const *g)"
    return "\n".join([*arrays, f"{head};", f"{head} {{", "(void)v;", "(void)g;", *lines, "}"])


def _field(name: str, value: Any, arrays: list[str]) -> str:
    if isinstance(value, Table):
        return _array(name, value.values, arrays)
    return f"{float(np.float32(value))!r}f" if isinstance(value, float) else str(int(value))


def _array(name: str, values: NDArray[Any], arrays: list[str]) -> str:
    is_float = values.dtype == np.float32
    words = ", ".join(f"{float(word)!r}f" if is_float else str(word) for word in values.ravel().tolist())
    c_type = "float" if is_float else C_TYPES[values.dtype.name]
    arrays.append(f"static const {c_type} {name}[{values.size}] = {{{words}}};")
    return name


def _run(function: Any, case: Case, wanted: frozenset[int], dy: NDArray[np.float32], start: Arrays) -> Arrays:
    inputs, output = _values(case)
    values = [Guarded(array.size) for array in (*inputs, output)]
    for buffer, array in zip(values, (*inputs, output), strict=True):
        if array.dtype == np.int8:
            buffer.values[:] = array.ravel()
    gradients = {i: Guarded(4 * int(np.prod(_shape(case, i)))) for i in wanted}
    for i, buffer in gradients.items():
        constant = case.graph[case.node.inputs[i]].data is not None
        if i in start or constant:
            buffer.values.view(np.float32)[:] = start[i].ravel() if i in start else 0
    top = Guarded(4 * dy.size)
    top.values.view(np.float32)[:] = dy.ravel()
    pointers = [gradients[i].address if i in wanted else 0 for i in range(len(inputs))] + [top.address]
    function(
        (ctypes.c_void_p * len(values))(*(buffer.address for buffer in values)),
        (ctypes.c_void_p * len(pointers))(*pointers),
    )
    assert all(buffer.is_intact() for buffer in (*values, *gradients.values(), top)), "wrote before a buffer"
    return {i: buffer.values.view(np.float32).reshape(_shape(case, i)).copy() for i, buffer in gradients.items()}
