# SPDX-License-Identifier: Apache-2.0
"""The ``.tflite`` writer without an interpreter: what is in the file."""

from __future__ import annotations

import numpy as np
import pytest
from tflite_files import Network, all_operators

from tlc.errors import ModelError, UnsupportedOperator
from tlc.frontends.tflite import read_tflite
from tlc.frontends.tflite_schema import BuiltinOperator, Padding, Reader, Table
from tlc.frontends.tflite_writer import write_tflite
from tlc.graph import Graph, Node, Tensor
from tlc.ops import REGISTRY


def main_of(data: bytes) -> tuple[Table, Table]:
    """The model and its only subgraph."""
    model = Reader(data, "test").root("Model")
    return model, model.children("subgraphs")[0]


def operators(data: bytes) -> list[tuple[str, int]]:
    """Kind and version of each operator."""
    model, main = main_of(data)
    codes = model.children("operator_codes")
    used = [codes[op.number("opcode_index")] for op in main.children("operators")]
    return [(BuiltinOperator(code.number("builtin_code")).name, code.number("version")) for code in used]


def test_same_graph_same_bytes() -> None:
    assert write_tflite(all_operators()) == write_tflite(all_operators())
    assert write_tflite(all_operators(1)) != write_tflite(all_operators())


def test_reading_and_writing_is_stable() -> None:
    first = read_tflite(write_tflite(all_operators()))
    second = read_tflite(write_tflite(first))
    assert write_tflite(first) == write_tflite(second)


def test_constants_are_aligned_and_kept() -> None:
    graph = all_operators()
    data = write_tflite(graph)
    model, main = main_of(data)
    buffers = model.children("buffers")
    assert buffers[0].numbers("data") is None
    for buffer in buffers[1:]:
        raw = buffer.numbers("data")
        assert raw is not None
        offset = raw.__array_interface__["data"][0] - np.frombuffer(data, np.uint8).__array_interface__["data"][0]
        assert offset % 16 == 0
    weights = next(t for t in main.children("tensors") if t.string("name") == "conv2d/w")
    raw = buffers[weights.number("buffer")].numbers("data")
    assert raw is not None and raw.view(np.int8)[0] == -128
    np.testing.assert_array_equal(raw.view(np.int8).reshape(8, 3, 3, 4), graph.data("conv2d/w"))


def test_bias_has_the_product_of_scales() -> None:
    graph = all_operators()
    _, main = main_of(write_tflite(graph))
    bias = next(t for t in main.children("tensors") if t.string("name") == "conv2d/b").child("quantization")
    x, w = graph["image"].quant, graph["conv2d/w"].quant
    assert bias is not None and x is not None and w is not None
    np.testing.assert_array_equal(bias.numbers("scale"), np.float32(x.s) * w.scale)
    points = bias.numbers("zero_point")
    assert points is not None and not points.any() and points.size == w.scale.size


def test_a_bias_that_two_layers_share_has_a_scale_for_each() -> None:
    net = Network(0)
    x = net.input("x", 1, 8)
    y = net.layer("dense", x, 4, 8)
    net.graph.nodes[-1].inputs[2:] = [net.graph.constant("b", np.arange(4, dtype=np.int32)).name]
    z = net.layer("dense", y, 4, 4, scale=0.01)
    net.graph.nodes[-1].inputs[2:] = ["b"]
    _, main = main_of(write_tflite(net.done(z)))
    scales = [t.child("quantization") for t in main.children("tensors") if t.string("name").startswith("b")]
    assert len(scales) == 2
    first, second = (s.numbers("scale") for s in scales if s is not None)
    assert first is not None and second is not None and not np.array_equal(first, second)


def test_versions() -> None:
    """int8 forms exist from these versions on; an interpreter refuses a version that it does not know."""
    known = dict(operators(write_tflite(all_operators())))
    assert known["DEPTHWISE_CONV_2D"] == 3 and known["ADD"] == known["SOFTMAX"] == known["QUANTIZE"] == 2
    assert ("CONV_2D", 3) in operators(write_tflite(all_operators()))
    assert ("CONV_2D", 6) in operators(write_tflite(all_operators()))  # grouped
    assert ("FULLY_CONNECTED", 5) in operators(write_tflite(all_operators()))  # keeps a rank of 3
    assert ("FULLY_CONNECTED", 6) in operators(write_tflite(all_operators()))  # has no bias


@pytest.mark.parametrize(
    ("size", "pads", "expected"),
    [
        (7, (1, 1, 1, 1), ["CONV_2D"]),  # SAME
        (8, (0, 0, 1, 1), ["CONV_2D"]),  # SAME
        (8, (1, 1, 1, 1), ["PAD", "CONV_2D"]),
        (8, (0, 0, 0, 0), ["CONV_2D"]),  # VALID
        (9, (1, 1, 2, 2), ["CONV_2D"]),  # the last row and column of padding are never read
    ],
)
def test_padding_is_implicit_where_it_can_be(size: int, pads: tuple[int, ...], expected: list[str]) -> None:
    net = Network(1)
    y = net.layer("conv2d", net.input("x", 1, size, size, 2), 4, 3, 3, 2, strides=(2, 2), pads=pads)
    data = write_tflite(net.done(y))
    assert [kind for kind, _ in operators(data)] == expected
    options = main_of(data)[1].children("operators")[-1].child("builtin_options", "Conv2DOptions")
    assert options is not None
    implicit = Padding.VALID if len(expected) > 1 or not any(pads) else Padding.SAME
    assert options.number("padding") == implicit


def test_average_pool_with_other_padding_is_refused() -> None:
    net = Network(1)
    y = net.node("average_pool2d", [net.input("x", 1, 8, 8, 2)], None, kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    with pytest.raises(UnsupportedOperator, match=r"average_pool2d 'average_pool2d'.*SAME.*\(1, 1, 1, 1\)"):
        write_tflite(net.done(y))


def test_opaque_operator_is_refused() -> None:
    net = Network(1)
    x = net.input("x", 1, 8)
    net.graph.add(Tensor("y", (1, 8), "int8", net.graph["x"].quant))
    net.graph.nodes.append(Node("erf", "opaque", [x], ["y"], REGISTRY["opaque"].Attrs("Erf", "unknown")))
    with pytest.raises(UnsupportedOperator, match="'Erf' has no TFLite form"):
        write_tflite(net.done("y"))


def test_pool_must_keep_the_scale() -> None:
    net = Network(1)
    y = net.node("max_pool2d", [net.input("x", 1, 8, 8, 2)], 0.7, kernel=(2, 2), strides=(2, 2))
    with pytest.raises(UnsupportedOperator, match="one scale and zero point"):
        write_tflite(net.done(y))


def test_int8_without_scale_is_refused() -> None:
    graph = Graph("g", inputs=["x"], outputs=["x"])
    graph.add(Tensor("x", (1, 4), "int8"))
    with pytest.raises(ModelError, match="tensor 'x': an int8 tensor must have a scale"):
        write_tflite(graph)
