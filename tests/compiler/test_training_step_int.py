# SPDX-License-Identifier: Apache-2.0
"""The training step in integers: the generated C and the NumPy reference, bit for bit."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ckernel import FIRMWARE
from test_training_step import STEPS, follow, int8_net
from train_models import NETS, SHAPE
from train_twin import build_twin, integer, layers, smooth

from tlc.builder import Builder
from tlc.errors import UsageError
from tlc.graph import Graph
from tlc.learning import Learning, gradient_bytes
from tlc.ops import REGISTRY
from tlc.ops.base import Activation, Slice
from tlc.ops.training_int import Fixed, sgd_step_int, take_gradient
from tlc.passes.backward import Plan, Selection, differentiate
from tlc.passes.schedule import gradient_name, schedule
from tlc.passes.select import parse_spec
from tlc.passes.static_scales import with_static_scales
from tlc.reference_train_int import ReferenceTrainerInt, gradient_exponents, reference_trainer

LEARNING = Learning(arithmetic="int")


@pytest.mark.parametrize("name", NETS)
def test_every_layer_learns_alike(name: str, tmp_path: Path) -> None:
    graph, images = int8_net(name)
    library, plan = build_twin(graph, layers(graph), tmp_path / "project", learning=LEARNING)
    text = (tmp_path / "project/lib/tlc_model/src/tlc_model.c").read_text()
    assert not re.search(r"_f32|\bfloat\b", text.split("static tlc_status_t backward")[1].split("tlc_tensor_t")[0])
    follow(graph, library.create(), reference_trainer(graph, plan), images, batch=1, steps=STEPS)
    follow(graph, library.create(), reference_trainer(graph, plan), images, batch=4, steps=10)


@pytest.mark.parametrize("name", ["residual", "depthwise"])
def test_updates_inside_the_backward_pass(name: str, tmp_path: Path) -> None:
    graph, images = int8_net(name)
    learning = replace(LEARNING, batch="1")
    library, plan = build_twin(graph, layers(graph), tmp_path / "project", learning=learning)
    follow(graph, library.create(), reference_trainer(graph, plan), images, batch=1, steps=30)


@pytest.mark.parametrize("spec", ["bias", "conv2d_weight_[12]", "conv2d.weight,dense.bias"])
def test_parts_learn_through_packed_layers(spec: str, tmp_path: Path) -> None:
    """Packed weights are decoded anew for each block of input channels."""
    graph, images = int8_net("residual")
    for node in graph.nodes:  # few values, so that packing pays
        if REGISTRY[node.op].weight_axis(node) is not None:
            graph[node.inputs[1]].data = (graph.data(node.inputs[1]) // 32 * 32).astype(np.int8)
    library, plan = build_twin(graph, parse_spec(graph, spec), tmp_path / "project", "size", LEARNING)
    text = (tmp_path / "project/lib/tlc_model/src/tlc_model.c").read_text()
    assert "tlc_rows_packed" in text.split("static tlc_status_t backward")[1]
    follow(graph, library.create(), reference_trainer(graph, plan), images, batch=2, steps=20)


@pytest.mark.parametrize("name", ["residual", "dilated_groups", "depthwise", "moves"])
def test_slices_learn(name: str, tmp_path: Path) -> None:
    """The scale of a slice's gradient is that of the slice alone."""
    graph, images = int8_net(name)
    learned = layers(graph)
    slices = {}
    for node in graph.nodes:
        if REGISTRY[node.op].weight_axis(node) is None or node.inputs[1] not in learned:
            continue
        channels, w = graph[node.output].shape[-1], graph[node.inputs[1]].shape
        deep = node.op != "depthwise_conv2d" and w[-1] > 2 and getattr(node.attrs, "groups", 1) == 1
        slices[node.inputs[1]] = Slice((1, channels - 1), (1, w[-1] - 1) if deep else None)
        if len(node.inputs) > 2:
            slices[node.inputs[2]] = Slice((0, channels // 2))
    library, plan = build_twin(graph, Selection(learned, slices), tmp_path / "project", learning=LEARNING)
    follow(graph, library.create(), reference_trainer(graph, plan), images, batch=2, steps=20)


def test_gradients_take_half_the_memory() -> None:
    graph, _ = int8_net("residual")
    ours, floats = (
        schedule(graph, differentiate(graph, layers(graph), Learning(arithmetic=a))) for a in ("int", "float")
    )
    for name in ("conv2d_out", "add_out"):
        elements = graph[name].elements
        assert ours.buffers[gradient_name(name)].bytes == gradient_bytes(elements) <= 2 * elements + 8
        assert floats.buffers[gradient_name(name)].bytes == 4 * elements
    sums = [program.state_bytes - program.param_bytes for program in (ours, floats)]
    assert sums[0] < 0.62 * sums[1]  # folded biases stay as they are
    assert ours.arena_bytes < floats.arena_bytes


def test_too_long_a_sum_is_refused() -> None:
    graph, _ = int8_net("conv_last")
    node = next(node for node in graph.nodes if node.op == "conv2d")
    graph[node.output].shape = (1, 300, 300, 6)
    with pytest.raises(UsageError, match="90,000 positions"):
        differentiate(graph, layers(graph), LEARNING)


def test_no_float_instruction(tmp_path: Path) -> None:
    """Whatever the C of the integer path calls on a core without floats, no routine of the compiler's for them."""
    sources = [*FIRMWARE.glob("src/train/*_s16.c"), *(FIRMWARE / "src/train" / n for n in ("take_grad.c", "sgd_int.c"))]
    assert len(sources) > 15
    for source in sources:
        target = tmp_path / f"{source.stem}.o"
        flags = ["-mcpu=cortex-m0", "-mthumb", "-mfloat-abi=soft", "-O2", "-std=c99"]
        subprocess.run(
            ["arm-none-eabi-gcc", *flags, f"-I{FIRMWARE / 'include'}", "-c", str(source), "-o", str(target)], check=True
        )
        names = subprocess.run(
            ["arm-none-eabi-nm", "-u", str(target)], check=True, capture_output=True, text=True
        ).stdout
        assert not re.search(r"__aeabi_[fd]|__aeabi_\w*2[fd]", names), (source.name, names)


def test_steps_below_one_are_right_in_the_mean() -> None:
    gradient = Fixed(np.full(40000, 12345, np.int64), 4096 - 20, True)
    value = np.zeros(40000, np.int8)
    unit = np.array([40.0], np.float32)
    moved = sgd_step_int(value, gradient, unit, input_scale=0.02, learning_rate=0.3, samples=3, step=1, seed=2, salt=3)
    exact = -0.3 / 3 * 40 * 0.02 * 12345 / 2**20
    assert set(np.unique(moved)) == {-1, 0}
    assert moved.mean() == pytest.approx(exact, rel=0.2)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf"), 1e-40])
def test_what_is_no_rate_is_no_step(rate: float) -> None:
    gradient = take_gradient(np.ones(4, np.float32))
    value = np.arange(4, dtype=np.int8)
    unit = np.ones(1, np.float32)
    moved = sgd_step_int(value, gradient, unit, input_scale=1.0, learning_rate=rate, samples=1, step=1, seed=0, salt=0)
    np.testing.assert_array_equal(moved, value)


def exponents_of(graph: Graph, plan: Plan, images: np.ndarray, scale: float = 0.1) -> dict[tuple[str, str, int], int]:
    """Of gradients like those of ``follow``."""
    rng = np.random.default_rng(8)
    shape = graph[plan.top].shape
    told = [np.float32(scale) * rng.standard_normal(shape).astype(np.float32) for _ in range(16)]
    return gradient_exponents(graph, plan, [((images[i : i + 1],), told[i]) for i in range(16)])


@pytest.mark.parametrize("batch", ["many", "1"])
@pytest.mark.parametrize("name", NETS)
def test_static_scales_step_alike(name: str, batch: str, tmp_path: Path) -> None:
    graph, images = int8_net(name)
    learning = Learning(batch, arithmetic="int", scales="static")
    found = exponents_of(graph, differentiate(graph, layers(graph), learning), images)
    library, plan = build_twin(graph, layers(graph), tmp_path / "project", learning=learning, scales=found)
    text = (tmp_path / "project/lib/tlc_model/src/tlc_model.c").read_text()
    backward = text.split("static tlc_status_t backward")[1].split("tlc_tensor_t")[0]
    measured = re.findall(r"tlc_(?:scale|copy|sum|mul|softmax|\w+_input|\w+_in_place)_grad_s16", backward)
    assert not measured and ("_weight_static_" in backward) == ("_bias_static_" in backward) == (batch == "1")
    follow(graph, library.create(), reference_trainer(graph, plan), images, batch=1, steps=STEPS)


@pytest.mark.parametrize("name", ["residual", "depthwise", "moves", "shared"])
def test_static_scales_saturate_alike(name: str, tmp_path: Path) -> None:
    """Of calibration data whose gradients vary much less than the real ones do: three bits too few."""
    graph, images = int8_net(name)
    learning = Learning("1", arithmetic="int", scales="static")
    found = exponents_of(graph, differentiate(graph, layers(graph), learning), images)
    found = {key: exponent - 3 for key, exponent in found.items()}
    library, plan = build_twin(graph, layers(graph), tmp_path / "project", learning=learning, scales=found)
    trainer = reference_trainer(graph, plan)
    follow(graph, library.create(), trainer, images, batch=1, steps=40)
    ends, rng = False, np.random.default_rng(8)  # the gradients that the exponents are of
    for image in range(16):
        trainer.abandon()
        trainer.forward(images[image : image + 1])
        trainer.backward(np.float32(0.1) * rng.standard_normal(graph[plan.top].shape).astype(np.float32))
        ends = ends or any(np.isin(total.values, (-32768, 32767)).any() for total in trainer._totals.values())
    assert ends, "nothing was saturated"


@pytest.mark.parametrize("name", NETS)
def test_static_scales_are_near_dynamic_ones(name: str) -> None:
    """Within a margin of one bit nothing is saturated, and what is lost is that bit."""
    graph, images = int8_net(name)
    learning = Learning("1", arithmetic="int")
    plan = differentiate(graph, layers(graph), learning)
    static = with_static_scales(plan, exponents_of(graph, plan, images))
    ours, theirs = ReferenceTrainerInt(graph, static), ReferenceTrainerInt(graph, plan)
    for scale in (0.1, 1e-4):  # a loss that has fallen a thousandfold
        gradient = np.random.default_rng(8).standard_normal(graph[plan.top].shape).astype(np.float32) * np.float32(
            scale
        )
        for trainer in (ours, theirs):
            trainer.abandon()
            trainer.forward(images[:1])
            trainer.backward(gradient)
        for name, exact in theirs.gradients().items():
            np.testing.assert_allclose(
                ours.gradients()[name], exact, atol=np.abs(exact).max() * 5e-3, err_msg=name, rtol=0
            )


def test_sums_over_samples_stay_dynamic() -> None:
    """A second gradient a thousand times the first: no static scale would hold both."""
    graph, images = int8_net("residual")
    plan = differentiate(graph, layers(graph), LEARNING)
    trainer = ReferenceTrainerInt(graph, with_static_scales(plan, exponents_of(graph, plan, images)))
    gradient = np.random.default_rng(8).standard_normal(graph[plan.top].shape).astype(np.float32)
    sums = []
    for scale in (1e-3, 1.0):
        trainer.forward(images[:1])
        trainer.backward(gradient * np.float32(scale))
        sums.append(trainer.gradients())
    for name, small in sums[0].items():
        most = np.abs(small).max() * 1001
        np.testing.assert_allclose(sums[1][name], 1001 * small, atol=most * 5e-3, rtol=0)


OPTIMIZERS = {
    "momentum": (Learning(momentum=True), 0.9),
    "momentum, interleaved": (Learning("1", momentum=True), 0.5),
    "feedback": (Learning(feedback=True), 0.0),
    "both": (Learning(momentum=True, feedback=True), 0.9),
    "both, interleaved": (Learning("1", momentum=True, feedback=True), 0.99),
}


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_optimizers_step_alike(case: str, tmp_path: Path) -> None:
    learning, momentum = OPTIMIZERS[case]
    graph, images = int8_net("depthwise")
    library, plan = build_twin(graph, layers(graph), tmp_path / "project", learning=replace(learning, arithmetic="int"))
    batch = 1 if learning.interleaved else 2
    trainer = reference_trainer(graph, plan)
    follow(graph, library.create(), trainer, images, batch, STEPS, momentum=momentum)
    for name, velocity in trainer._velocities.items():
        assert velocity.dtype == (np.int16 if graph[name].dtype == "int8" else np.int32)
        assert np.abs(velocity).max() > 64, f"{name}: steps of less than one say little"


def test_slices_keep_velocities_of_their_own(tmp_path: Path) -> None:
    graph, images = int8_net("residual")
    node = next(node for node in graph.nodes if node.op == "conv2d")
    parts = {node.inputs[1]: Slice((1, 4)), node.inputs[2]: Slice((0, 3))}
    selection = Selection(dict.fromkeys(node.inputs[1:3], node.name), parts)
    learning = replace(LEARNING, momentum=True, feedback=True)
    library, plan = build_twin(graph, selection, tmp_path / "project", learning=learning)
    follow(graph, library.create(), reference_trainer(graph, plan), images, batch=2, steps=20, momentum=0.9)


def stepped(steps: int, gradient: int, momentum: float, *, kept: bool = False, kind: type = np.int8) -> np.ndarray:
    """What ``steps`` equal gradients make of 4,096 zeros: each would be ``gradient`` / 2^17 of a step."""
    value = np.zeros(4096, kind)
    velocity = np.zeros(4096, np.int16 if kind is np.int8 else np.int32) if momentum else None
    residual = np.zeros(4096, np.int8) if kept else None
    for step in range(1, steps + 1):
        value = sgd_step_int(
            value, Fixed(np.full(4096, gradient, np.int64), 4096 - 17, True), np.ones(1, np.float32), input_scale=1.0,
            learning_rate=1.0, samples=1, step=step, seed=2, salt=3, momentum=momentum, velocity=velocity, residual=residual,
        )  # fmt: skip
    return value


@pytest.mark.parametrize("kind", [np.int8, np.int32])
def test_momentum_gathers_speed(kind: type) -> None:
    """Of g each step, v_n = Σ m^k g: after 60 steps at 0.9 they have moved Σ v_n, whatever is rounded on the way."""
    expected, velocity = 0.0, 0.0
    for _ in range(60):
        velocity = 0.9 * velocity + 3000 / 2**17
        expected -= velocity
    assert stepped(60, 3000, 0.9, kind=kind).mean() == pytest.approx(expected, rel=0.01)
    assert stepped(60, -3000, 0.9, kind=kind).mean() == pytest.approx(-expected, rel=0.01)
    assert stepped(60, 3000, 0.0, kind=kind).mean() == pytest.approx(-60 * 3000 / 2**17, rel=0.02)


def test_moves_below_what_a_velocity_holds_are_right_in_the_mean() -> None:
    """0.05 of its unit, 1 / 256 of a step."""
    gradient = round(0.05 / 256 * 2**17)
    velocity, expected = 0.0, 0.0
    for _ in range(200):
        velocity = 0.9 * velocity + gradient / 2**17
        expected -= velocity
    assert stepped(200, gradient, 0.9).mean() == pytest.approx(expected, rel=0.1)


def test_feedback_loses_nothing_and_strays_little() -> None:
    """A hundred steps of 0.3: rounding at random strays by √(100 · 0.21), what is kept by less than one."""
    gradient = round(0.3 * 2**17)
    kept, random = stepped(100, gradient, 0.0, kept=True), stepped(100, gradient, 0.0)
    assert kept.mean() == pytest.approx(-30, abs=0.1) and random.mean() == pytest.approx(-30, abs=0.5)
    assert kept.std() < 0.6 < 4 < random.std()


@pytest.mark.parametrize("momentum", [-0.5, float("nan"), 1e-9])
def test_what_is_no_momentum_is_none(momentum: float) -> None:
    gradient = round(0.5 * 2**17)
    assert stepped(20, gradient, momentum).mean() == pytest.approx(-10, rel=0.02)


@pytest.mark.parametrize("learning", [Learning(momentum=True), Learning(feedback=True)], ids=["momentum", "feedback"])
def test_it_learns(learning: Learning, tmp_path: Path) -> None:
    """From labels of its own, which of four patterns an image holds: from chance to all."""
    rng = np.random.default_rng(4)
    patterns = smooth(SHAPE, 4, seed=1)
    labels = rng.integers(4, size=240)
    images = (patterns[labels] + 0.3 * rng.standard_normal((240, *SHAPE))).astype(np.float32)
    net = Builder("patterns", (1, *SHAPE), seed=9)
    net.conv2d(6, 3, stride=2, activation=Activation.RELU)
    net.flatten()
    net.dense(4)
    graph = integer(net, images)
    quant = graph["input"].quant
    assert quant is not None
    x = quant.quantize(images)
    learning = replace(learning, arithmetic="int", loss="softmax-ce")
    library, _ = build_twin(graph, layers(graph), tmp_path / "project", learning=learning)
    twin = library.create()

    def accuracy() -> float:
        return float(np.mean([twin.forward(x[i : i + 1])[0].argmax() == labels[i] for i in range(200, 240)]))

    before = accuracy()
    for step in range(1, 41):
        for i in rng.integers(200, size=8):
            twin.forward(x[i : i + 1])
            twin.learn(int(labels[i]))
        twin.update(0.01 if learning.momentum else 0.05, step, 7, momentum=0.9 * learning.momentum)
    assert before < 0.7 and accuracy() > 0.95


def test_the_reference_has_neither_decay_nor_clipping() -> None:
    graph, images = int8_net("residual")
    trainer = ReferenceTrainerInt(graph, differentiate(graph, layers(graph), LEARNING))
    (y,) = trainer.forward(images[:1])
    trainer.backward(np.ones(y.shape, np.float32))
    with pytest.raises(AssertionError, match="neither weight decay"):
        trainer.update(0.1, 1, 1, weight_decay=0.5)
