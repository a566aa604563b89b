# SPDX-License-Identifier: Apache-2.0
"""First layers in strips of rows: every strip is what the whole gives, bit for bit, in NumPy and in C; and when it is done."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from train_twin import RELU, attrs, integer, smooth

from tlc import bundle as bundles
from tlc.builder import Builder
from tlc.errors import FitError, UsageError
from tlc.frontends.onnx_writer import write_onnx
from tlc.graph import Graph
from tlc.learning import Learning
from tlc.ops import REGISTRY
from tlc.passes.backward import differentiate
from tlc.passes.patches import fewest, least
from tlc.passes.schedule import objection, schedule
from tlc.passes.select import parse_spec
from tlc.pipeline import Options, compile_model, plan_model
from tlc.program import Program
from tlc.reference import run_int8
from tlc.strips import Strips, divide
from tlc.twin import OptimizerStep, Twin, TwinLibrary

SHAPE = (23, 18, 3)
"""Odd, so that the last strip is another than the others."""


def network() -> Graph:
    """Strides, pads of both ends, a large kernel, a residual block, pools, a pad and elementwise operators in its first layers;
    dense ones behind."""
    net = Builder("strips", (1, *SHAPE), seed=2)
    net.conv2d(8, 3, activation=RELU)
    skip = net.conv2d(8, 1)
    net.depthwise_conv2d(5, activation=RELU)
    branch = net.conv2d(8, 1)
    net.node("add", [skip, branch], attrs("add", activation=RELU))
    net.node("pad", [net.last], attrs("pad", pads=((0, 0), (1, 2), (2, 1), (0, 0))))
    net.node("average_pool2d", [net.last], attrs("average_pool2d", kernel=(3, 3), strides=(1, 1), pads=(1, 1, 1, 1)))
    net.depthwise_conv2d(3, stride=2)
    net.node("mul", [net.last, constant_of(net)], attrs("mul"))
    net.node("clamp", [net.last], attrs("clamp", activation=RELU))
    net.conv2d(6, 3, stride=2, groups=2)
    net.max_pool2d(2)
    net.conv2d(8, (3, 1), activation=RELU)
    net.mean()
    net.dense(5)
    net.softmax()
    return net.graph()


def constant_of(net: Builder) -> str:
    values = np.random.default_rng(1).uniform(0.5, 1, (1, 1, 1, 8)).astype(np.float32)
    return net._graph.constant("gain", values).name


@pytest.fixture(scope="module")
def graph() -> Graph:
    return integer(network(), smooth(SHAPE, 8, seed=3))


def numbers(graph: Graph, count: int = 1) -> NDArray[np.int8]:
    shape = (count, *graph[graph.inputs[0]].shape[1:])
    return np.random.default_rng(5).integers(-128, 128, shape).astype(np.int8)


def in_strips(strips: Strips, x: NDArray[np.int8]) -> tuple[NDArray[np.int8], int]:
    """What the last layer gives, from buffers that hold what the table says, over the input that it follows; and how many rows
    were computed."""
    graph, computed = strips.graph, 0
    ahead, shape = strips.ahead(graph.inputs[0]), graph[strips.output].shape
    assert ahead is not None
    frame = np.zeros(max(ahead + x.nbytes, graph[strips.output].bytes), np.int8)
    frame[ahead : ahead + x.nbytes] = x.ravel()
    x, whole = frame[ahead : ahead + x.nbytes].reshape(x.shape), frame[: graph[strips.output].bytes].reshape(shape)
    buffers: dict[str, NDArray[np.int8]] = {}
    for strip in range(strips.count):
        for index, part in enumerate(strips.parts[strip]):
            small, node = strips.single(strip, index)
            read = []
            for name in node.inputs:
                value: Any = graph[name].data
                if value is None:
                    at = strips.place(name, strip, part.reads.first)
                    rows = buffers[name] if name in strips.held else x
                    value = rows[:, at : at + part.reads.last - part.reads.first]
                    assert value.shape == small[name].shape
                read.append(value)
            assert REGISTRY[node.op].infer(small, node) == small[node.output].shape
            new = REGISTRY[node.op].int8(small, node, read)
            computed += new.shape[1]
            if node.output in strips.held:
                old = strips.kept(node.output, strip)
                kept = buffers[node.output][:, buffers[node.output].shape[1] - old :] if old else new[:, :0]
                buffers[node.output] = np.concatenate([kept, new], axis=1)
                assert buffers[node.output][0].nbytes <= strips.held_bytes(node.output)
            else:
                whole[:, slice(*part.new)] = new
    return whole, computed


@pytest.mark.parametrize("count", [2, 3, 5, 64])
def test_strips_are_the_whole(graph: Graph, count: int) -> None:
    """Of every beginning of the network that only its last layer leaves; and no row is computed twice."""
    x, program = numbers(graph), schedule(graph)
    tried = 0
    for steps in range(2, len(graph.nodes)):
        strips = None if objection(program, steps) else divide(graph, steps, count)
        if strips is None:
            continue
        tried += 1
        whole = run_int8(graph, {graph.inputs[0]: x}, [strips.output])[strips.output]
        found, computed = in_strips(strips, x)
        np.testing.assert_array_equal(found, whole, err_msg=f"{steps} layers, {strips.count} strips")
        assert computed <= sum(graph[node.output].shape[1] for node in strips.nodes)
        assert 1 < strips.count <= count
    assert tried == (9 if count == 2 else 10)  # of 13; the residual block is left at its end alone


def test_what_is_left_is_smaller(graph: Graph) -> None:
    program = schedule(graph)

    def place(strips: Strips) -> Program:
        return schedule(graph, strips=strips)

    made = least(program, 8, place, {})
    assert made.strips is not None and made.arena_bytes < 0.7 * program.arena_bytes
    for name in made.strips.held:
        assert made.buffers[name].bytes == made.strips.held_bytes(name) < graph[name].bytes
    limit = (made.arena_bytes + program.arena_bytes) // 2
    few = fewest(program, limit, place, {})
    assert few.strips is not None and few.arena_bytes <= limit and few.strips.count < made.strips.count
    assert fewest(program, 0, place, {}).arena_bytes <= made.arena_bytes


def test_what_comes_out_never_reaches_what_is_still_read(graph: Graph) -> None:
    name = graph.inputs[0]
    for count in (2, 3, 5, 64):
        strips = divide(graph, 5, count)
        assert strips is not None
        ahead = strips.ahead(name)
        assert ahead is not None and ahead > 0  # the output has more bytes a row
        rests = []
        for strip in range(strips.count - 1):
            read = min(parts[0].reads.first for parts in strips.parts[strip + 1 :]) * strips.row_bytes(name)
            rests.append(ahead + read - strips.parts[strip][-1].new[1] * strips.row_bytes(strips.output))
        assert min(rests) == 0
    skipping = graph.copy()
    skipping.nodes[4].inputs[1] = name
    strips = divide(graph, 5, 4)
    assert strips is not None and dataclasses.replace(strips, graph=skipping).ahead(name) is None


def test_what_the_backward_pass_reads_is_whole(graph: Graph) -> None:
    first = next(node for node in graph.nodes if node.op == "depthwise_conv2d")
    plan = differentiate(graph, parse_spec(graph, first.inputs[1]))
    program = schedule(graph, plan)
    block = graph.nodes.index(first) + 3  # up to the addition
    assert "backward pass reads" in objection(program, block) and not objection(schedule(graph), block)
    strips = divide(graph, block, 4)
    assert strips is not None and schedule(graph, plan, strips=strips).strips is None
    interleaved = schedule(graph, differentiate(graph, parse_spec(graph, first.inputs[1]), Learning(batch="1")))
    assert "learns" in objection(interleaved, block)


# ---- what is compiled -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("patches")
    (root / "model.onnx").write_bytes(write_onnx(network()).SerializeToString())
    np.savez(root / "x.npz", x=smooth(SHAPE, 16, seed=3))
    return root


def options(files: Path, name: str, **given: Any) -> Options:
    return Options(
        files / "model.onnx", given.pop("board", "native"), files / name, cut="none", calib=files / "x.npz", **given
    )


@pytest.mark.parametrize("pack", ["none", "size"])
def test_the_c_is_the_same(files: Path, pack: Any) -> None:
    """Also where weights are decoded in every strip."""
    made = [compile_model(options(files, f"{p}-{pack}", patches=p, pack=pack)).estimate for p in ("none", "8")]
    assert [row.strips > 0 for row in made] == [False, True]
    whole, strips = Twin(files / f"none-{pack}"), TwinLibrary(files / f"8-{pack}", sanitize=True).create()
    assert strips.bundle.certificate.arena_bytes < 0.7 * whole.bundle.certificate.arena_bytes
    assert strips.bundle.macs == whole.bundle.macs
    x = np.random.default_rng(4).integers(-128, 128, (20, *SHAPE)).astype(np.int8)
    np.testing.assert_array_equal(strips.forward(x)[0], whole.forward(x)[0])
    report = json.loads((files / f"8-{pack}" / "report.json").read_text())
    assert report["strips"] == report["patches"]["strips"] == made[1].strips
    assert report["patches"]["recomputed_macs"] == 0
    assert all(row["bytes"] < row["whole"] for row in report["patches"]["between"].values())
    places = {row["name"]: row for row in report["buffers"]}  # what comes out follows over what has been read
    (frame,) = (row for name, row in places.items() if name.startswith("input and "))
    ahead = places["input"]["offset"] - frame["offset"]
    assert 0 <= ahead < 0.3 * places["input"]["bytes"] and frame["bytes"] == ahead + places["input"]["bytes"]


@pytest.mark.parametrize("batch", ["many", "1"])
def test_a_later_layer_learns_the_same(files: Path, batch: Any) -> None:
    learning = Learning(batch=batch, loss="softmax-ce")
    twins = []
    for patches in ("none", "8"):
        compile_model(options(files, f"learn-{patches}", patches=patches, train="last", learning=learning))
        twins.append(Twin(files / f"learn-{patches}"))
    whole, strips = twins
    assert strips.bundle.certificate.arena_bytes < whole.bundle.certificate.arena_bytes
    rng, before = np.random.default_rng(6), strips.params()
    for step in range(1, 11):
        told = OptimizerStep(0.05, step, 1) if batch == "1" else None
        x, label = rng.integers(-128, 128, (1, *SHAPE)).astype(np.int8), int(rng.integers(5))
        for twin in twins:
            twin.forward(x)
            twin.learn(label, told)
            if told is None:
                twin.update(0.05, step, 1)
    for name, value in whole.params().items():
        np.testing.assert_array_equal(strips.params()[name], value)
        assert not np.array_equal(before[name], value)


def test_only_where_the_ram_does_not_suffice(files: Path) -> None:
    whole = compile_model(options(files, "auto"))
    assert whole.estimate.strips == 0
    ram = whole.bundle.certificate.ram_bytes - 2000
    made = compile_model(options(files, "auto", ram=ram))
    assert made.estimate.strips and made.bundle.certificate.ram_bytes <= ram
    assert bundles.load(files / "auto").hash == made.bundle.hash != whole.bundle.hash
    with pytest.raises(FitError, match=f"bytes of RAM where {ram:,} are"):
        compile_model(options(files, "auto", ram=ram, patches="none"))
    with pytest.raises(FitError, match="bytes of RAM where 1,000 are"):
        compile_model(options(files, "auto", ram=1000))


def test_an_automatic_cut_is_whole_where_one_is(files: Path) -> None:
    plain = options(files, "cut", board="qemu-m4")
    rows = plan_model(dataclasses.replace(plain, patches="none"))
    ram = (min(row.ram_bytes for row in rows) + max(row.ram_bytes for row in rows)) // 2
    fitting = [row for row in plan_model(dataclasses.replace(plain, ram=ram)) if row.fits and row.cut != "none"]
    assert min(fitting, key=lambda row: row.seconds).strips  # it would take least time
    made = compile_model(dataclasses.replace(plain, cut="auto", ram=ram))
    assert made.estimate.strips == 0 and made.bundle.cut in [row.cut for row in fitting if not row.strips]


def test_refusals(files: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--patches 4: the first layers are not computed in strips: conv2d .* learns"):
        compile_model(options(files, "no", patches="4", train="full", learning=Learning("1", loss="softmax-ce")))
    with pytest.raises(UsageError, match=r"strips: the backward pass reads 'conv2d_out.*'; choose another"):
        compile_model(options(files, "no", patches="4", train="full", learning=Learning(loss="softmax-ce")))
    net = Builder("flat", (1, 40), seed=1)
    net.dense(8)
    net.dense(3)
    (tmp_path / "flat.onnx").write_bytes(write_onnx(net.graph()).SerializeToString())
    with pytest.raises(UsageError, match=r"dense 'dense.*' is not computed by rows; choose another number"):
        compile_model(Options(tmp_path / "flat.onnx", "native", tmp_path / "flat", cut="none", patches="2"))
