# SPDX-License-Identifier: Apache-2.0
"""What read_onnx makes of models: values, layouts, what is opaque, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx_models import Builder, operators, run_graph, run_onnx, samples
from onnx_zoo import NETWORKS

from tlc.errors import ModelError, TlcError, UsageError
from tlc.frontends.onnx import read_onnx
from tlc.graph import Graph
from tlc.passes.base import check_graph
from tlc.passes.canonicalize import canonicalize
from tlc.passes.split import cut_named, legal_cuts


def same_as_onnxruntime(model: bytes, *shapes: tuple[int, ...], tolerance: float = 1e-5) -> Graph:
    """Reads a model and compares the graph, as read and canonical, with the file."""
    graph = read_onnx(model)
    assert check_graph(graph) is None
    assert "opaque" not in operators(graph), [n.attrs for n in graph.nodes if n.op == "opaque"]
    canonical = canonicalize(graph)
    inputs = [samples(shape, seed=index) for index, shape in enumerate(shapes)]
    expected = run_onnx(model, *inputs)
    for ours in (run_graph(graph, *inputs), run_graph(canonical, *inputs)):
        for value, wanted in zip(ours, expected, strict=True):
            assert value.shape == wanted.shape
            np.testing.assert_allclose(
                value, wanted, rtol=tolerance, atol=tolerance * max(1.0, float(np.abs(wanted).max()))
            )
    return canonical


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str) -> None:
    network = NETWORKS[name]()
    same_as_onnxruntime(network.model, network.shape)


CONVOLUTIONS = [
    {"kernel": (3, 3), "out": 4, "group": 1, "pads": [1, 0, 2, 3], "strides": [2, 1]},
    {"kernel": (2, 5), "out": 6, "group": 2, "dilations": [3, 1]},
    {"kernel": (3, 3), "out": 4, "group": 4, "auto_pad": "SAME_UPPER", "strides": [2, 2]},
    {"kernel": (4, 2), "out": 8, "group": 4, "auto_pad": "SAME_LOWER", "strides": [3, 1]},
    {"kernel": (2, 2), "out": 3, "group": 1, "auto_pad": "VALID"},
    {"kernel": (3,), "out": 4, "group": 1, "pads": [2, 0], "dilations": [2]},
    {"kernel": (4,), "out": 12, "group": 4, "strides": [2], "auto_pad": "SAME_UPPER"},
    {"kernel": (3,), "out": 6, "group": 2},
]


@pytest.mark.parametrize("case", CONVOLUTIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_convolutions(case: dict[str, object], bias: bool) -> None:
    attributes = dict(case)
    kernel = attributes.pop("kernel")
    assert isinstance(kernel, tuple)
    shape = (1, 4, 9, 8)[: 2 + len(kernel)]
    b = Builder(shape)
    b.conv("x", attributes.pop("out"), 4, *kernel, bias=bias, **attributes)  # type: ignore[arg-type]
    graph = same_as_onnxruntime(b.model("t0"), shape)
    assert any(op in operators(graph) for op in ("conv2d", "depthwise_conv2d"))


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 17, 18, 21, 26])
def test_opsets(opset: int) -> None:
    """What was an attribute in old opsets is an input in newer ones."""
    b = Builder((1, 3, 8, 6), opset=opset)

    def axes(op: str, x: str, values: list[int], since: int = 13, **attributes: int) -> str:
        if opset >= since:
            return b.node(op, [x, b.constant(np.array(values))], **attributes)
        return b.node(op, [x], axes=values, **attributes)

    if opset >= 11:
        t = b.node("Pad", ["x", b.constant(np.array([0, 0, 1, 1, 0, 0, 1, 0])), b.constant(np.float32(0.5))])
        t = b.node("Clip", [t, b.constant(np.float32(0)), b.constant(np.float32(6))])
    else:
        t = b.node("Pad", ["x"], pads=[0, 0, 1, 1, 0, 0, 1, 0], value=0.5)
        t = b.node("Clip", [t], min=0.0, max=6.0)
    t = b.batch_norm(b.conv(t, 4, 3, 3, 3), 4)
    t = b.node("Dropout", [t])
    t = axes("ReduceMean", t, [2], since=18, keepdims=1)
    t = axes("Squeeze", t, [2])
    t = b.node("Softmax", [t])  # over the last axis, and before 13 over all axes but the batch
    t = axes("Unsqueeze", t, [3])
    b.node("Flatten", [b.node("Identity", [t])], "y")
    same_as_onnxruntime(b.model("y"), (1, 3, 8, 6))


def test_symbolic_batch_and_several_inputs() -> None:
    b = Builder(("N", 4))
    b.input("x2", (None, 4))
    t = b.node("Sub", [b.node("Mul", ["x", "x2"]), "x2"])
    b.node("Gemm", [t, b.random(4, 3), b.random(1, 3)], "y", alpha=0.5, beta=2.0)
    graph = same_as_onnxruntime(b.model("y"), (1, 4), (1, 4))
    assert graph.inputs == ["x", "x2"]
    assert graph["x"].shape == (1, 4)


def test_outputs_keep_their_names_and_order() -> None:
    b = Builder((1, 3, 6, 6))
    t = b.node("Relu", [b.conv("x", 4, 3, 3, 3)], "features")
    b.node("GlobalAveragePool", [t], "mean")
    b.node("Identity", ["features"], "copy")
    graph = same_as_onnxruntime(b.model("mean", "features", "copy"), (1, 3, 6, 6))
    origins = [graph[name].origin for name in graph.outputs]
    assert [origin.name for origin in origins if origin] == ["mean", "features", "copy"]


@pytest.mark.parametrize("name", NETWORKS)
def test_origins_say_which_tensor_of_the_file_each_one_is(name: str) -> None:
    """Every tensor that has an origin equals ONNX Runtime's, after the conversion that the origin prescribes."""
    from tlc.reference_float import run_float

    network = NETWORKS[name]()
    graph = canonicalize(read_onnx(network.model))
    x = samples(network.shape)
    origin = graph[graph.inputs[0]].origin
    assert origin is not None
    names = [n.output for n in graph.nodes if graph[n.output].origin]
    values = run_float(graph, {graph.inputs[0]: origin.from_file(x, graph[graph.inputs[0]].shape)}, names)
    proto = onnx.load_model_from_string(network.model)
    wanted = [graph[n].origin.name for n in names]  # type: ignore[union-attr]
    for extra in sorted(set(wanted) - {o.name for o in proto.graph.output} - {"x"}):
        proto.graph.output.append(helper.make_tensor_value_info(extra, onnx.TensorProto.FLOAT, None))
    everything = dict(zip([o.name for o in proto.graph.output], run_onnx(proto.SerializeToString(), x), strict=True))
    everything["x"] = x
    assert names
    for ours, theirs in zip(names, wanted, strict=True):
        tensor_origin = graph[ours].origin
        assert tensor_origin is not None
        value = tensor_origin.to_file(values[ours])
        np.testing.assert_allclose(value, everything[theirs], rtol=1e-4, atol=1e-4, err_msg=theirs)


