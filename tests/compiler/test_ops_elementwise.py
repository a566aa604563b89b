# SPDX-License-Identifier: Apache-2.0
"""Elementwise, shape and softmax operators: NumPy form = C kernel, float form = NumPy, rules, shapes."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ckernel import FIRMWARE, FLAGS, Case, run_c
from elementwise_cases import CASES, case, cases, one_node, tf_form

from tlc.errors import ModelError, UnsupportedOperator
from tlc.graph import Graph, Node, Quant, Shape, Tensor
from tlc.ops import REGISTRY
from tlc.ops.base import Activation
from tlc.ops.batch_norm import as_affine
from tlc.ops.loops import pair_loops
from tlc.ops.softmax import MAX_CLASSES, OUTPUT, exp_on_negative_values, one_over_one_plus_x

Q = Quant.per_tensor(0.05, 3)


def told(case: Case) -> str:
    """What a case is, for a failure's message."""
    graph = case.graph
    shown = [f"{name} {graph[name].shape} {graph[name].quant}" for name in (*case.node.inputs, case.node.output)]
    return f"{case.node.op} {case.node.attrs}: {'; '.join(shown)}"


@pytest.mark.parametrize("op", CASES)
def test_c_equals_numpy(op: str) -> None:
    sweep = cases(op, 120)
    for one, y in zip(sweep, run_c(sweep), strict=True):
        np.testing.assert_array_equal(y, one.reference(), err_msg=told(one))


@pytest.mark.parametrize("op", CASES)
def test_int8_is_the_float_form_rounded(op: str) -> None:
    """Within one and a bit of the output's units, where the real is inside the output's range."""
    changed = 0
    for one in cases(op, 40, seed=1):
        quant = one.graph[one.node.output].quant
        assert quant
        y = one.reference()
        changed += len(np.unique(y)) > 1
        exact = np.clip(tf_form(one).astype(np.float64) / quant.s + quant.zero_point, -128, 127)
        assert y.shape[1:] == one.graph[one.node.output].shape[1:]
        assert np.abs(y - exact).max() <= 1.02, told(one)
    assert changed >= 10  # a sweep whose outputs all saturate tells nothing


@pytest.mark.parametrize("op", [op for op in CASES if REGISTRY[op].in_place])
def test_output_may_lie_on_an_input(op: str) -> None:
    sweep = [one for one in cases(op, 60, seed=2) if same_size_input(one) is not None]
    assert len(sweep) >= 15
    for one, y in zip(sweep, run_c(sweep, in_place=True), strict=True):
        np.testing.assert_array_equal(y, one.reference(), err_msg=told(one))


def same_size_input(one: Case) -> str | None:
    """The first activation as large as the output."""
    graph, size = one.graph, one.graph[one.node.output].elements
    return next((name for name in graph.activations(one.node) if graph[name].elements == size), None)


# ---- loops -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "loops"),
    [
        ((1, 4, 5, 6), (1, 4, 5, 6), [(120, 1, 1)]),
        ((1, 4, 5, 6), (6,), [(20, 6, 0), (6, 1, 1)]),
        ((1, 4, 5, 6), (), [(120, 1, 0)]),
        ((1, 4, 5, 6), (1, 4, 5, 1), [(20, 6, 1), (6, 1, 0)]),
        ((1, 1, 1, 6), (1, 4, 5, 1), [(20, 0, 1), (6, 1, 0)]),
        ((1, 4, 1, 6), (1, 4, 5, 6), [(4, 6, 30), (5, 0, 6), (6, 1, 1)]),
        ((1, 2, 1, 4, 1), (1, 1, 3, 1, 5), [(2, 4, 0), (3, 0, 5), (4, 1, 0), (5, 0, 1)]),
        ((1, 1), (1, 1), [(1, 0, 0)]),
    ],
)
def test_broadcasts_become_the_fewest_loops(a: Shape, b: Shape, loops: list[tuple[int, int, int]]) -> None:
    assert [tuple(loop) for loop in pair_loops(a, b).tolist()] == loops


# ---- softmax ---------------------------------------------------------------------------------------------------------


