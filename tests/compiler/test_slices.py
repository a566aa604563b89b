# SPDX-License-Identifier: Apache-2.0
"""Slices of tensors that learn: what they are called, and that the generated C learns them as the NumPy reference does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_training_step import follow, int8_net
from train_models import NETS
from train_twin import attrs, build_twin

from tlc.builder import Builder
from tlc.errors import UsageError
from tlc.graph import Graph
from tlc.learning import Learning
from tlc.ops import REGISTRY
from tlc.ops.base import Activation, Slice
from tlc.passes.backward import differentiate
from tlc.passes.schedule import schedule
from tlc.passes.select import parse_spec
from tlc.passes.select_auto import Budget, Selector, backward_macs
from tlc.program import rows_of, rows_shape
from tlc.reference_train import ReferenceTrainer


def mobile() -> Builder:
    """Inverted bottlenecks, one with a skip connection, one with a stride."""
    net = Builder("mobile", (1, 8, 8, 1), seed=7)
    first = net.conv2d(8, 3, activation=Activation.RELU6)
    net.conv2d(16, 1, activation=Activation.RELU6)
    net.depthwise_conv2d(3, activation=Activation.RELU6)
    net.conv2d(8, 1)
    net.node("add", [first, net.last], attrs("add"))
    net.conv2d(16, 1, activation=Activation.RELU6)
    net.depthwise_conv2d(5, stride=2, activation=Activation.RELU6)
    net.conv2d(12, 1)
    net.conv2d(24, 1, activation=Activation.RELU6)
    net.depthwise_conv2d(5, activation=Activation.RELU6)
    net.conv2d(12, 1)
    net.mean()
    net.dense(10)
    return net


NETS.setdefault("mobile", mobile)


@pytest.mark.parametrize(
    ("spec", "slices"),
    [
        ("conv2d_weight_1[2:6]", {"conv2d_weight_1": Slice((2, 6), (0, 8))}),
        ("conv2d_weight_1[:, 0:25%]", {"conv2d_weight_1": Slice((0, 16), (0, 2))}),
        ("conv2d_1.weight[50%:, 3:5]", {"conv2d_weight_1": Slice((8, 16), (3, 5))}),
        ("conv2d_bias_1[:4]", {"conv2d_bias_1": Slice((0, 4))}),
        ("depthwise_weight[:10%]", {"depthwise_weight": Slice((0, 2))}),
        ("dense.*[0:5], dense.bias", {"dense_weight": Slice((0, 5), (0, 12))}),
        ("dense.weight[0:5], dense.weight[0:5]", {"dense_weight": Slice((0, 5), (0, 12))}),
        ("dense.weight[:, :], conv2d_bias_[12]", {}),
    ],
)
def test_names(spec: str, slices: dict[str, Slice]) -> None:
    graph, _ = int8_net("mobile")
    assert parse_spec(graph, spec).slices == slices


@pytest.mark.parametrize(
    ("spec", "tells"),
    [
        ("conv2d_weight_1[0:17]", "the range 0:17 of output channels is 0:17, but 'conv2d_weight_1' has 16"),
        ("conv2d_weight_1[:, 50%:25%]", "of input channels is 4:2, but 'conv2d_weight_1' has 8"),
        ("conv2d_weight_1[0:1%]", "choose at least one channel"),
        ("conv2d_weight_1[a:b]", "'a:b' is no range of channels"),
        ("conv2d_bias_1[0:1, 0:1]", "2 are given, and 'conv2d_bias_1' has output channels;"),
        ("depthwise_weight[0:1, 0:1]", "2 are given"),
        ("conv2d_weight_1[0:1, 0:1, 0:1]", "3 are given"),
        ("dense_bias[0:2], dense_bias[4:5]", "two slices of 'dense_bias'"),
        ("dance_bias[0:2]", "'dense_bias'"),
    ],
)
def test_what_no_tensor_has(spec: str, tells: str) -> None:
    graph, _ = int8_net("mobile")
    with pytest.raises(UsageError) as error:
        parse_spec(graph, spec)
    assert tells in str(error.value)


SPECS = {
    "mobile": "conv2d.weight[3:7], conv2d_1.weight[:, 0:25%], conv2d_1.bias, conv2d_3.weight[1:9, 3:8], depthwise_conv2d_2.*[5:14]",
    "dilated_groups": "conv2d_1.weight[3:11, 1:3], conv2d_1.bias[2:5], dense.weight[:, 6:12], dense.bias[3:4]",
    "depthwise": "depthwise_conv2d.weight[1:3], depthwise_conv2d_1.weight[4:13], conv2d_1.bias[2:], dense.weight[2:7, 5:100]",
    "moves": "conv2d.bias[1:2], dense.weight[1:6, 1:8], dense.bias, dense_1.weight[0:3]",
    "residual": "conv2d_1.weight[:, :50%], conv2d_2.weight[:, 4:8], conv2d_2.bias, conv2d_3.bias[:3], conv2d_3.weight",
}


@pytest.mark.parametrize("batch", ["many", "1"])
@pytest.mark.parametrize("name", SPECS)
def test_slices_learn_alike(name: str, batch: str, tmp_path: Path) -> None:
    """Out of raw and out of packed tensors; where updates are interleaved, momentum and residuals are sliced, too."""
    graph, images = int8_net(name)
    options = Learning(batch="1", momentum=True, feedback=True) if batch == "1" else Learning()
    for node in graph.nodes:  # few values, so that packing pays
        if REGISTRY[node.op].weight_axis(node) is not None and batch == "1":
            graph[node.inputs[1]].data = (graph.data(node.inputs[1]) // 32 * 32).astype(np.int8)
    learned = parse_spec(graph, SPECS[name])
    library, plan = build_twin(graph, learned, tmp_path / "project", "size" if batch == "1" else "none", options)
    text = (tmp_path / "project/lib/tlc_model/src/tlc_model.c").read_text()
    assert "tlc_rows_sliced" in text
    assert ("tlc_rows_sliced(tlc_rows_packed" in text) == (batch == "1")
    settings = {"momentum": 0.5} if batch == "1" else {}
    samples = 1 if batch == "1" else 2
    follow(graph, library.create(), ReferenceTrainer(graph, plan), images, samples, 30, **settings)


def test_what_a_slice_takes() -> None:
    """Of state, of saved activations and of flash for its first values: its own share."""
    graph, _ = int8_net("mobile")
    whole = schedule(graph, differentiate(graph, parse_spec(graph, "conv2d_3.weight")))
    part = schedule(graph, differentiate(graph, parse_spec(graph, "conv2d_3.weight[:, 0:25%]")))
    (all_of_it,), (quarter,) = whole.learned, part.learned
    assert quarter.elements * 4 == all_of_it.elements
    assert rows_shape(graph, quarter) == (16, 1, 1, 2) == rows_of(graph, quarter).shape
    folded = 4 * 16
    assert whole.state_bytes - folded == 4 * (part.state_bytes - folded)
    kept = [buffer for name, buffer in part.buffers.items() if name.startswith("add_out[")]
    assert [buffer.bytes for buffer in kept] == [64 * 2]
    assert part.buffers["add_out"].last < len(part.forward) < whole.buffers["add_out"].last


def _alive(graph: Graph, spec: str) -> dict[str, int]:
    program = schedule(graph, differentiate(graph, parse_spec(graph, spec)))
    between = len(program.forward)
    return {b.name: b.bytes for b in program.buffers.values() if b.first < between <= b.last and b.shares is None}


def test_masks_are_kept_as_bits() -> None:
    graph, _ = int8_net("mobile")
    alive = _alive(graph, "conv2d_3.bias")
    masked = {name: size for name, size in alive.items() if name.startswith("mask(")}
    assert masked["mask(conv2d_3_out)"] == 64 * 16 // 8
    assert "conv2d_3_out" not in alive
    assert sum(masked.values()) < 600 < sum(graph[name[5:-1]].bytes for name in masked)
    assert "conv2d_4_out" in _alive(graph, "conv2d_5.weight")  # all of it is needed: its mask, too, is read from it


def test_a_strided_depthwise_layer_lies_over_its_input() -> None:
    graph, _ = int8_net("mobile")
    program = schedule(graph)
    strided = next(node for node in graph.nodes if node.op == "depthwise_conv2d" and node.attrs.strides == (2, 2))
    source, target = (program.buffers[name] for name in (strided.inputs[0], strided.output))
    assert target.over == source.name and target.bytes * 4 == source.bytes
    assert program.offset(target.name) == program.offset(source.name)
    assert source.last == target.first  # what it does not cover is free again


def test_a_depthwise_gradient_lies_over_the_one_it_reads() -> None:
    graph, _ = int8_net("mobile")
    program = schedule(graph, differentiate(graph, parse_spec(graph, "conv2d.bias")))
    nodes = [node for node in graph.nodes if node.op == "depthwise_conv2d"]
    same = [program.offset(f"d({n.inputs[0]})") == program.offset(f"d({n.output})") for n in nodes]
    assert same == [True, False, True]


# ---- --train auto -------------------------------------------------------------------------------------------------------


def _selector(graph: Graph) -> Selector:
    frozen = schedule(graph)

    def cost(learned: dict[str, str]) -> tuple[int, bool]:
        program = schedule(graph, differentiate(graph, learned), steps=frozen.forward)
        return program.arena_bytes + program.state_bytes - frozen.arena_bytes - frozen.state_bytes, True

    return Selector(graph, cost)


def test_the_best_block_of_each_size_is_a_candidate() -> None:
    graph, _ = int8_net("mobile")
    selector = _selector(graph)
    scores = {name: np.zeros(graph[name].shape[-1]) for name in selector.tensors}
    scores["conv2d_weight_3"][:] = [1, 2, 0, 0, 5, 0, 2, 2]
    scores["depthwise_weight"][12:] = 3
    found = selector.slices(scores)
    assert {name: score for name, score in found.items() if score} == {
        "conv2d_weight_3": 12,
        "conv2d_weight_3[:, 4:5]": 5,
        "conv2d_weight_3[:, 4:6]": 5,
        "conv2d_weight_3[:, 4:8]": 9,
        "depthwise_weight": 12,
        "depthwise_weight[12:14]": 6,
        "depthwise_weight[12:16]": 12,
        "depthwise_weight[8:16]": 12,
    }
    learned = selector.learned(["conv2d_weight_3[:, 4:6]", "dense_bias"])
    assert learned == parse_spec(graph, "conv2d_weight_3[:, 4:6], dense_bias")
    assert learned.slices == parse_spec(graph, "conv2d_weight_3[:, 4:6]").slices


def test_a_slice_is_taken_where_the_whole_does_not_fit() -> None:
    graph, _ = int8_net("mobile")
    selector = _selector(graph)
    scores = {name: np.full(graph[name].shape[-1], 1e-6) for name in selector.tensors}
    scores["conv2d_weight_6"] = np.array([9.0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1] * 2)
    found = selector.slices(scores)
    whole = selector.cost(["conv2d_weight_6"]).bytes
    for share in (1.1, 0.7, 0.4):
        training = selector.auto(found, Budget(int(whole * share)))
        (row,) = [row for row in training.rows if row.tensor.startswith("conv2d_weight_6")]
        assert row.chosen
        assert ("[:, " in row.tensor) == (share < 1)
        assert training.used.bytes <= int(whole * share)
        taken = {next(iter(selector.learned([name]))) for name in training.chosen}
        assert len(taken) == len(training.chosen)  # one candidate of a tensor


def test_macs_of_a_slice_are_its_share() -> None:
    graph, _ = int8_net("mobile")

    def macs(spec: str) -> int:
        return backward_macs(graph, differentiate(graph, parse_spec(graph, spec)))

    base, positions = macs("conv2d_3.bias"), 64
    assert macs("conv2d_3.bias[0:4]") == base - positions * 12
    assert macs("conv2d_3.bias, conv2d_3.weight") == base + positions * 16 * 8
    assert macs("conv2d_3.bias, conv2d_3.weight[0:4, 0:2]") == base + positions * 4 * 2
