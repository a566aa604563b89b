# SPDX-License-Identifier: Apache-2.0
"""The ``.tflite`` reader: graphs from files that are right, one clear line for files that are not."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tflite_files import Network, all_operators, file_of, tensor

from tlc.errors import ModelError, TlcError, UsageError
from tlc.frontends.tflite import read_tflite
from tlc.frontends.tflite_schema import FusedActivation, Padding, Reader, TensorType
from tlc.frontends.tflite_writer import write_tflite
from tlc.graph import Graph, Quant
from tlc.ops.base import Activation

F32, U8, I16, I32, I64 = (TensorType[name] for name in ("FLOAT32", "UINT8", "INT16", "INT32", "INT64"))


def indices(name: str, values: Any, kind: TensorType = I32) -> dict[str, Any]:
    """A constant of axes or sizes."""
    data = np.asarray(values, np.int64 if kind == I64 else np.int32)
    return tensor(name, data.shape, None, type=kind, data=data)


def reshape_file(x: tuple[int, ...], sizes: Any, y: tuple[int, ...], **fields: Any) -> bytes:
    """One RESHAPE with its sizes as a constant."""
    return file_of(
        [tensor("x", x, **fields), indices("s", sizes), tensor("y", y)], [("RESHAPE", [0, 1], [2])], [0], [2]
    )


def kinds(graph: Graph) -> list[str]:
    """The operators of a graph."""
    return [node.op for node in graph.nodes]


def reason(data: bytes) -> str:
    """Why the only operator of a file is opaque."""
    (node,) = read_tflite(data).nodes
    assert node.op == "opaque"
    return f"{node.attrs.op_type}: {node.attrs.reason}"


# ---- files that are right --------------------------------------------------------------------------------------------


def test_written_graph_is_read_back() -> None:
    graph = all_operators()
    again = read_tflite(write_tflite(graph))
    # Padding that TFLite's layers cannot say, the clamp that it does in two steps.
    expected: list[str] = []
    for node in graph.nodes:
        if node.op == "clamp" and node.attrs.activation is Activation.RELU6:
            expected.append("quantize")
        padded = node.name in ("conv2d", "conv2d_1", "max_pool2d")
        expected += ["pad", node.op] if padded and kinds(again)[len(expected)] == "pad" else [node.op]
    assert kinds(again) == expected
    assert again.inputs == graph.inputs and again.outputs == graph.outputs
    for name, ours in graph.tensors.items():
        theirs = again[name]
        assert (theirs.shape, theirs.dtype) == (ours.shape, ours.dtype)
        assert ours.quant is not None and ours.quant.same(theirs.quant)
        if ours.data is not None:
            np.testing.assert_array_equal(ours.data, theirs.data)
        else:
            assert theirs.origin is not None and theirs.origin.name == name
            assert theirs.origin.perm == tuple(range(len(ours.shape)))


def test_name_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "digits.tflite"
    path.write_bytes(reshape_file((1, 4), (1, 2, 2), (1, 2, 2)))
    assert read_tflite(path).name == "digits"


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_same_padding(kernel: int, stride: int, dilation: int) -> None:
    """SAME gives ceil(n / stride) outputs, the odd value of padding after the last one."""
    net = Network(0)
    size = 11
    out = -(-size // stride)
    total = max((out - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    pads = (total // 2, total // 2, total - total // 2, total - total // 2)
    x = net.input("x", 1, size, size, 2)
    y = net.layer("conv2d", x, 3, kernel, kernel, 2, strides=(stride,) * 2, dilations=(dilation,) * 2, pads=pads)
    graph = read_tflite(write_tflite(net.done(y)))
    (node,) = graph.nodes
    assert node.attrs.pads == pads and graph[y].shape == (1, out, out, 3)


@pytest.mark.parametrize(("sizes", "kind"), [((1, 8), I32), ((-1, 8), I32), ((1, -1), I64)])
def test_reshape_from_a_constant(sizes: tuple[int, ...], kind: TensorType) -> None:
    data = file_of(
        [tensor("x", (1, 2, 4)), indices("s", sizes, kind), tensor("y", (1, 8))], [("RESHAPE", [0, 1], [2])], [0], [2]
    )
    graph = read_tflite(data)
    assert kinds(graph) == ["reshape"] and graph["y"].shape == (1, 8)


def test_reshape_from_an_option_or_from_the_output() -> None:
    tensors = [tensor("x", (1, 2, 4)), tensor("y", (1, 8))]
    option = ("RESHAPE", [0], [1], "ReshapeOptions", {"new_shape": [-1, 8]})
    assert read_tflite(file_of(tensors, [option], [0], [1])).nodes[0].attrs.shape == (1, 8)
    computed = [
        tensor("x", (1, 2, 4)),
        tensor("s", (2,), None, type=I32),
        tensor("y", (1, 8)),
    ]
    graph = read_tflite(file_of(computed, [("SHAPE", [0], [1]), ("RESHAPE", [0, 1], [2])], [0], [2]))
    assert kinds(graph) == ["reshape"]  # what computes the sizes is gone


def test_squeeze_and_expand_dims() -> None:
    tensors = [tensor("x", (1, 1, 6, 1)), tensor("y", (1, 6, 1)), indices("axis", [-1]), tensor("z", (1, 6, 1, 1))]
    squeeze = ("SQUEEZE", [0], [1], "SqueezeOptions", {"squeeze_dims": [1]})
    graph = read_tflite(file_of(tensors, [squeeze, ("EXPAND_DIMS", [1, 2], [3])], [0], [3]))
    assert [node.attrs.shape for node in graph.nodes] == [(1, 6, 1), (1, 6, 1, 1)]


def test_mean_axes_are_positive_and_sorted() -> None:
    data = file_of(
        [tensor("x", (1, 4, 5, 3)), indices("a", [-2, 1]), tensor("y", (1, 3))],
        [("MEAN", [0, 1], [2], "ReducerOptions", {})],
        [0],
        [2],
    )
    assert read_tflite(data).nodes[0].attrs.axes == (1, 2)


@pytest.mark.parametrize("kind", ["RELU", "RELU6", "RELU_N1_TO_1"])
def test_stand_alone_activation(kind: str) -> None:
    graph = read_tflite(file_of([tensor("x", (1, 4)), tensor("y", (1, 4))], [(kind, [0], [1])], [0], [1]))
    assert graph.nodes[0].op == "clamp" and graph.nodes[0].attrs.activation is Activation[kind]


def test_fully_connected_flattens_its_input() -> None:
    weights = tensor("w", (3, 8), data=np.ones((3, 8), np.int8))
    data = file_of(
        [tensor("x", (1, 2, 4)), weights, tensor("y", (1, 3))],
        [("FULLY_CONNECTED", [0, 1, -1], [2], "FullyConnectedOptions", {})],
        [0],
        [2],
    )
    graph = read_tflite(data)
    assert kinds(graph) == ["reshape", "dense"] and graph["y"].shape == (1, 3)
    assert len(graph.nodes[1].inputs) == 2


def test_names_are_made_unique_and_never_empty() -> None:
    tensors = [tensor("t", (1, 4)), tensor("t", (1, 4)), tensor("", (1, 4))]
    graph = read_tflite(file_of(tensors, [("RELU", [0], [1]), ("RELU", [1], [2])], [0], [2]))
    assert list(graph.tensors) == ["t", "t_1", "tensor_2"]
    origin = graph["t_1"].origin
    assert origin is not None and origin.name == "t"


def test_float_edges_give_way_to_int8() -> None:
    tensors = [
        tensor("in", (1, 4), None, type=F32),
        tensor("in_q", (1, 4), 0.1, 5),
        tensor("out_q", (1, 4), 0.1, -128),
        tensor("out", (1, 4), None, type=F32),
    ]
    operators = [("QUANTIZE", [0], [1]), ("RELU", [1], [2]), ("DEQUANTIZE", [2], [3])]
    graph = read_tflite(file_of(tensors, operators, [0], [3]))
    assert kinds(graph) == ["clamp"] and graph.inputs == ["in"] and graph.outputs == ["out"]
    assert graph["in"].dtype == "int8" and Quant.per_tensor(0.1, 5).same(graph["in"].quant)
    assert graph["out"].dtype == "int8" and graph["out"].origin is not None and graph["out"].origin.name == "out"


@pytest.mark.parametrize(("zero_point", "scale", "absorbed"), [(133, 0.1, True), (132, 0.1, False), (133, 0.2, False)])
def test_uint8_edges_give_way_where_only_the_offset_differs(zero_point: int, scale: float, absorbed: bool) -> None:
    tensors = [tensor("in", (1, 4), scale, zero_point, type=U8), tensor("q", (1, 4), 0.1, 5), tensor("y", (1, 4))]
    data = file_of(tensors, [("QUANTIZE", [0], [1]), ("RELU", [1], [2])], [0], [2])
    if absorbed:
        assert read_tflite(data).inputs == ["in"]
    else:
        with pytest.raises(ModelError, match="'in': activations must be INT8, INT32 or FLOAT32, but it is UINT8"):
            read_tflite(data)


def test_quantize_between_layers_stays() -> None:
    tensors = [tensor("x", (1, 4), 0.1), tensor("y", (1, 4), 0.2)]
    assert kinds(read_tflite(file_of(tensors, [("QUANTIZE", [0], [1])], [0], [1]))) == ["quantize"]


def test_weights_of_half_precision_are_folded() -> None:
    half = np.array([[0.5, -2.0], [1.0, 0.25]], np.float16)
    tensors = [
        tensor("x", (1, 2), None, type=F32),
        tensor("h", (2, 2), None, type=TensorType.FLOAT16, data=half),
        tensor("w", (2, 2), None, type=F32),
        tensor("y", (1, 2), None, type=F32),
    ]
    fully: tuple[Any, ...] = ("FULLY_CONNECTED", [0, 2], [3], "FullyConnectedOptions", {})
    graph = read_tflite(file_of(tensors, [("DEQUANTIZE", [1], [2]), fully], [0], [3]))
    assert kinds(graph) == ["dense"]
    np.testing.assert_array_equal(graph.data("w"), half.astype(np.float32))


def test_batch_becomes_one() -> None:
    fixed = read_tflite(reshape_file((8, 2, 4), (8, 8), (8, 8)))
    dynamic = read_tflite(reshape_file((1, 2, 4), (-1, 8), (1, 8), shape_signature=[-1, 2, 4]))
    assert fixed["x"].shape == dynamic["x"].shape == (1, 2, 4)
    assert fixed["y"].shape == dynamic["y"].shape == (1, 8)


def test_open_dimension_asks_for_a_shape() -> None:
    data = reshape_file((1, 1, 4), (1, -1), (1, 4), shape_signature=[-1, -1, 4])
    with pytest.raises(ModelError, match=r"input 'x': .*dimension 1 of \[1, N, 4\] is open.*--shape x=1x16x4"):
        read_tflite(data)
    graph = read_tflite(data, {"x": (1, 3, 4)})
    assert graph["x"].shape == (1, 3, 4) and graph["y"].shape == (1, 12)
    origin = graph["y"].origin
    assert origin is not None and origin.shape == (1, 12)
    with pytest.raises(UsageError, match=r"no input 'xx'.*did you mean x"):
        read_tflite(data, {"xx": (1, 3, 4)})
    with pytest.raises(UsageError, match="3 positive dimensions"):
        read_tflite(data, {"x": (1, 3)})


# ---- operators that are not ours -------------------------------------------------------------------------------------


def test_unknown_operators_are_opaque() -> None:
    tensors = [tensor("x", (1, 4)), tensor("y", (1, 4))]
    assert reason(file_of(tensors, [("HARD_SWISH", [0], [1])], [0], [1])) == "HARD_SWISH: tlc has no such operator"
    assert reason(file_of(tensors, [("TFLite_Detection", [0], [1])], [0], [1])).startswith("TFLite_Detection: ")
    assert reason(file_of(tensors, [(201, [0], [1])], [0], [1])).startswith("BuiltinOperator 201: ")


CONV = {"stride_w": 1, "stride_h": 1, "padding": Padding.VALID}


def conv_file(weights: dict[str, Any], bias: dict[str, Any] | None = None, **options: Any) -> bytes:
    """One CONV_2D on (1, 4, 4, 2)."""
    tensors = [tensor("x", (1, 4, 4, 2)), weights, tensor("y", (1, 4, 4, 3)), *([bias] if bias else [])]
    node = ("CONV_2D", [0, 1, *([3] if bias else [])], [2], "Conv2DOptions", CONV | options)
    return file_of(tensors, [node], [0], [2])


def weights(shape: tuple[int, ...] = (3, 1, 1, 2), zero_point: int = 0, **fields: Any) -> dict[str, Any]:
    """int8 weights."""
    return tensor("w", shape, 0.01, zero_point, **({"data": np.ones(shape, np.int8)} | fields))


def test_layers_that_the_device_has_no_kernel_for_are_opaque() -> None:
    wide = np.ones(3, np.int64)
    float_weights = np.ones((3, 1, 1, 2), np.float32)
    assert "fused activation is TANH" in reason(conv_file(weights(), fused_activation_function=FusedActivation.TANH))
    assert "not symmetric" in reason(conv_file(weights(zero_point=3)))
    assert "bias is INT64" in reason(conv_file(weights(), tensor("b", (3,), data=wide, type=I64)))
    assert "weights are FLOAT32" in reason(conv_file(weights(data=float_weights, type=F32)))
    assert "INT4" in reason(conv_file(weights(type=TensorType.INT4)))
    per_input = weights(quantization={"scale": [0.1, 0.2], "zero_point": [0, 0], "quantized_dimension": 3})
    assert "axis 3, not of axis 0" in reason(conv_file(per_input))


def test_operators_that_touch_the_batch_axis_are_opaque() -> None:
    def one(kind: str, y: tuple[int, ...], values: Any, *options: Any, x: tuple[int, ...] = (1, 2, 4)) -> str:
        tensors = [tensor("x", x), indices("i", values), tensor("y", y)]
        return reason(file_of(tensors, [(kind, [0, 1], [2], *options)], [0], [2]))

    assert "batch axis" in one("RESHAPE", (2, 4), (2, 4))
    assert "batch axis" in one("TRANSPOSE", (2, 1, 4), (1, 0, 2))
    assert "batch axis" in one("TRANSPOSE", (1, 1, 4), (1, 0, 2), x=(1, 1, 4))
    assert "batch axis" in one("MEAN", (2, 4), [0], "ReducerOptions", {})
    assert "batch axis" in one("PAD", (3, 2, 4), [[1, 1], [0, 0], [0, 0]])


def test_pool_that_changes_the_scale_is_opaque() -> None:
    pool = {"stride_w": 1, "stride_h": 1, "padding": Padding.VALID, "filter_width": 1, "filter_height": 1}
    tensors = [tensor("x", (1, 4, 4, 2), 0.1), tensor("y", (1, 4, 4, 2), 0.2)]
    assert "different scales" in reason(file_of(tensors, [("MAX_POOL_2D", [0], [1], "Pool2DOptions", pool)], [0], [1]))


# ---- files that are wrong --------------------------------------------------------------------------------------------


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.tflite: .*No such file"):
        read_tflite(tmp_path / "none.tflite")


@pytest.mark.parametrize("data", [b"", b"TFL3", b"\x08\0\0\0ONNX" + bytes(40), bytes(100)])
def test_not_a_tflite_file(data: bytes) -> None:
    with pytest.raises(ModelError, match="'TFL3' at byte 4"):
        read_tflite(data)


def test_every_truncation_is_refused() -> None:
    data = write_tflite(all_operators())
    step = max(1, len(data) // 400)
    for size in range(0, len(data) - 64, step):
        with pytest.raises(ModelError):
            read_tflite(data[:size])


RELU = [("RELU", [0], [1])]
PAIR = [tensor("x", (1, 4)), tensor("y", (1, 4))]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (file_of(PAIR, RELU, [0], [1], version=2), "schema version 3, but this one has 2"),
        (file_of(PAIR, RELU, [0], [1], subgraphs=[]), "must have a subgraph"),
        (file_of(PAIR, RELU, [], [1]), "must have inputs and outputs"),
        (file_of(PAIR, RELU, [0, 0], [1]), "inputs must be different"),
        (file_of(PAIR, RELU, [0], [7]), "a list of outputs has tensor 7, but there are 2"),
        (file_of(PAIR, [("RELU", [-2], [1])], [0], [1]), "a list of inputs has tensor -2"),
        (file_of(PAIR, [("RELU", [], [1])], [0], [1]), "RELU must have input 0"),
        (file_of(PAIR, [("RELU", [0], [])], [0], [1]), "RELU must have 1 output"),
        (file_of(PAIR, RELU, [0], [1], operator_codes=[]), "an operator has code 0, but there are 0"),
        (file_of([PAIR[0] | {"buffer": 9}, PAIR[1]], RELU, [0], [1]), "'x' has buffer 9"),
        (file_of(PAIR, RELU * 2, [0], [1]), "'y': a tensor must be written once"),
        (file_of([*PAIR, PAIR[0]], [("ADD", [0, 2], [1])], [0], [1]), "'x': a tensor must be written before"),
        (file_of([*PAIR, tensor("c", (1,), data=[1])], RELU, [0], [2]), "'c': an output must be computed"),
        (file_of([tensor("x", (1, 4), None), PAIR[1]], RELU, [0], [1]), "'x': an INT8 tensor must have a scale"),
        (file_of([tensor("x", (1, 4), 0.0), PAIR[1]], RELU, [0], [1]), "scales must be finite and positive.* 0.0"),
        (file_of([tensor("x", (1, 4), -1.0), PAIR[1]], RELU, [0], [1]), "scales must be finite and positive.* -1.0"),
        (file_of([tensor("x", (1, 4), float("nan")), PAIR[1]], RELU, [0], [1]), "scales must be finite and positive"),
        (file_of([tensor("x", (1, 4), 0.1, 128), PAIR[1]], RELU, [0], [1]), r"zero point must be in \[-128, 127\]"),
        (file_of([PAIR[0], tensor("y", (1, 5))], RELU, [0], [1]), r"must be \[1, 4\], but the file has \[1, 5\]"),
        (file_of([tensor("x", (1, 0)), PAIR[1]], RELU, [0], [1]), "'x': dimensions must be positive"),
        (file_of([tensor("x", (1, -3)), PAIR[1]], RELU, [0], [1]), "'x': a dimension must be 0 or more"),
        (file_of([tensor("x", (1,) * 9), PAIR[1]], RELU, [0], [1]), "at most 8 dimensions"),
        (file_of([tensor("x", (1, 1 << 30, 4)), PAIR[1]], RELU, [0], [1]), "at most 2147483647 values"),
        (file_of([tensor("x", ()), PAIR[1]], RELU, [0], [1]), "must have a batch axis"),
        (file_of([tensor("x", (1, 4), type=I16), PAIR[1]], RELU, [0], [1]), "'x': activations must be INT8.* INT16"),
        (conv_file(weights(data=np.ones(5, np.int8))), "'w': a constant of shape .* does not have 5 bytes"),
        (conv_file(weights((3, 1, 1, 4))), "must fit an input of 2 channels"),
        (conv_file(weights((3, 2))), "4 dimensions"),
        (conv_file(weights((3, 9, 9, 2))), "a window of 9 .* must fit its input"),
        (conv_file(weights(), stride_w=0), "stride_h and stride_w of CONV_2D must be positive"),
        (conv_file(weights(), dilation_h_factor=-1), "must be positive"),
        (conv_file(weights(), padding=7), "padding of CONV_2D must be 0 or 1"),
        (conv_file(weights(), tensor("b", (4,), data=np.ones(4, np.int32), type=I32)), "a bias for 3 channels"),
        (
            conv_file(weights(quantization={"scale": [0.1, 0.2], "zero_point": [0]})),
            "2 scales along dimension 0 must fit",
        ),
        (reshape_file((1, 4), (1, -1, -1), (1, 4)), "at most one -1"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_one_line(data: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        read_tflite(data)
    assert "\n" not in str(caught.value)


def test_weights_must_be_finite() -> None:
    bad = np.array([[1.0, np.nan]], np.float32)
    tensors = [
        tensor("x", (1, 2), None, type=F32),
        tensor("w", (1, 2), None, type=F32, data=bad),
        tensor("y", (1, 1), None, type=F32),
    ]
    data = file_of(tensors, [("FULLY_CONNECTED", [0, 1], [2], "FullyConnectedOptions", {})], [0], [2])
    with pytest.raises(ModelError, match="tensor 'w': weights must be finite"):
        read_tflite(data)


def test_activation_must_have_one_scale() -> None:
    channels = {"scale": [0.1] * 4, "zero_point": [0] * 4, "quantized_dimension": 1}
    offsets = channels | {"zero_point": [0, 1, 2, 3]}
    for quantization in (channels, offsets):
        tensors = [tensor("x", (1, 4), quantization=quantization), tensor("y", (1, 4))]
        with pytest.raises(ModelError, match="tensor 'x': an activation has one scale"):
            read_tflite(file_of(tensors, RELU, [0], [1]))


def test_a_file_that_repeats_itself_is_refused() -> None:
    """20,000 operators that are one table, which reads 20,000 tensors: 160 kB of file, 400 million steps."""
    count = 20_000
    data = bytearray(file_of(PAIR, RELU, [0], [1]))
    data.extend(bytes(-len(data) % 4))
    model = Reader(bytes(data), "test").root("Model")
    main = model.children("subgraphs")[0]
    field = main.at + model.reader.scalar("H", main.vtable + 4 + 2 * 3)  # operators
    start = len(data)
    table = start + 4 + 4 * count + 12  # after the vector of offsets, and the table's own index
    struct.pack_into("<I", data, field, start - field)
    data.extend(struct.pack("<I", count))
    for place in range(start + 4, start + 4 + 4 * count, 4):
        data.extend(struct.pack("<I", table - place))
    data.extend(struct.pack("<HHHHHxx", 10, 12, 0, 4, 8))  # opcode_index absent, inputs at 4, outputs at 8
    data.extend(struct.pack("<iII", 12, 8, 4))
    data.extend(struct.pack("<I", count) + bytes(4 * count))
    with pytest.raises(ModelError, match="the same bytes over and over"):
        read_tflite(bytes(data))


SMALL = write_tflite(all_operators())


@settings(max_examples=200, deadline=2000, derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.integers(0, len(SMALL) - 4),
            st.one_of(
                st.integers(0, 2**32 - 1),
                st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1, len(SMALL), 0x7FC00000, 0xFF]),
            ),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_damaged_files_never_crash(changes: list[tuple[int, int]]) -> None:
    data = bytearray(SMALL)
    for at, value in changes:
        struct.pack_into("<I", data, at, value)
    try:
        graph = read_tflite(bytes(data))
    except TlcError:
        return
    for node in graph.nodes:
        assert all(name in graph.tensors for name in (*node.inputs, *node.outputs))