def test_softmax_of_many_equal_values() -> None:
    """From 512 on each probability rounds to 0, and 4095 values do not overflow the sum."""
    sweep = []
    for classes in (2, 128, 255, 256, 511, 512, 513, 1023, 1024, MAX_CLASSES):
        graph = one_node("softmax", {}, [((1, classes), Q, None)], OUTPUT)
        x = np.full((2, classes), 127, np.int8)
        x[1, 1:] = -128
        sweep.append(Case(graph, graph.nodes[0], [x]))
    for one, y in zip(sweep, run_c(sweep), strict=True):
        classes = one.graph["x0"].shape[-1]
        np.testing.assert_array_equal(y, one.reference())
        assert np.abs(y[0].astype(int) + 128 - 256 / classes).max() <= 0.51
        assert y[1, 0] > 120


def test_fixed_point_exp_and_reciprocal_are_close_to_the_real_ones() -> None:
    x = np.unique(np.concatenate([-np.arange(0, 31 << 26, 9_999_991), [-1, -2, -(1 << 24)]]))
    np.testing.assert_allclose(exp_on_negative_values(x) / 2.0**31, np.exp(x / 2.0**26), atol=3e-7)
    x = np.arange(0, 1 << 31, 9_999_991)
    np.testing.assert_allclose(one_over_one_plus_x(x) / 2.0**31, 1 / (1 + x / 2.0**31), atol=1e-8)


def test_c_fixed_point_equals_numpy(tmp_path: Path) -> None:
    """exp and reciprocal themselves: int8 outputs would hide a difference in the last bits."""
    source = tmp_path / "fixed.c"
    source.write_text(
        '#include "exp.h"\n'
        "void exp_q5(int32_t *x, int n);\nvoid exp_q5(int32_t *x, int n) { for (; n-- > 0; ++x) *x = tlc_exp_q5(*x); }\n"
        "void reciprocal(int32_t *x, int n);\n"
        "void reciprocal(int32_t *x, int n) { for (; n-- > 0; ++x) *x = tlc_reciprocal_q0(*x); }\n"
    )
    kernels = FIRMWARE / "src" / "kernels"
    includes = [f"-I{FIRMWARE / 'include'}", f"-I{kernels}"]
    subprocess.run(["gcc", *FLAGS, *includes, "-shared", str(source), "-o", str(tmp_path / "fixed.so")], check=True)
    library = ctypes.CDLL(str(tmp_path / "fixed.so"))
    rng = np.random.default_rng(0)
    for function, form, low, high in (
        (library.exp_q5, exp_on_negative_values, -(31 << 26), 1),
        (library.reciprocal, one_over_one_plus_x, 0, 1 << 31),
    ):
        x = np.concatenate([rng.integers(low, high, 100_000), [low, high - 1], low + (np.arange(124) << 24)])
        values = x.astype(np.int32)
        function(values.ctypes.data_as(ctypes.c_void_p), len(values))
        np.testing.assert_array_equal(values, form(x))


# ---- shapes, attributes, rules ---------------------------------------------------------------------------------------


def test_reshape_is_an_alias() -> None:
    graph = one_node("reshape", {"shape": (1, 6, 2)}, [((1, 3, 4), Q, None)], Q)
    one = case(np.random.default_rng(0), graph)
    assert REGISTRY["reshape"].alias and REGISTRY["reshape"].call(graph, one.node) is None
    assert graph["y"].shape == (1, 6, 2)
    np.testing.assert_array_equal(one.reference(), one.inputs[0].reshape(-1, 6, 2))
    np.testing.assert_array_equal(tf_form(one), Q.dequantize(one.inputs[0]).reshape(-1, 6, 2))
    with pytest.raises(ModelError, match=r"reshape 'node': .*\(1, 3, 4\) becomes \(1, 5, 2\)"):
        one_node("reshape", {"shape": (1, 5, 2)}, [((1, 3, 4), Q, None)], Q)


def test_pad_reads_the_zero_point_as_zero() -> None:
    graph = one_node("pad", {"pads": ((0, 0), (1, 2))}, [((1, 2), Q, None)], Q)
    one = Case(graph, graph.nodes[0], [np.array([[7, 8]], np.int8)])
    assert one.reference().tolist() == [[3, 7, 8, 3, 3]]


