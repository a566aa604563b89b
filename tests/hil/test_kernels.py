# SPDX-License-Identifier: Apache-2.0
"""Every kernel, forward and backward, as compiled for each core, equals the NumPy form bit for bit.

The sweeps of ``tests/compiler`` become one firmware image a board. The host sends the buffers of a call, all of them with
marked bytes between, and gets them back. (Floats are compared as numbers: the sign of a gradient that is zero is nobody's concern.)
"""

from __future__ import annotations

import re
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hil_support import EMULATED, bare_project
from numpy.typing import NDArray

from tlc import boards, toolchain
from tlc.ops import REGISTRY

sys.path.insert(0, str(Path(__file__).parents[1] / "compiler"))

import ckernel
import elementwise_cases
import gradkernel
import opcases
from ckernel import Case

pytestmark = pytest.mark.hil

MAIN = Path(__file__).parent / "cases" / "main.c"
ARENA = 3072
SCRATCH = 1024
FORWARD, BACKWARD = 10, 4
"""Cases of an operator; of those that fit."""
NONE = 0xFFFF
MARK = 0x5A
GAP = 16

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Job:
    """One call: C source that defines ``name``, its buffers in the arena, and what they hold before and after."""

    name: str
    source: str
    operator: str
    values: list[int]
    gradients: list[int]
    before: list[Bytes]
    after: list[dict[int, NDArray[Any]]]
    """For each run, by offset: what the call must leave there; all else must stay as it was, but ``free``."""
    free: list[tuple[int, int]]
    """Offset and size of what the call may change as it likes."""
    what: str


