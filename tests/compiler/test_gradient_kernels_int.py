# SPDX-License-Identifier: Apache-2.0
"""Each gradient kernel in integers: C equals NumPy bit for bit, and both are near the float gradient."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from ckernel import FIRMWARE, FLAGS, _gcc
from elementwise_cases import CASES
from gradkernel import reference as reference_float
from gradkernel import shapes
from gradkernel_int import Gradients, reference, run_gradients, static_plan
from opcases import SWEEPS
from test_gradient_kernels import everything, sweep

from tlc.ops import REGISTRY
from tlc.ops.training_int import ONE, Fixed, Site, odd, take_gradient


def some(rng: np.random.Generator, shape: tuple[int, ...]) -> Fixed:
    """A gradient of any scale, with zeros as a ReLU leaves them; now and then nothing else."""
    values = (rng.standard_normal(shape) * (rng.random(shape) < 0.7)).astype(np.float32)
    kind = rng.integers(12)
    if kind == 0:
        return take_gradient(values * 0)
    if kind == 1:  # the ends of the range
        return Fixed(rng.choice([-32768, 32767], shape).astype(np.int64), ONE - 20, True)
    return take_gradient(values * np.float32(2.0) ** int(rng.integers(-40, 20)))


@pytest.mark.parametrize("add", [False, True], ids=["set", "add"])
@pytest.mark.parametrize("op", [*CASES, *SWEEPS, "wide"])
def test_c_equals_numpy(op: str, add: bool) -> None:
    rng = np.random.default_rng([add, 1, *op.encode()])
    chosen = sweep(op, 60)
    wanted = [everything(case) for case in chosen]
    dys: list[Fixed] = []
    starts: list[Gradients] = []
    for case, indices in zip(chosen, wanted, strict=True):
        dys.append(some(rng, case.graph[case.node.output].shape))
        starts.append(
            {
                i: some(rng, size)
                for i, size in shapes(case, indices).items()
                if add or (case.graph[case.node.inputs[i]].data is not None and rng.random() < 0.5)
            }
        )
    ours = run_gradients(chosen, wanted, dys, starts)
    for case, indices, dy, start, found in zip(chosen, wanted, dys, starts, ours, strict=True):
        for index, expected in reference(case, indices, dy, start).items():
            np.testing.assert_array_equal(
                found[index].values, expected.values, err_msg=f"{case.node.attrs}, input {index}"
            )
            assert found[index].scale == expected.scale, (case.node.attrs, index)
            assert abs(expected.values).max(initial=0) <= 32768


@pytest.mark.parametrize("op", [*CASES, *SWEEPS, "wide"])
def test_c_equals_numpy_with_static_scales(op: str) -> None:
    """Whether values have room, or are saturated."""
    rng = np.random.default_rng([3, *op.encode()])
    chosen = sweep(op, 40)
    wanted = [everything(case) for case in chosen]
    dys = [some(rng, case.graph[case.node.output].shape) for case in chosen]
    plans = [static_plan(*row, rng) for row in zip(chosen, wanted, dys, strict=True)]
    ours = run_gradients(chosen, wanted, dys, [{} for _ in chosen], plans)
    for case, indices, dy, plan, found in zip(chosen, wanted, dys, plans, ours, strict=True):
        sites = {key: Site(*shifts) for key, shifts in plan.shifts.items()}
        for index, expected in reference(case, indices, dy, {}, sites).items():
            where = f"{case.node.attrs}, input {index}"
            np.testing.assert_array_equal(found[index].values, expected.values, err_msg=where)
            assert found[index].scale == expected.scale, where


@pytest.mark.parametrize("op", [*CASES, *SWEEPS, "wide"])
def test_near_the_float_gradient(op: str) -> None:
    """Of the same integers: what differs is 15 bits for 24."""
    rng = np.random.default_rng([2, *op.encode()])
    for case in sweep(op, 40):
        indices = everything(case)
        shape = case.graph[case.node.output].shape
        dy = take_gradient(rng.standard_normal(shape).astype(np.float32))
        floats = reference_float(case, indices, dy.reals.astype(np.float32), {})
        ours = reference(case, indices, dy, {})
        layer = REGISTRY[case.node.op].weight_axis(case.node) is not None
        for index, expected in floats.items():
            quant = case.graph[case.node.inputs[0]].quant
            assert quant is not None
            unit = quant.s if layer and index == 1 else 1.0  # a weight's gradient leaves it to the optimizer
            most = np.abs(expected).max(initial=0)
            np.testing.assert_allclose(ours[index].reals * unit, expected, atol=most * 2e-3 + 1e-6, rtol=2e-3)


def test_rounding_to_odd_in_several_goes_is_rounding_once() -> None:
    x = np.concatenate([np.arange(-4096, 4096), np.random.default_rng(0).integers(-(1 << 31), 1 << 31, 4096)])
    for first in range(9):
        for second in range(9):
            np.testing.assert_array_equal(odd(odd(x, first), second), odd(x, first + second))
    rest = odd(x, 4) * 16 - x
    assert abs(rest).max() < 16
    assert abs(rest[:8192].mean()) < 0.01  # no bias


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    path = tmp_path_factory.mktemp("take") / "take.so"
    _gcc([*FLAGS, "-shared", str(Path(FIRMWARE) / "src/train/take_grad.c"), "-o", str(path)])
    return ctypes.CDLL(str(path))


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_the_gradient_at_the_cut(library: ctypes.CDLL, count: int) -> None:
    """From floats, and from int8 with a scale in the gradient's own last bytes: both as NumPy has it."""
    rng = np.random.default_rng(count)
    for number in range(40):
        scale = np.float32(rng.uniform(0.5, 2.0) * 2.0 ** rng.integers(-60, 30) * rng.choice([-1, 1]))
        q = rng.integers(-128, 128, count, np.int8) * np.int8(number > 0)
        reals = (scale * q.astype(np.float32)).astype(np.float32)
        expected = take_gradient(reals)
        from_floats, from_bytes = (np.zeros(2 + count + 2, np.int16) for _ in range(2))
        pointer = ctypes.c_void_p(from_floats.ctypes.data)
        library.tlc_take_grad_f32(ctypes.c_void_p(reals.ctypes.data), ctypes.c_uint32(count), pointer)
        end = from_bytes.view(np.int8)[4 + count : 4 + 2 * count]
        end[:] = q
        bits = int(scale.view(np.uint32))
        library.tlc_take_grad_s8(
            ctypes.c_void_p(end.ctypes.data),
            ctypes.c_uint32(count),
            ctypes.c_uint32(bits),
            ctypes.c_void_p(from_bytes.ctypes.data),
        )
        for found in (from_floats, from_bytes):
            np.testing.assert_array_equal(found[2 : 2 + count], expected.values)
            assert found[:2].view(np.uint32)[0] == expected.scale
        assert number == 0 or np.abs(expected.reals - reals).max() <= np.abs(reals).max() * 2.0**-14