def test_batch_norm_is_an_affine_map() -> None:
    rng = np.random.default_rng(0)
    graph = Graph("bn")
    graph.add(Tensor("x", (1, 4, 3)))
    for name in ("gamma", "beta", "mean", "variance"):
        graph.constant(name, rng.uniform(0.5, 2.0, 3).astype(np.float32))
    node = Node("bn", "batch_norm", list(graph.tensors), ["y"], REGISTRY["batch_norm"].Attrs(epsilon=0.01))
    x = rng.normal(size=(5, 4, 3)).astype(np.float32)
    gamma, beta, mean, variance = (graph.data(name) for name in node.inputs[1:])
    y = np.asarray(REGISTRY["batch_norm"].tf(node, [x, gamma, beta, mean, variance]))
    np.testing.assert_allclose(y, gamma * (x - mean) / np.sqrt(variance + 0.01) + beta, rtol=1e-5, atol=1e-6)
    scale, offset = as_affine(graph, node)
    np.testing.assert_allclose(x * scale + offset, y, rtol=1e-5, atol=1e-6)
    assert REGISTRY["batch_norm"].infer(graph, node) == (1, 4, 3)
    with pytest.raises(UnsupportedOperator, match=r"batch_norm 'bn': .*folded"):
        REGISTRY["batch_norm"].call(graph, node)
    graph["mean"].data = None
    with pytest.raises(UnsupportedOperator, match=r"batch_norm 'bn': .* must be constants, but 'mean' is computed"):
        REGISTRY["batch_norm"].check(graph, node)


def test_opaque_tells_what_is_not_supported() -> None:
    graph = one_node("opaque", {"op_type": "LSTM", "reason": "no kernel for LSTM"}, [((1, 3), Q, None)], Q)
    with pytest.raises(UnsupportedOperator, match=r"^LSTM 'node': .*no kernel for LSTM"):
        REGISTRY["opaque"].check(graph, graph.nodes[0])


@pytest.mark.parametrize(
    ("op", "attrs", "shapes", "out", "message"),
    [
        ("add", {}, [(1, 2, 2, 2, 2, 2)] * 2, Q, "add 'node': Tensors must have at most 5 axes, but 'x0' has 6"),
        ("mul", {}, [(1, 2, 3), (1, 3)], Q, r"as many axes as the output .*, but 'x1' has shape \(1, 3\)"),
        ("sub", {}, [(2, 3), (2, 3)], Q, r"is the batch and must be 1, but 'x0' has shape \(2, 3\)"),
        ("reshape", {"shape": (3, 1)}, [(1, 3)], Q, r"must be 1, but 'y' has shape \(3, 1\)"),
        ("transpose", {"perm": (1, 0)}, [(1, 3)], Q, r"stay the first, but the permutation is \(1, 0\)"),
        ("transpose", {"perm": (0, 1)}, [(1, 3)], Quant.per_tensor(0.1, 3), "same scale .* 0.05, 3 and 0.1, 3"),
        ("pad", {"pads": ((0, 0), (-1, 0))}, [(1, 3)], Q, "must not be negative"),
        ("pad", {"pads": ((1, 0), (0, 0))}, [(1, 3)], Q, "is the batch and must be 1"),
        ("softmax", {}, [(1, 4096)], OUTPUT, "at most 4095 values, but it has 4096"),
        ("softmax", {}, [(1, 3)], Q, "scale 1/256 and zero point -128, but they are 0.05 and 3"),
    ],
)
def test_broken_rules_are_told(op: str, attrs: dict[str, Any], shapes: list[Shape], out: Quant, message: str) -> None:
    graph = one_node(op, attrs, [(shape, Q, None) for shape in shapes], out)
    with pytest.raises(UnsupportedOperator, match=message):
        REGISTRY[op].check(graph, graph.nodes[0])


def test_softmax_prescribes_its_output() -> None:
    assert OUTPUT.same(REGISTRY["softmax"].output_quant([Q]))


def test_clamp_none_requantizes_only() -> None:
    one = one_node("clamp", {"activation": Activation.NONE}, [((1, 256), Q, None)], Q)
    every = np.arange(-128, 128).astype(np.int8).reshape(1, 256)
    np.testing.assert_array_equal(Case(one, one.nodes[0], [every]).reference(), every)
