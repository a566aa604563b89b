# SPDX-License-Identifier: Apache-2.0
"""Elementwise, shape and softmax operators: NumPy form = TFLM's reference kernels, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest
from ckernel import Case
from elementwise_cases import CASES, case, cases, one_node
from numpy.typing import NDArray
from tflite_micro.python.tflite_micro import runtime

from tlc.frontends.tflite_writer import write_tflite
from tlc.graph import Quant
from tlc.ops import REGISTRY
from tlc.ops.base import Activation
from tlc.ops.softmax import OUTPUT

EVERY = np.arange(-128, 128).astype(np.int8)
TFLM_MAX_RANK = {"sub": 4}
"""TFLM's broadcast of a subtraction stops there, without a check."""


def tflm(one: Case) -> NDArray[np.int8]:
    """What the interpreter gives for a file of this one node."""
    interpreter = runtime.Interpreter.from_bytes(write_tflite(one.graph), arena_size=1 << 20)
    outputs = []
    for sample in range(len(one.inputs[0])):
        for index, values in enumerate(one.inputs):
            interpreter.set_input(values[sample : sample + 1], index)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0).copy().reshape(one.graph["y"].shape[1:]))
    return np.stack(outputs)


@pytest.mark.parametrize("op", CASES)
def test_tflm_equals_numpy(op: str) -> None:
    sweep = [one for one in cases(op, 200, seed=3) if len(one.graph["y"].shape) <= TFLM_MAX_RANK.get(op, 5)]
    assert len(sweep) >= 120
    for one in sweep:
        shapes = [one.graph[name].shape for name in one.node.inputs]
        np.testing.assert_array_equal(one.reference(), tflm(one), err_msg=f"{op} {one.node.attrs} {shapes}")


@pytest.mark.parametrize("op", ["add", "sub", "mul"])
def test_tflm_equals_numpy_on_every_pair_of_integers(op: str) -> None:
    """All 65,536 of them, as a broadcast of a column against a row: ties are among them."""
    rng = np.random.default_rng(7)
    for _ in range(6):
        a, b = (Quant.per_tensor(float(2.0 ** rng.integers(-8, 2)), int(rng.integers(-128, 128))) for _ in range(2))
        out = Quant.per_tensor(a.s * b.s * 128 if op == "mul" else a.s + b.s, int(rng.integers(-128, 128)))
        attrs = {"activation": Activation.NONE}
        graph = one_node(op, attrs, [((1, 256, 1), a, None), ((1, 1, 256), b, None)], out)
        one = Case(graph, graph.nodes[0], [EVERY.reshape(1, 256, 1), EVERY.reshape(1, 1, 256)])
        np.testing.assert_array_equal(one.reference(), tflm(one), err_msg=f"{a} {b} {out}")


@pytest.mark.parametrize("scales", [(0.515, 0.2901, 0.805), (0.4103, 0.0544, 0.465), (0.2328, 0.8875, 1.12)])
def test_sub_computes_its_multipliers_in_double(scales: tuple[float, float, float]) -> None:
    """Multipliers in float32 would change some of these outputs."""
    a, b, out = (Quant.per_tensor(scale) for scale in scales)
    graph = one_node("sub", {}, [((1, 256, 1), a, None), ((1, 1, 256), b, None)], out)
    one = Case(graph, graph.nodes[0], [EVERY.reshape(1, 256, 1), EVERY.reshape(1, 1, 256)])
    np.testing.assert_array_equal(one.reference(), tflm(one))


@pytest.mark.parametrize("scales", [(0.9225, 46.08), (5.841, 7.26), (0.4825, 0.64), (1.0105, 2.35)])
def test_relu_divides_scales_in_double(scales: tuple[float, float]) -> None:
    """A division in float32 would change one of these outputs."""
    a, out = (Quant.per_tensor(scale, -128) for scale in scales)
    graph = one_node("clamp", {"activation": Activation.RELU}, [((1, 256), a, None)], out)
    one = Case(graph, graph.nodes[0], [EVERY.reshape(1, 256)])
    np.testing.assert_array_equal(one.reference(), tflm(one))


def test_tflm_equals_numpy_on_every_softmax_of_two() -> None:
    for scale in (1e-3, 0.02, 0.0625, 0.3, 1.0):
        graph = one_node("softmax", {}, [((1, 65536, 2), Quant.per_tensor(scale), None)], OUTPUT)
        pairs = np.stack(np.meshgrid(*[np.arange(-128, 128)] * 2), -1).astype(np.int8).reshape(1, 65536, 2)
        one = Case(graph, graph.nodes[0], [pairs])
        np.testing.assert_array_equal(one.reference(), tflm(one), err_msg=str(scale))


def test_reshape_keeps_the_bytes() -> None:
    q = Quant.per_tensor(0.1, 5)
    one = case(np.random.default_rng(0), one_node("reshape", {"shape": (1, 6, 2)}, [((1, 3, 4), q, None)], q))
    assert REGISTRY["reshape"].alias
    np.testing.assert_array_equal(one.reference(), tflm(one))
