# SPDX-License-Identifier: Apache-2.0
"""The ONNX project's own test cases for single operators: read, canonicalize, write, run, compare."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx_models import run_graph

from tlc.frontends.onnx import read_onnx
from tlc.passes.canonicalize import canonicalize

OPERATORS = {
    "Add", "AveragePool", "BatchNormalization", "Clip", "Conv", "Div", "Dropout", "Flatten", "Gemm", "GlobalAveragePool",
    "GlobalMaxPool", "Identity", "MatMul", "MaxPool", "Mul", "Pad", "ReduceMean", "Relu", "Reshape", "Softmax", "Squeeze",
    "Sub", "Transpose", "Unsqueeze",
}  # fmt: skip
# Their first axis is no batch: what they give for the first sample is not the first row of what they give for all.
MIXES_SAMPLES = {
    "test_flatten_axis0", "test_flatten_negative_axis4", "test_gemm_all_attributes", "test_gemm_default_matrix_bias",
    "test_gemm_transposeA", "test_matmul_1d_1d", "test_matmul_1d_3d", "test_reduce_mean_default_axes_keepdims_example",
    "test_reduce_mean_default_axes_keepdims_random", "test_reshape_negative_extended_dims", "test_unsqueeze_axis_0",
}  # fmt: skip


@cache
def cases() -> dict[str, Any]:
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {case.name: case for case in load_model_tests(kind="node")}
    result = {}
    for name, case in found.items():
        nodes = case.model.graph.node
        inputs = case.data_sets[0][0]
        first_is_float = len(inputs) > 0 and getattr(inputs[0], "dtype", None) == np.float32
        if len(nodes) == 1 and nodes[0].op_type in OPERATORS and first_is_float and name not in MIXES_SAMPLES:
            result[name] = case
    return result


@cache
def outcome(name: str) -> str:
    """``same``, or why the operator is opaque; fails where the values differ."""
    case = cases()[name]
    given, expected = case.data_sets[0]
    arrays = [np.asarray(value) for value in given]
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    model.ir_version = 8
    values = list(model.graph.input)
    del model.graph.input[:]
    # Both sides of arithmetic may be computed; whatever else is read is weights.
    both = model.graph.node[0].op_type in ("Add", "Sub", "Mul") and arrays[0].shape == arrays[1].shape
    computed = 2 if both else 1
    model.graph.input.extend(values[:computed])
    model.graph.initializer.extend(
        numpy_helper.from_array(array, value.name) for array, value in list(zip(arrays, values, strict=True))[computed:]
    )
    shapes = {v.name: (1, *a.shape[1:]) for v, a in list(zip(values, arrays, strict=True))[:computed]}
    graph = canonicalize(read_onnx(model.SerializeToString(), shapes))
    opaque = [node.attrs.reason for node in graph.nodes if node.op == "opaque"]
    if opaque:
        return str(opaque[0])
    (ours,) = run_graph(graph, *(array[:1] for array in arrays[:computed]))
    theirs = expected[0][:1] if expected[0].shape[0] == arrays[0].shape[0] else expected[0]
    assert ours.shape == theirs.shape, name
    np.testing.assert_allclose(ours, theirs, rtol=case.rtol, atol=1e-6, err_msg=name)
    return "same"


@pytest.mark.parametrize("operator", sorted(OPERATORS))
def test_single_operators(operator: str) -> None:
    names = [name for name, case in cases().items() if case.model.graph.node[0].op_type == operator]
    outcomes = {name: outcome(name) for name in names}
    assert "same" in outcomes.values() or operator in ("Reshape",), outcomes


def test_most_cases_are_not_opaque() -> None:
    outcomes = [outcome(name) for name in cases()]
    assert outcomes.count("same") >= 90
