# SPDX-License-Identifier: Apache-2.0
"""Convolutions, dense layers, pools and means: NumPy form = C kernel, float form = ONNX Runtime, shapes, rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from ckernel import Case, run_c
from numpy.typing import NDArray
from opcases import SWEEPS, TIES, tie_case

from tlc.errors import UnsupportedOperator
from tlc.graph import Graph, Node, Quant, Shape, Tensor
from tlc.ops import REGISTRY


@pytest.mark.parametrize("op", SWEEPS)
def test_c_equals_numpy(op: str) -> None:
    cases = SWEEPS[op](20, 150)
    for case, y in zip(cases, run_c(cases), strict=True):
        np.testing.assert_array_equal(y, case.reference(), err_msg=f"{case.node.attrs} {case.graph['x'].shape}")


def test_c_rounds_as_numpy_at_every_boundary() -> None:
    cases = [tie_case(op, multiplier) for op, multiplier in TIES]
    for case, y in zip(cases, run_c(cases), strict=True):
        np.testing.assert_array_equal(y, case.reference(), err_msg=case.node.op)


@pytest.mark.parametrize("op", SWEEPS)
def test_inferred_shape_is_the_computed_one(op: str) -> None:
    for case in SWEEPS[op](22, 30):
        assert case.reference().shape[1:] == case.graph["y"].shape[1:]


def test_batches_larger_than_a_chunk_equal_single_samples() -> None:
    for op in ("conv2d", "depthwise_conv2d"):
        case = SWEEPS[op](23, 1)[0]
        x = np.concatenate([case.inputs[0]] * 3)
        batch = Case(case.graph, case.node, [x]).reference()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tlc.ops.window.CHUNK_VALUES", 1)
            np.testing.assert_array_equal(Case(case.graph, case.node, [x]).reference(), batch)


def onnx_form(node: Node, x: NDArray[np.float32], constants: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The operator by ONNX Runtime, channels last; the activation left out."""
    a: Any = node.attrs
    weights: dict[str, NDArray[np.float32]] = {}
    attributes = {"strides": a.strides, "pads": a.pads}
    if node.op.endswith("conv2d"):
        depthwise = node.op == "depthwise_conv2d"
        weights["w"] = constants[0].transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2))
        weights |= dict(zip("b", constants[1:], strict=False))
        attributes |= {"dilations": a.dilations, "group": x.shape[3] if depthwise else a.groups}
        kind = "Conv"
    else:
        kind = "MaxPool" if node.op == "max_pool2d" else "AveragePool"
        attributes["kernel_shape"] = a.kernel
    info = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("x", "y")]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(kind, ["x", *weights], ["y"], **attributes)],
        "one",
        info[:1],
        info[1:],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in weights.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (y,) = session.run(None, {"x": np.ascontiguousarray(x.transpose(0, 3, 1, 2))})
    clipped: NDArray[np.float32] = np.clip(y.transpose(0, 2, 3, 1), *a.activation.bounds)
    return clipped


@pytest.mark.parametrize("op", ["conv2d", "depthwise_conv2d", "max_pool2d", "average_pool2d"])
def test_float_form_equals_onnx_runtime(op: str) -> None:
    tf = pytest.importorskip("tensorflow")
    rng = np.random.default_rng(24)
    for case in SWEEPS[op](24, 25):
        x = rng.standard_normal((3, *case.graph["x"].shape[1:])).astype(np.float32)
        names = case.node.inputs[1:]
        constants = [rng.standard_normal(case.graph[name].shape).astype(np.float32) for name in names]
        y = REGISTRY[op].tf(case.node, [tf.constant(value) for value in (x, *constants)])
        np.testing.assert_allclose(y, onnx_form(case.node, x, constants), atol=1e-4, err_msg=str(case.node.attrs))


@pytest.mark.parametrize("op", SWEEPS)
def test_float_form_has_a_gradient(op: str) -> None:
    tf = pytest.importorskip("tensorflow")
    rng = np.random.default_rng(25)
    for case in SWEEPS[op](25, 8):
        names = case.node.inputs
        values = [tf.Variable(rng.standard_normal(case.graph[name].shape).astype(np.float32)) for name in names]
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(REGISTRY[op].tf(case.node, values))
        assert all(gradient is not None for gradient in tape.gradient(loss, values))


def broken(op: str, attrs: dict[str, Any], x: Shape, w: Shape | None = None, *, computed: bool = False) -> str:
    """The message for a node that breaks a rule."""
    graph = Graph("g")
    graph.add(Tensor("x", x))
    node = Node("n", op, ["x"], ["y"], REGISTRY[op].Attrs(**attrs))
    if w is not None:
        graph.add(Tensor("w", w, data=None if computed else np.zeros(w, np.int8), quant=Quant.per_tensor(1.0)))
        node.inputs.append("w")
    graph.add(Tensor("y", (1, 1, 1, w[-1] if op == "depthwise_conv2d" and w else w[0] if w else 1)))
    with pytest.raises(UnsupportedOperator) as caught:
        REGISTRY[op].check(graph, node)
    return str(caught.value)


def test_rules_name_what_breaks_them() -> None:
    assert "weight must be a constant, but 'w' is computed" in broken("dense", {}, (1, 4), (2, 4), computed=True)
    assert "there are 2 groups" in broken("conv2d", {"groups": 2}, (1, 4, 4, 4), (3, 1, 1, 2))
    assert "the weight is (3, 1, 1, 2)" in broken("conv2d", {}, (1, 4, 4, 4), (3, 1, 1, 2))
    assert "must not be negative, but it is (0, -1, 0, 0)" in broken(
        "conv2d", {"pads": (0, -1, 0, 0)}, (1, 4, 4, 2), (1, 1, 1, 2)
    )
    assert "there are 65540" in broken("dense", {}, (1, 65540), (1, 65540))
    assert "the weight is (1, 1, 1, 3)" in broken("depthwise_conv2d", {}, (1, 4, 4, 2), (1, 1, 1, 3))
    assert "the kernel is (2, 2)" in broken("max_pool2d", {"kernel": (2, 2), "pads": (2, 0, 0, 0)}, (1, 4, 4, 2))
    assert "its axes are (0,) of 4" in broken("mean", {"axes": (0,)}, (1, 4, 4, 2))
    assert "at most two runs" in broken("mean", {"axes": (1, 3, 5)}, (1, 2, 2, 2, 2, 2))
    assert "there are 16777216" in broken("mean", {"axes": (1, 2)}, (1, 4096, 4096, 1))


def test_multiply_accumulates_are_counted_at_every_output() -> None:
    for case in [*SWEEPS["conv2d"](26, 10), *SWEEPS["depthwise_conv2d"](26, 10)]:
        w, outputs = case.graph.data("w"), case.reference()[0].size
        per_output = w[0].size if case.node.op == "conv2d" else w[0, :, :, 0].size
        assert REGISTRY[case.node.op].macs(case.graph, case.node) == outputs * per_output