class Arena:
    """Places buffers one after another, with a gap between."""

    def __init__(self) -> None:
        self.end = GAP

    def place(self, count: int) -> int:
        at = self.end
        self.end = -(-(at + count) // 16) * 16 + GAP
        return at


def image(size: int, parts: dict[int, NDArray[np.generic]]) -> Bytes:
    whole = np.full(size, MARK, np.uint8)
    for offset, array in parts.items():
        raw = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        whole[offset : offset + len(raw)] = raw
    return whole


def shared_scratch(source: str) -> str | None:
    """One scratch for all the calls; None where it is too small."""
    pattern = r"static (?:int8_t|float) (\w+)\[(\d+)\](?: __attribute__\(\(aligned\(16\)\)\))?;"
    sizes = [int(m[2]) * (4 if m[0].startswith("static float") else 1) for m in re.finditer(pattern, source)]
    if max(sizes, default=0) > SCRATCH or len(sizes) > 1:
        return None
    kind = "float *" if "static float" in source else "int8_t *"
    return re.sub(pattern, lambda m: f"#define {m[1]} (({kind})(void *)scratch)", source)


def forward_job(number: int, case: Case) -> Job | None:
    """The forward call on each of the case's samples."""
    arena = Arena()
    inputs = [arena.place(values[0].size) for values in case.inputs]
    expected = case.reference()
    output = arena.place(expected[0].size)
    source = shared_scratch(ckernel._function(number, case))
    if source is None or arena.end > ARENA:
        return None
    runs = range(min(2, len(expected)))
    return Job(
        f"case_{number}",
        source,
        case.node.op,
        [*inputs, output],
        [NONE] * (len(inputs) + 1),
        [image(arena.end, {at: x[i] for at, x in zip(inputs, case.inputs, strict=True)}) for i in runs],
        [{output: expected[i]} for i in runs],
        [],
        f"{case.node.op} {case.node.attrs}",
    )


def backward_job(number: int, case: Case, rng: np.random.Generator, *, add: bool) -> Job | None:
    """The backward calls on the case's first sample; the gradient of the output may be overwritten."""
    layer = REGISTRY[case.node.op].weight_axis(case.node) is not None
    names = case.node.inputs
    wanted = frozenset(i for i, name in enumerate(names) if layer or case.graph[name].data is None)
    inputs, output = gradkernel._values(case)
    shape = case.graph[case.node.output].shape
    dy = (rng.standard_normal(shape) * (rng.random(shape) < 0.7)).astype(np.float32)
    sizes = gradkernel.shapes(case, wanted)
    start = {
        i: rng.standard_normal(size).astype(np.float32)
        for i, size in sizes.items()
        if add or case.graph[names[i]].data is not None
    }
    activations = {i for i in wanted if case.graph[names[i]].data is None}
    calls = REGISTRY[case.node.op].backward(case.graph, case.node, wanted, frozenset(activations & start.keys()))
    assert calls is not None
    source = shared_scratch(gradkernel._function(number, case, calls))
    arena, parts = Arena(), {}
    values, gradients = [], []
    for array in (*inputs, output):
        held = array.dtype == np.int8
        values.append(arena.place(array.size) if held else NONE)
        if held:
            parts[values[-1]] = array
    places = {i: arena.place(4 * int(np.prod(size))) for i, size in sizes.items()}
    parts.update({places[i]: array for i, array in start.items()})
    top = arena.place(dy.nbytes)
    parts[top] = dy
    gradients = [places.get(i, NONE) for i in range(len(inputs))] + [top]
    if source is None or arena.end > ARENA:
        return None
    source = source.replace(f"case_{number}", f"grad_{number}")
    expected = gradkernel.reference(case, wanted, dy, start)
    after = {places[i]: array.astype(np.float32) for i, array in expected.items()}
    return Job(
        f"grad_{number}",
        source,
        case.node.op,
        values,
        gradients,
        [image(arena.end, parts)],
        [after],
        [(top, dy.nbytes)],
        f"gradient of {case.node.op} {case.node.attrs}, {'added' if add else 'set'}",
    )


@cache
def jobs() -> list[Job]:
    """The same for all boards."""
    rng = np.random.default_rng(8)
    found: list[Job] = []
    number = 0
    for op in [*elementwise_cases.CASES, *opcases.SWEEPS]:
        elementwise = op in elementwise_cases.CASES
        some = elementwise_cases.cases(op, 60, seed=8) if elementwise else opcases.SWEEPS[op](8, 60)
        forward = backward = 0
        for case in some:
            number += 1
            if forward < FORWARD and (job := forward_job(number, case)):
                found.append(job)
                forward += 1
            if backward < BACKWARD and (job := backward_job(number, case, rng, add=bool(backward % 2))):
                found.append(job)
                backward += 1
        assert forward == FORWARD and backward == BACKWARD, op
    return found


def firmware_files() -> dict[str, str]:
    """``cases.h`` and ``cases.c``."""
    header = f"""/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CASES_H
#define CASES_H
#include <stddef.h>
#include <stdint.h>
#define CASES_ARENA_BYTES {ARENA}
#define CASES_BUFFERS 4
#define CASE_NONE {NONE}u
typedef struct {{
    void (*call)(int8_t *const *values, float *const *gradients);
    uint16_t values[CASES_BUFFERS], gradients[CASES_BUFFERS];
    uint16_t buffers;
}} case_t;
extern const case_t cases[];
#endif
"""
    rows = []
    sources = []
    for job in jobs():
        sources.append(job.source.replace("(int8_t *const *v)", "(int8_t *const *v, float *const *g)"))
        values, gradients = (", ".join(map(str, offsets)) for offsets in (job.values, job.gradients))
        rows.append(f"    {{{job.name}, {{{values}}}, {{{gradients}}}, {len(job.values)}}},")
    code = (
        '#include "cases.h"\n#include "tlc/kernels.h"\n#include "tlc/train.h"\n'
        f"static int8_t scratch[{SCRATCH}] __attribute__((aligned(16)));\n"
        + "\n".join(sources)
        + "\nconst case_t cases[] = {\n"
        + "\n".join(rows)
        + "\n};\n"
    )
    return {"cases.h": header, "cases.c": code}


@pytest.fixture(scope="module", params=EMULATED)
def board(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[socket.socket]:
    """A board that runs all the calls."""
    project = bare_project(request.param, tmp_path_factory.mktemp("kernels"), MAIN, text=firmware_files())
    toolchain.pio_run(project)
    known = boards.load(request.param)
    with toolchain.Emulator(known, toolchain.firmware_elf(project, known), seed=1) as process:
        with socket.create_connection((process.host, process.port), timeout=30) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield connection


def answer(connection: socket.socket, number: int, before: Bytes) -> Bytes:
    connection.sendall(struct.pack("<HH", number, len(before)) + before.tobytes())
    received = b""
    while len(received) < len(before):
        some = connection.recv(len(before) - len(received))
        assert some, f"the board ended at case {number}: {received!r}"
        received += some
    return np.frombuffer(received, np.uint8)


@pytest.mark.parametrize("op", [*elementwise_cases.CASES, *opcases.SWEEPS])
def test_every_core_equals_numpy(board: socket.socket, op: str) -> None:
    compared = 0
    for number, job in enumerate(jobs()):
        if job.operator != op:
            continue
        for before, after in zip(job.before, job.after, strict=True):
            found = answer(board, number, before)
            expected = before.copy()
            for at, array in after.items():
                ours = found[at : at + array.nbytes].view(array.dtype).reshape(array.shape)
                np.testing.assert_array_equal(ours, array, err_msg=job.what)
            for at, count in [*job.free, *((at, array.nbytes) for at, array in after.items())]:
                expected[at : at + count] = found[at : at + count]
            np.testing.assert_array_equal(found, expected, err_msg=f"{job.what}: wrote beside its output")
            compared += 1
    assert compared >= FORWARD + BACKWARD
