# SPDX-License-Identifier: Apache-2.0
"""Split, calibrate, quantize, schedule: what each promises; and random networks whose memory plan must not corrupt them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tlc import boards
from tlc.builder import Builder
from tlc.errors import UnsupportedOperator, UsageError
from tlc.frontends.tflite_writer import write_tflite
from tlc.graph import Graph, Origin, Quant
from tlc.ops import REGISTRY
from tlc.ops.base import Activation
from tlc.passes.backward import differentiate, last_layer
from tlc.passes.calibrate import calibrate
from tlc.passes.quantize import quantize, range_to_quant
from tlc.passes.schedule import schedule
from tlc.passes.split import cut_named, legal_cuts, split
from tlc.pipeline import Options, compile_model
from tlc.reference import run_int8
from tlc.reference_float import run_float
from tlc.twin import Twin


def residual() -> Graph:
    """conv, then a block conv, conv, add with a skip connection, then a dense head."""
    net = Builder("residual", (1, 8, 8, 3), seed=1)
    stem = net.conv2d(4, 3, activation=Activation.RELU)
    net.conv2d(4, 3, activation=Activation.RELU)
    branch = net.conv2d(4, 3)
    net.node("add", [branch, stem], REGISTRY["add"].Attrs(activation=Activation.RELU))
    net.flatten()
    net.dense(5)
    graph = net.graph()
    for tensor in graph.tensors.values():
        if not tensor.is_constant:
            tensor.origin = Origin(tensor.name, tensor.shape, tuple(range(len(tensor.shape))))
    return graph


def test_no_cut_inside_a_residual_block() -> None:
    names = [cut.file_name for cut in legal_cuts(residual())]
    assert names == ["conv2d_out", "add_out", "reshape_out", "none"]


def test_a_cut_that_something_else_crosses_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"a cut at 'conv2d_1_out' is not the only tensor.*conv2d_out crosses too"):
        cut_named(residual(), "conv2d_1_out")


def test_a_fused_tensor_goes_by_the_first_of_its_names() -> None:
    graph = residual()
    for name, fused in (("add_out", "sum;relu"), ("conv2d_out", "stem;relu"), ("reshape_out", "stem;flat")):
        graph[name].origin = replace(graph[name].origin, name=fused)
    assert cut_named(graph, "sum").file_name == "sum;relu"
    with pytest.raises(UsageError, match="no tensor 'stem' to cut at"):
        cut_named(graph, "stem")  # which one?


def test_halves_compute_what_the_whole_does() -> None:
    graph = residual()
    x = np.random.default_rng(0).standard_normal((3, 8, 8, 3)).astype(np.float32)
    whole = run_float(graph, {"input": x})["dense_out"]
    for cut in legal_cuts(graph)[:-1]:
        device, host = split(graph, cut)
        assert host is not None and cut.tensor is not None
        between = run_float(device, {"input": x})[cut.tensor]
        np.testing.assert_allclose(run_float(host, {cut.tensor: between})["dense_out"], whole, rtol=1e-5, atol=1e-5)


def test_the_deepest_cut_that_avoids_an_unsupported_operator_is_named() -> None:
    graph = residual()
    graph.nodes[4].op = "opaque"
    graph.nodes[4].attrs = REGISTRY["opaque"].Attrs(op_type="Erf", reason="it is not supported")
    with pytest.raises(UnsupportedOperator, match=r"Erf.*the deepest cut that avoids it is --cut add_out"):
        cut_named(graph, "none")


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-1.0, 1.0), (-0.1, 3.0), (2.0, 5.0), (-7.0, -3.0), (0.0, 0.0)])
def test_zero_is_always_exact(low: float, high: float) -> None:
    quant = range_to_quant(low, high)
    assert -128 <= quant.zero_point <= 127
    assert quant.dequantize(quant.quantize(np.zeros(1)))[0] == 0.0
    for value in (low, high):
        assert abs(float(quant.dequantize(quant.quantize(np.array([value])))[0]) - value) <= quant.s


def test_the_host_quantizer_rounds_ties_away_from_zero() -> None:
    quant = Quant.per_tensor(0.5, 3)
    np.testing.assert_array_equal(quant.quantize(np.array([0.25, -0.25, 0.75, -0.75, 1e9])), [4, 2, 5, 1, 127])


def test_weights_are_symmetric_per_channel_and_biases_in_the_products_unit() -> None:
    graph = residual()
    x = {"input": np.random.default_rng(1).standard_normal((20, 8, 8, 3)).astype(np.float32)}
    integer = quantize(graph, calibrate(graph, x))
    for node in integer.nodes:
        axis = REGISTRY[node.op].weight_axis(node)
        if axis is None:
            continue
        weight, bias, source = (integer[name] for name in (*node.inputs[1:3], node.inputs[0]))
        assert weight.quant and bias.quant and source.quant and weight.data is not None
        assert weight.data.dtype == np.int8 and np.abs(weight.data.astype(int)).max() == 127
        np.testing.assert_array_equal(bias.quant.scale, (source.quant.scale * weight.quant.scale).astype(np.float32))
        np.testing.assert_allclose(
            weight.quant.dequantize(weight.data), graph.data(weight.name), atol=weight.quant.scale.max() / 2
        )


def test_a_dead_channel_does_not_overflow_its_bias() -> None:
    net = Builder("dead", (1, 4), seed=0)
    net.dense(3)
    graph = net.graph()
    graph.data("dense_weight")[1] = 1e-12
    graph["dense_bias"].data = np.array([0.5, 0.25, -0.5], np.float32)
    integer = quantize(graph, {"input": (-1.0, 1.0), "dense_out": (-2.0, 2.0)})
    bias = integer["dense_bias"]
    assert bias.quant and bias.data is not None
    np.testing.assert_allclose(bias.quant.dequantize(bias.data), [0.5, 0.25, -0.5], rtol=1e-4)


def test_calibration_clips_a_rare_extreme() -> None:
    net = Builder("clip", (1, 1000), seed=0)
    net.dense(2)
    graph = net.graph()
    x = np.random.default_rng(0).standard_normal((1024, 1000)).astype(np.float32)
    x[0, 0] = 60.0
    assert calibrate(graph, {"input": x})["input"][1] < 30.0


def test_the_gradient_at_the_cut_overlaps_nothing_that_backward_reads() -> None:
    graph = residual()
    x = {"input": np.random.default_rng(1).standard_normal((20, 8, 8, 3)).astype(np.float32)}
    device, _ = split(quantize(graph, calibrate(graph, x)), cut_named(graph, "add_out"))
    program = schedule(device, differentiate(device, last_layer(device)))
    spans = {
        name: (program.offset(name), program.offset(name) + buffer.bytes)
        for name, buffer in program.buffers.items()
        if buffer.last >= len(program.forward)
    }
    top, read = spans["d(add_out)"], spans["conv2d_1_out"]
    assert top[1] <= read[0] or read[1] <= top[0]
    assert program.param_bytes <= program.state_bytes


def random_network(seed: int) -> Graph:
    """Branches, reshapes, operations in place, pools: whatever can go wrong with shared memory."""
    rng = np.random.default_rng(seed)
    net = Builder(f"random{seed}", (1, 6, 6, 4), seed)
    images = ["input"]
    for _ in range(7):
        net.last = images[rng.integers(len(images))]
        kind = rng.choice(["conv", "depthwise", "add", "mul", "clamp", "reshape", "softmax"])
        if kind == "conv":
            net.conv2d(4, int(rng.choice([1, 3])), activation=rng.choice([Activation.NONE, Activation.RELU]))
        elif kind == "depthwise":
            net.depthwise_conv2d(3, activation=Activation.RELU6)
        elif kind in ("add", "mul"):
            net.node(kind, [net.last, images[rng.integers(len(images))]], REGISTRY[kind].Attrs())
        elif kind == "clamp":
            net.node("clamp", [net.last], REGISTRY["clamp"].Attrs(activation=Activation.RELU))
        elif kind == "reshape":
            net.node("reshape", [net.last], REGISTRY["reshape"].Attrs(shape=(1, 36, 4)))
            net.node("reshape", [net.last], REGISTRY["reshape"].Attrs(shape=(1, 6, 6, 4)))
        else:
            net.softmax()
        images.append(net.last)
    total = images[-1]
    for name in images[1:-1]:  # every branch is used
        total = net.node("add", [total, name], REGISTRY["add"].Attrs())
    return net.graph()


@pytest.mark.parametrize("seed", range(5))
def test_random_networks_equal_the_reference(seed: int, tmp_path: Path) -> None:
    graph = random_network(seed)
    rng = np.random.default_rng(seed)
    samples = rng.standard_normal((16, 6, 6, 4)).astype(np.float32)
    integer = quantize(graph, calibrate(graph, {"input": samples}))
    model = tmp_path / "random.tflite"
    model.write_bytes(write_tflite(integer))
    compile_model(Options(model, "native", tmp_path / "project", cut="none", pack="size"))
    x = rng.integers(-128, 128, (50, 6, 6, 4)).astype(np.int8)
    wanted = run_int8(integer, {"input": x})[graph.outputs[0]]
    np.testing.assert_array_equal(Twin(tmp_path / "project").forward(x)[0], wanted)


def test_boards_know_every_operator_cost() -> None:
    for name in boards.names():
        assert all(
            boards.load(name).instructions(op, 1000, 10) > 0 for op in REGISTRY if op not in ("reshape", "opaque")
        )


def test_a_users_own_board_goes_with_the_project(tmp_path: Path) -> None:
    text = boards.path_of("qemu-m4").read_text().replace('id = "qemu-m4"', 'id = "my-board"')
    own = tmp_path / "my-board.toml"
    own.write_text(text.replace("ram_bytes = 262_144", "ram_bytes = 262_145", 1))
    net = Builder("tiny", (1, 4), seed=0)
    net.dense(3)
    model = tmp_path / "tiny.tflite"
    model.write_bytes(write_tflite(quantize(net.graph(), {"input": (-1.0, 1.0), "dense_out": (-2.0, 2.0)})))
    compile_model(Options(model, str(own), tmp_path / "project", cut="none"))
    own.unlink()
    board = boards.of_project(tmp_path / "project")
    assert (board.id, board.memory.ram_bytes) == ("my-board", 262_145)