# ---- what stays opaque ----------------------------------------------------------------------------------------------


def opaque_reason(b: Builder, output: str, shapes: dict[str, tuple[int, ...]] | None = None) -> str:
    graph = canonicalize(read_onnx(b.model(output), shapes))
    (reason,) = {n.attrs.reason for n in graph.nodes if n.op == "opaque"}
    return str(reason)


def test_unknown_operators_are_opaque_and_the_graph_is_whole() -> None:
    b = Builder((1, 3, 6, 6))
    t = b.node("Relu", [b.conv("x", 4, 3, 3, 3)], "features")
    t = b.node("HardSwish", [t])
    b.node("Gemm", [b.node("Flatten", [t]), b.random(64, 3)], "y")
    graph = canonicalize(read_onnx(b.model("y")))
    opaque = next(n for n in graph.nodes if n.op == "opaque")
    assert opaque.attrs.op_type == "HardSwish"
    assert graph[opaque.output].shape == (1, 4, 4, 4)
    assert cut_named(graph, "features").file_name == "features"
    with pytest.raises(TlcError, match=r"HardSwish.*--cut features"):
        cut_named(graph, "none")


def test_operators_of_other_domains_have_unknown_shapes_and_so_has_what_follows() -> None:
    b = Builder((1, 4))
    t = b.node("Gemm", ["x", b.random(4, 4)], "features")
    t = b.node("Strange", [t], domain="my.own")
    b.node("Relu", [t], "y")
    graph = read_onnx(b.model("y"))
    assert operators(graph) == ["dense", "opaque", "opaque"]
    assert graph[graph.outputs[0]].shape == (0,)
    assert [cut.file_name for cut in legal_cuts(graph)] == ["features"]


def test_what_an_inner_graph_reads_crosses_the_cut() -> None:
    b = Builder((1, 4))
    b.node("Relu", [b.node("Gemm", ["x", b.random(4, 4)], "first")], "second")
    info = helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, (1, 4))
    branch = helper.make_graph([helper.make_node("Add", ["first", "second"], ["r"])], "branch", [], [info])
    flag = b.constant(np.array(True))
    b.node("If", [flag], "y", then_branch=branch, else_branch=branch)
    graph = read_onnx(b.model("y"))
    # Constant folding may take the branch; either way "first" and "second" both cross.
    assert "second" not in [cut.file_name for cut in legal_cuts(graph)]


