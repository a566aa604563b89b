# SPDX-License-Identifier: Apache-2.0
"""Runs an operator's backward calls in integers on this machine, under UBSan, with scratch against guarded pages too."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from ckernel import FLAGS, Case, Guarded, _gcc
from gradkernel import _array, _field, _objects, _values
from gradkernel import _shape as shape_of

from tlc.learning import Learning
from tlc.ops import REGISTRY
from tlc.ops.base import Accumulator, Address, Call, Grad, Rows, Scratch
from tlc.ops.training_int import Fixed, Site, gradient_bytes
from tlc.passes.backward import Plan
from tlc.passes.static_scales import with_static_scales

Gradients = dict[int, Fixed]
Sites = dict[tuple[str, str, int], Site]


def backward_calls(case: Case, indices: frozenset[int], begin: Gradients) -> list[Call]:
    """Of an operator, that add to activations' gradients which are there already."""
    activations = {i for i in indices if case.graph[case.node.inputs[i]].data is None}
    made = REGISTRY[case.node.op].backward_int(case.graph, case.node, indices, frozenset(activations & begin.keys()))
    assert made is not None
    return made


def static_plan(case: Case, indices: frozenset[int], dy: Fixed, rng: np.random.Generator) -> Plan:
    """The operator's calls with static scales, up to two bits too large or too small for these values."""
    learning = Learning("1", arithmetic="int", scales="static")
    calls = tuple((case.node, call) for call in backward_calls(case, indices, {}))
    sites: Sites = {}
    reference(case, indices, dy, {}, sites)
    found = {key: site.scale - dy.scale + int(rng.integers(-2, 3)) for key, site in sites.items() if site.scale}
    plan = Plan({}, calls, {}, learning=learning, top=case.node.output)
    return with_static_scales(plan, found, margin=0)


def run_gradients(
    cases: Sequence[Case],
    wanted: Sequence[frozenset[int]],
    dy: Sequence[Fixed],
    start: Sequence[Gradients],
    plans: Sequence[Plan] | None = None,
) -> list[Gradients]:
    """The gradients of each case's first sample, added to ``start`` where that has them; else set. ``plans``: their calls."""
    if plans is None:
        calls = [backward_calls(*row) for row in zip(cases, wanted, start, strict=True)]
    else:
        calls = [[call for _, call in plan.calls] for plan in plans]
    numbered = list(enumerate(zip(cases, calls, strict=True)))
    source = '#include "tlc/train_int.h"\n' + "\n".join(_function(n, case, made) for n, (case, made) in numbered)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "cases.c").write_text(source)
        objects = [str(path) for path in _objects()]
        _gcc([*FLAGS, "-shared", str(directory / "cases.c"), *objects, "-o", str(directory / "cases.so")])
        library = ctypes.CDLL(str(directory / "cases.so"))
    rows = zip(cases, calls, wanted, dy, start, strict=True)
    return [_run(library[f"case_{number}"], *row) for number, row in enumerate(rows)]


def reference(case: Case, wanted: frozenset[int], dy: Fixed, start: Gradients, sites: Sites | None = None) -> Gradients:
    """The same in NumPy. ``sites``: shifts of static scales; where there are none, what dynamic ones come to is put there."""
    inputs, output = _values(case)
    sums = {i: Fixed.zeros(shape_of(case, i)) for i in wanted}
    for i, begin in start.items():
        sums[i] = Fixed(begin.values.copy(), begin.scale, True)
    if sites is not None:
        dy = replace(dy, scaled_at=_sites(sites, case, case.node.output))
        for i, total in sums.items():
            total.sites = _sites(sites, case, case.node.inputs[i])
    REGISTRY[case.node.op].gradient_int(case.graph, case.node, inputs, output, dy, sums)
    return sums


def _sites(sites: Sites, case: Case, tensor: str) -> Iterator[Site]:
    for number in count():
        yield sites.setdefault((case.node.name, tensor, number), Site())


def _function(number: int, case: Case, calls: Sequence[Call]) -> str:
    """``case_N(values, gradients, parts, scratch)``: by index of the input, and last of the output."""
    names = [*case.node.inputs, case.node.output]
    arrays: list[str] = []
    lines: list[str] = []
    scratch = 0
    for at, call in enumerate(calls):
        if call.function == "tlc_copy_grad_s16" and not call.fields["add"]:
            x, y = (f"g[{names.index(arg.tensor)}]" for arg in (call.args[1], call.args[0]) if isinstance(arg, Grad))
            size = gradient_bytes(int(call.fields["elements"]))
            lines.append(f"__builtin_memcpy({x}, {y}, {size});")
            continue
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
                arguments.append(f"s[{scratch}]")
                scratch += 1
            else:
                assert isinstance(arg, Grad | Accumulator), arg
                part = isinstance(arg, Grad) and arg.part
                arguments.append(f"{'d' if part else 'g'}[{names.index(arg.tensor)}]")
        lines.append(f"{call.function}({', '.join(arguments)});")
    head = f"void case_{number}(int8_t *const *v, void *const *g, void *const *d, void *const *s)"
    unused = [f"(void){name};" for name in "vgds"]
    return "\n".join([*arrays, f"{head};", f"{head} {{", *unused, *lines, "}"])


def _write(buffer: Guarded, gradient: Fixed) -> None:
    buffer.values[:4].view(np.uint32)[0] = gradient.scale
    size = gradient.values.size
    buffer.values[4 : 4 + 2 * size].view(np.int16)[:] = gradient.values.ravel()


def _run(
    function: Any, case: Case, calls: Sequence[Call], wanted: frozenset[int], dy: Fixed, start: Gradients
) -> Gradients:
    inputs, output = _values(case)
    values = [Guarded(array.size) for array in (*inputs, output)]
    for buffer, array in zip(values, (*inputs, output), strict=True):
        if array.dtype == np.int8:
            buffer.values[:] = array.ravel()
    shapes = {i: shape_of(case, i) for i in wanted}
    gradients = {i: Guarded(gradient_bytes(int(np.prod(shape)))) for i, shape in shapes.items()}
    parts = {i: Guarded(gradient_bytes(int(np.prod(shape)))) for i, shape in shapes.items()}
    for i, buffer in gradients.items():
        if i in start or case.graph[case.node.inputs[i]].data is not None:
            _write(buffer, start.get(i, Fixed.zeros(shapes[i])))
    top = Guarded(gradient_bytes(dy.values.size))
    _write(top, dy)
    sizes = [arg.bytes for call in calls for arg in call.args if isinstance(arg, Scratch)]
    scratch = [Guarded((size + 7) // 8 * 8) for size in sizes]
    count = len(inputs)
    pointers = [gradients[i].address if i in wanted else 0 for i in range(count)] + [top.address]
    function(
        (ctypes.c_void_p * len(values))(*(buffer.address for buffer in values)),
        (ctypes.c_void_p * len(pointers))(*pointers),
        (ctypes.c_void_p * count)(*(parts[i].address if i in wanted else 0 for i in range(count))),
        (ctypes.c_void_p * max(1, len(scratch)))(*(buffer.address for buffer in scratch)),
    )
    used = (*values, *gradients.values(), *parts.values(), top, *scratch)
    assert all(buffer.is_intact() for buffer in used), "wrote before a buffer"
    found = {}
    for i, buffer in gradients.items():
        size = int(np.prod(shapes[i]))
        words = buffer.values[4 : 4 + 2 * size].view(np.int16).astype(np.int64).reshape(shapes[i])
        found[i] = Fixed(words, int(buffer.values[:4].view(np.uint32)[0]), True)
    return found
