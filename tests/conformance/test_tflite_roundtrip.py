# SPDX-License-Identifier: Apache-2.0
"""What is written as ``.tflite`` computes, in TFLite Micro's interpreter, what the NumPy reference computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tflite_files import Network, all_operators

from tlc.frontends.tflite import read_tflite
from tlc.frontends.tflite_writer import write_tflite
from tlc.graph import Graph, Node, Quant, Tensor
from tlc.ops import REGISTRY
from tlc.ops.base import Activation
from tlc.reference import run_int8

runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime", reason="tflite-micro is not installed")


def tflm(model: bytes, *inputs: NDArray[Any]) -> NDArray[Any]:
    """The first output for samples on the leading axis of each input."""
    interpreter = runtime.Interpreter.from_bytes(model)
    outputs = []
    for sample in zip(*inputs, strict=True):
        for index, value in enumerate(sample):
            interpreter.set_input(value[None], index)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0)[0].copy())
    return np.stack(outputs)


def samples(graph: Graph, count: int = 20) -> dict[str, NDArray[np.int8]]:
    """Random inputs; the first two samples are all -128 and all 127."""
    rng = np.random.default_rng(9)
    values = {name: rng.integers(-128, 128, (count, *graph[name].shape[1:])).astype(np.int8) for name in graph.inputs}
    for array in values.values():
        array[0], array[1] = -128, 127
    return values


@pytest.mark.parametrize("seed", range(4))
def test_network_of_all_operators(seed: int) -> None:
    graph = all_operators(seed)
    x = samples(graph)
    expected = run_int8(graph, x)[graph.outputs[0]]
    assert len(np.unique(expected)) > 5
    np.testing.assert_array_equal(tflm(write_tflite(graph), x["image"]), expected)


def test_read_back_and_written_again_computes_the_same() -> None:
    graph = all_operators()
    x = samples(graph)
    first = write_tflite(graph)
    again = read_tflite(first)
    assert not [node.attrs for node in again.nodes if node.op == "opaque"]
    np.testing.assert_array_equal(run_int8(again, {"image": x["image"]})[again.outputs[0]], tflm(first, x["image"]))
    np.testing.assert_array_equal(tflm(write_tflite(again), x["image"]), tflm(first, x["image"]))


@pytest.mark.parametrize("activation", list(Activation))
@pytest.mark.parametrize("same_scale", [True, False])
def test_stand_alone_clamp(activation: Activation, same_scale: bool) -> None:
    net = Network(3)
    x = net.input("x", 1, 256)
    net.graph["x"].quant = Quant.per_tensor(0.06, -20)
    out = net.node("clamp", [x], None if same_scale else 0.045, 9, activation=activation)
    graph = net.done(out)
    values = np.arange(-128, 128, dtype=np.int8)[None]
    np.testing.assert_array_equal(tflm(write_tflite(graph), values), run_int8(graph, {"x": values})[out])


@pytest.mark.parametrize("op", ["conv2d", "depthwise_conv2d", "max_pool2d"])
@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (0, 0, 1, 1), (2, 0, 1, 0), (0, 0, 0, 0), (1, 2, 2, 1)])
@pytest.mark.parametrize("size", [(7, 8), (8, 7)])
def test_explicit_padding(op: str, pads: tuple[int, int, int, int], size: tuple[int, int]) -> None:
    net = Network(5)
    x = net.input("x", 1, *size, 4)
    if op == "max_pool2d":
        out = net.node(op, [x], None, kernel=(3, 3), strides=(2, 2), pads=pads)
    else:
        weight = (4, 3, 3, 4) if op == "conv2d" else (1, 3, 3, 8)
        out = net.layer(op, x, *weight, strides=(2, 2), pads=pads)
    graph = net.done(out)
    values = samples(graph, 8)
    model = write_tflite(graph)
    np.testing.assert_array_equal(tflm(model, values["x"]), run_int8(graph, values)[out])
    again = read_tflite(model)
    np.testing.assert_array_equal(run_int8(again, values)[out], run_int8(graph, values)[out])


def test_two_inputs_of_different_rank() -> None:
    """A file may broadcast (1, 3) over (1, 4, 5, 3); samples do not, so reading inserts a reshape."""
    net = Network(6)
    a, b = net.input("a", 1, 4, 5, 3), net.input("b", 1, 3)
    out = net.node("add", [a, b], 0.09)
    values = samples(net.done(out), 10)
    model = write_tflite(net.graph)
    graph = read_tflite(model)
    assert [node.op for node in graph.nodes] == ["reshape", "add"]
    np.testing.assert_array_equal(run_int8(graph, values)[out], tflm(model, values["a"], values["b"]))


def test_float_graph() -> None:
    rng = np.random.default_rng(0)
    graph = Graph("float", inputs=["x"], outputs=["y"])
    graph.add(Tensor("x", (1, 6, 6, 2)))
    for name, shape in {"w": (3, 3, 3, 2), "gamma": (3,), "beta": (3,), "mean": (3,)}.items():
        graph.constant(name, rng.normal(size=shape).astype(np.float32))
    graph.constant("variance", rng.uniform(0.5, 2, 3).astype(np.float32))
    norm = ["c", "gamma", "beta", "mean", "variance"]
    for name, op, inputs, attrs in (
        ("c", "conv2d", ["x", "w"], {"pads": (1, 1, 0, 0)}),
        ("n", "batch_norm", norm, {"epsilon": 1e-3}),
        ("y", "clamp", ["n"], {"activation": Activation.RELU_N1_TO_1}),
    ):
        node = Node(f"{op}_node", op, inputs, [name], REGISTRY[op].Attrs(**attrs))
        graph.add(Tensor(name, REGISTRY[op].infer(graph, node)))
        graph.nodes.append(node)
    x = rng.normal(size=(3, 6, 6, 2)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (1, 0), (1, 0), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    convolved = np.einsum("nhwcij,oijc->nhwo", windows, graph.data("w"))
    scale = graph.data("gamma") / np.sqrt(graph.data("variance") + 1e-3)
    expected = np.clip((convolved - graph.data("mean")) * scale + graph.data("beta"), -1, 1)
    np.testing.assert_allclose(tflm(write_tflite(graph), x), expected, atol=1e-5)


def test_litert_runs_the_same_file() -> None:
    """TensorFlow's own interpreter with its reference kernels."""
    lite = pytest.importorskip("tensorflow", reason="TensorFlow is not installed").lite
    graph = all_operators()
    x = samples(graph, 4)["image"]
    reference = lite.experimental.OpResolverType.BUILTIN_REF
    with pytest.warns(UserWarning, match="deprecated"):
        interpreter = lite.Interpreter(model_content=write_tflite(graph), experimental_op_resolver_type=reference)
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (source["name"], target["name"]) == ("image", graph.outputs[0])
    expected = run_int8(graph, {"image": x})[graph.outputs[0]]
    for sample, row in zip(x, expected, strict=True):
        interpreter.set_tensor(source["index"], sample[None])
        interpreter.invoke()
        np.testing.assert_array_equal(interpreter.get_tensor(target["index"])[0], row)