@pytest.mark.parametrize(
    ("op", "attributes", "reason"),
    [
        ("MaxPool", {"kernel_shape": [2, 2], "dilations": [2, 2]}, "dilated"),
        ("Softmax", {"axis": 0}, "batch axis"),
        ("Transpose", {"perm": [1, 0, 2, 3]}, "batch"),
        ("Pad", {}, "int64"),
        ("LeakyRelu", {}, "not supported"),
    ],
)
def test_reasons(op: str, attributes: dict[str, object], reason: str) -> None:
    b = Builder((1, 3, 6, 6))
    inputs = ["x"]
    if op == "Pad":
        b.input("pads", (8,), onnx.TensorProto.INT64)
        b.inputs[-1] = helper.make_tensor_value_info("pads", onnx.TensorProto.INT64, (1, 8))
        pads = b.node("Squeeze", ["pads", b.constant(np.array([0]))])
        inputs.append(pads)
    b.node(op, inputs, "y", **attributes)
    graph = read_onnx(b.model("y"))
    assert any(reason in n.attrs.reason for n in graph.nodes if n.op == "opaque")


def test_windows_that_onnx_and_onnx_runtime_count_differently() -> None:
    b = Builder((1, 2, 11, 11))
    b.node("AveragePool", ["x"], "y", kernel_shape=[3, 3], strides=[4, 4], pads=[1, 1, 1, 1], ceil_mode=1)
    assert "ceil_mode gives 4 windows" in opaque_reason(b, "y")


def test_clip_limits_that_no_activation_has() -> None:
    b = Builder((1, 4))
    b.node("Clip", ["x", b.constant(np.float32(0)), b.constant(np.float32(4))], "y")
    assert "0..4" in opaque_reason(b, "y")


# ---- what is refused ------------------------------------------------------------------------------------------------


def simple() -> Builder:
    b = Builder((1, 4))
    b.node("Gemm", ["x", b.random(4, 3, name="w")], "y")
    return b


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        read_onnx(tmp_path / "none.onnx")


@pytest.mark.parametrize(
    "content", [b"", b"hello, this is text\n" * 20, b"\x80\x02}q\x00.", b"\x1c\x00\x00\x00TFL3" + bytes(64)]
)
def test_not_onnx(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"m\.onnx: not a") as caught:
        read_onnx(path)
    assert "\n" not in str(caught.value)


def test_damage_is_a_model_error() -> None:
    """Truncated anywhere, or with any byte of its structure changed: a clear error or a graph, nothing else."""
    network = NETWORKS["keras_image"]()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(network.model)
        if rng.random() < 0.3:
            damaged = damaged[: rng.integers(len(damaged))]
        else:
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        try:
            canonicalize(read_onnx(bytes(damaged)))
        except ModelError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 30


@pytest.mark.parametrize("opset", [6, 27])
def test_opsets_out_of_range(opset: int) -> None:
    b = simple()
    b.opset = opset
    with pytest.raises(ModelError, match=f"opset must be 7 to 26, but it is {opset}"):
        read_onnx(b.model("y"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(value: float) -> None:
    b = Builder((1, 4))
    weights = np.ones((4, 3), np.float32)
    weights[1, 2] = value
    b.node("Gemm", ["x", b.constant(weights, "w")], "y")
    with pytest.raises(ModelError, match=r"'w'.*finite"):
        read_onnx(b.model("y"))


def test_weights_of_the_host_that_are_nan() -> None:
    b = Builder((1, 4))
    b.node("PRelu", ["x", b.constant(np.full(4, np.nan, np.float32), "slope")], "y")
    with pytest.raises(ModelError, match=r"'slope'.*NaN"):
        read_onnx(b.model("y"))


def test_a_symbolic_dimension() -> None:
    b = Builder(("N", "time", 4))
    b.node("Relu", ["x"], "y")
    with pytest.raises(ModelError, match=r"input 'x': dimension 1 .*'time'.*--shape x=1x49x4"):
        read_onnx(b.model("y"))
    assert read_onnx(b.model("y"), {"x": (1, 7, 4)})["x"].shape == (1, 7, 4)


def test_a_fixed_batch_can_be_overridden() -> None:
    b = Builder((8, 3, 6, 6))
    b.conv("x", 4, 3, 3, 3)
    with pytest.raises(ModelError, match=r"first dimension is the batch.*8.*--shape x=1x3x6x6"):
        read_onnx(b.model("t0"))
    assert read_onnx(b.model("t0"), {"x": (1, 3, 6, 6)})["x"].shape == (1, 3, 6, 6)


@pytest.mark.parametrize("shapes", [{"z": (1, 4)}, {"x": (1, 4, 4)}, {"x": (1, 0)}])
def test_shapes_that_fit_no_input(shapes: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(UsageError, match="--shape"):
        read_onnx(simple().model("y"), shapes)


def test_a_shape_that_breaks_the_model() -> None:
    with pytest.raises(ModelError, match="do not fit together"):
        read_onnx(simple().model("y"), {"x": (1, 5)})


def test_missing_external_data(tmp_path: Path) -> None:
    model = onnx.load_model_from_string(simple().model("y"))
    weights = numpy_helper.to_array(model.graph.initializer[0])
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    same = read_onnx(path)
    assert np.array_equal(same.data(same.nodes[0].inputs[1]), weights.T)
    (tmp_path / "m.data").unlink()
    with pytest.raises(ModelError, match=r"'w'.*another file"):
        read_onnx(path)
