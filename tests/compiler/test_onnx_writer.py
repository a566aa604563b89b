# SPDX-License-Identifier: Apache-2.0
"""write_onnx, run_float and the host segment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_models import Builder, run_graph, run_onnx, samples
from onnx_zoo import NETWORKS

from tlc.build import emit
from tlc.errors import DataError, ModelError, UnsupportedOperator
from tlc.frontends.onnx import read_onnx
from tlc.frontends.onnx_extract import BATCH_KEY, CUT_KEY, extract_host
from tlc.frontends.onnx_writer import write_onnx
from tlc.graph import Graph, Quant, Tensor
from tlc.passes.canonicalize import canonicalize
from tlc.passes.split import legal_cuts, split
from tlc.reference_float import run_float, session


def host_values(model: bytes, cut: str, x: np.ndarray) -> tuple[np.ndarray, str]:
    """Device in our graph, host from the file; and how many samples the host takes."""
    graph = canonicalize(read_onnx(model))
    found = next(c for c in legal_cuts(graph) if c.file_name == cut)
    assert found.tensor is not None
    device, _ = split(graph, found)
    tensor = device[device.inputs[0]]
    assert tensor.origin is not None
    smashed = run_float(device, {tensor.name: tensor.origin.from_file(x, tensor.shape)})[found.tensor]
    host = extract_host(model, graph, found.tensor)
    origin = device[found.tensor].origin
    assert origin is not None
    metadata = {p.key: p.value for p in host.metadata_props}
    assert metadata[CUT_KEY] == origin.name == host.graph.input[0].name
    runner = session(host.SerializeToString())
    sent = origin.to_file(smashed)
    parts = [sent] if metadata[BATCH_KEY] == "any" else [sent[i : i + 1] for i in range(len(sent))]
    return np.concatenate([runner.run(None, {origin.name: part})[0] for part in parts]), metadata[BATCH_KEY]


@pytest.mark.parametrize("name", NETWORKS)
def test_device_and_host_are_the_model_at_every_cut(name: str) -> None:
    network = NETWORKS[name]()
    x = samples(network.shape)
    (expected,) = run_onnx(network.model, x)
    cuts = [c.file_name for c in legal_cuts(canonicalize(read_onnx(network.model))) if c.tensor]
    for cut in cuts:
        value, batch = host_values(network.model, cut, x)
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4 * float(np.abs(expected).max()), err_msg=cut)
        assert batch == "any", cut


def test_the_host_runs_operators_that_we_do_not_know() -> None:
    b = Builder(("N", 3, 6, 6))
    t = b.node("Relu", [b.conv("x", 4, 3, 3, 3)], "features")
    t = b.node("HardSwish", [t])
    t = b.node("Reshape", [t, b.constant(np.array([1, -1]))])
    b.node("Gemm", [t, b.random(64, 3)], "y")
    x = samples((1, 3, 6, 6))
    value, batch = host_values(b.model("y"), "features", x)
    assert batch == "any"
    np.testing.assert_allclose(value, run_onnx(b.model("y"), x)[0], rtol=1e-5, atol=1e-5)


def test_a_host_bound_to_one_sample_says_so() -> None:
    b = Builder((1, 4))
    t = b.node("Gemm", ["x", b.random(4, 4)], "features")
    t = b.node("Reshape", [t, b.constant(np.array([2, 2]))])
    t = b.node("CumSum", [t, b.constant(np.array(0))])  # over what would be the batch
    b.node("Reshape", [t, b.constant(np.array([1, 4]))], "y")
    x = samples((1, 4))
    value, batch = host_values(b.model("y"), "features", x)
    assert batch == "1"
    np.testing.assert_allclose(value, run_onnx(b.model("y"), x)[0], rtol=1e-5, atol=1e-5)


def test_the_host_keeps_what_inner_graphs_read() -> None:
    b = Builder((1, 4))
    t = b.node("Gemm", ["x", b.random(4, 4)], "features")
    offset = b.random(4, name="offset")
    info = helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, None)
    branches = [
        helper.make_graph([helper.make_node(op, ["features", offset], ["r"])], op, [], [info]) for op in ("Add", "Mul")
    ]
    large = b.node("Greater", [b.node("ReduceMax", [t], keepdims=0), b.constant(np.float32(-100))])
    b.node("If", [large], "y", then_branch=branches[0], else_branch=branches[1])
    x = samples((1, 4))
    value, _ = host_values(b.model("y"), "features", x)
    np.testing.assert_allclose(value, run_onnx(b.model("y"), x)[0], rtol=1e-5, atol=1e-5)


def test_a_rest_that_needs_more_than_the_cut() -> None:
    b = Builder((1, 4))
    t = b.node("Gemm", ["x", b.random(4, 4)], "features")
    b.node("Add", [t, "x"], "y")
    graph = read_onnx(b.model("y"))
    with pytest.raises(ModelError, match="needs the input 'x' too"):
        extract_host(b.model("y"), graph, "features")


def test_every_tensor_and_any_batch() -> None:
    network = NETWORKS["torch_series"]()
    graph = canonicalize(read_onnx(network.model))
    proto = write_onnx(graph, all_tensors=True)
    assert {o.name for o in proto.graph.output} == {node.output for node in graph.nodes}
    x = samples(graph[graph.inputs[0]].shape, 70)
    names = [*graph.inputs, *(node.output for node in graph.nodes)]
    values = run_float(graph, {graph.inputs[0]: x}, names)
    for name in names:
        assert values[name].shape == (70, *graph[name].shape[1:])
    # Seventy samples are more than one batch: the same as one by one.
    one = run_float(graph, {graph.inputs[0]: x[69:]})
    np.testing.assert_allclose(values[graph.outputs[0]][69:], one[graph.outputs[0]], rtol=1e-5, atol=1e-6)


def test_a_changed_graph_is_run_anew() -> None:
    graph = read_onnx(NETWORKS["torch_image"]().model)
    x = {graph.inputs[0]: samples((1, 3, 8, 8))}
    before = run_float(graph, x)[graph.outputs[0]]
    bias = graph.nodes[-1].inputs[2]
    graph[bias].data = graph.data(bias) + 1
    np.testing.assert_allclose(run_float(graph, x)[graph.outputs[0]], before + 1, rtol=1e-5, atol=1e-5)


def test_inputs_that_do_not_fit() -> None:
    graph = canonicalize(read_onnx(NETWORKS["keras_image"]().model))
    with pytest.raises(DataError, match="no data"):
        run_float(graph, {"z": samples((1, 8, 8, 3))})
    with pytest.raises(DataError, match="samplesx8x8x3, but is 3x3x8x8"):
        run_float(graph, {graph.inputs[0]: samples((1, 3, 8, 8))})


def test_opaque_nodes_cannot_be_written() -> None:
    b = Builder((1, 4))
    b.node("Erf", ["x"], "y")
    with pytest.raises(UnsupportedOperator, match="Erf"):
        write_onnx(read_onnx(b.model("y")))


def test_an_integer_graph_is_written_as_its_reals() -> None:
    graph = Graph("g")
    graph.add(Tensor("x", (1, 4), "int8", Quant.per_tensor(0.5, 3)))
    graph.inputs = ["x"]
    weight = Quant(np.array([0.1, 0.2], np.float32), 0, 0)
    w = graph.constant("w", np.array([[1, -2, 3, 4], [5, 6, -7, 8]], np.int8), weight)
    bias = graph.constant("b", np.array([10, -20], np.int32), Quant(np.array([0.05, 0.1], np.float32), 0, 0))
    y = emit(graph, "dense", ["x", w.name, bias.name], name="y", dtype="int8", quant=Quant.per_tensor(0.3, -1))
    z = emit(graph, "quantize", [y.name], name="z", dtype="int8", quant=Quant.per_tensor(0.7, 1))
    graph.outputs = [z.name]
    x = samples((1, 4))
    real = np.array([[0.1], [0.2]]) * graph.data("w")
    expected = x @ real.T + np.array([0.5, -2.0])
    np.testing.assert_allclose(run_float(graph, {"x": x})["z"], expected, rtol=1e-5, atol=1e-6)


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    network = NETWORKS["squeeze_excite"]()
    path = tmp_path / "m.onnx"
    path.write_bytes(network.model)
    texts = set()
    for _ in range(2):
        graph = canonicalize(read_onnx(path))
        cut = legal_cuts(graph)[0].tensor
        assert cut is not None
        host = extract_host(path, graph, cut).SerializeToString(deterministic=True)
        texts.add((write_onnx(graph).SerializeToString(deterministic=True), host))
    assert len(texts) == 1


def test_run_graph_takes_file_layouts() -> None:
    network = NETWORKS["segmentation"]()
    graph = canonicalize(read_onnx(network.model))
    x = samples(network.shape)
    assert graph[graph.inputs[0]].shape == (1, 6, 6, 3)
    (value,) = run_graph(graph, x)
    assert value.shape == (3, 4, 4, 4)
