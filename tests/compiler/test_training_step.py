# SPDX-License-Identifier: Apache-2.0
"""The training step: the generated C and the NumPy reference, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from train_models import NETS, SHAPE
from train_twin import build_twin, integer, layers, smooth

from tlc.errors import DataError, DeviceError, UsageError
from tlc.graph import Graph
from tlc.learning import Learning
from tlc.ops import REGISTRY
from tlc.ops.training import log_f32, sgd_step, sqrt_f32
from tlc.passes.backward import differentiate, last_layer
from tlc.passes.schedule import gradient_name, schedule
from tlc.passes.select import parse_spec
from tlc.reference_train import ReferenceTrainer
from tlc.twin import OptimizerStep, Twin

STEPS = 100


def int8_net(name: str) -> tuple[Graph, np.ndarray]:
    images = smooth(SHAPE, 64, seed=7)
    graph = integer(NETS[name](), images)
    quant = graph["input"].quant
    assert quant is not None
    return graph, quant.quantize(images)


def follow(
    graph: Graph, twin: Twin, trainer: ReferenceTrainer, images: np.ndarray, batch: int, steps: int, **settings: float
) -> None:
    """Trains both on the same gradients: float32 ones and int8 ones with a scale by turns."""
    rng = np.random.default_rng(batch)
    top = graph[trainer.plan.top]
    first = trainer.params()
    for step in range(1, steps + 1):
        told = OptimizerStep(0.01, step, 5, **settings) if trainer.plan.learning.interleaved else None
        for _ in range(batch):
            image = images[rng.integers(len(images))][None]
            (ours,), (theirs,) = trainer.forward(image), twin.forward(image)
            assert np.array_equal(ours, theirs), f"forward of step {step}"
            gradient = rng.standard_normal(top.shape).astype(np.float32) * np.float32(0.1)
            if step % 2:
                gradient = np.float32(0.003) * rng.integers(-127, 128, top.shape).astype(np.float32)
            twin.backward(gradient, told)
            trainer.backward(gradient)
        if told is None:
            twin.update(0.01, step, 5, **settings)
        trainer.update(0.01, step, 5, **settings)
        params = twin.params()
        for name, value in trainer.params().items():
            assert np.array_equal(value, params[name]), f"{name} after step {step}"
    for name, value in trainer.params().items():
        assert not np.array_equal(value, first[name]), f"{name} did not learn"


@pytest.mark.parametrize("name", NETS)
def test_every_layer_learns_alike(name: str, tmp_path: Path) -> None:
    graph, images = int8_net(name)
    library, plan = build_twin(graph, layers(graph), tmp_path / "project")
    follow(graph, library.create(), ReferenceTrainer(graph, plan), images, batch=1, steps=STEPS)
    follow(graph, library.create(), ReferenceTrainer(graph, plan), images, batch=4, steps=10)


@pytest.mark.parametrize("name", NETS)
def test_interleaved_updates_are_those_of_a_batch_of_one(name: str, tmp_path: Path) -> None:
    """No tensor is read after its update, though its gradient's buffer is another's meanwhile."""
    graph, images = int8_net(name)
    library, plan = build_twin(graph, layers(graph), tmp_path / "project", learning=Learning(batch="1"))
    follow(graph, library.create(), ReferenceTrainer(graph, plan), images, batch=1, steps=STEPS)
    one, many = (schedule(graph, differentiate(graph, layers(graph), Learning(batch=batch))) for batch in ("1", "many"))
    sums = 4 * sum(entry.elements for entry in one.learned)
    sums += 4 * sum(graph[node.output].shape[-1] for node in graph.nodes if node.name in one.folded)
    assert many.state_bytes - one.state_bytes in range(sums - 15, sums + 16)
    assert one.arena_bytes + one.state_bytes < many.arena_bytes + many.state_bytes


OPTIMIZERS = {
    "momentum": (Learning(momentum=True), {"momentum": 0.9}),
    "momentum, interleaved": (Learning("1", momentum=True), {"momentum": 0.9, "weight_decay": 0.3}),
    "feedback": (Learning(feedback=True), {"weight_decay": 0.5}),
    "all": (Learning("1", momentum=True, feedback=True), {"momentum": 0.9, "weight_decay": 0.3, "clip": 0.05}),
    "clipping": (Learning(), {"clip": 0.05}),
    "plain int8": (Learning(qas=False), {}),
}


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_optimizers_step_alike(case: str, tmp_path: Path) -> None:
    learning, settings = OPTIMIZERS[case]
    graph, images = int8_net("depthwise")
    library, plan = build_twin(graph, layers(graph), tmp_path / "project", learning=learning)
    trainer = ReferenceTrainer(graph, plan)
    batch = 1 if learning.interleaved else 2
    if not learning.qas:  # whose steps are far below one integer here
        first = trainer.params()
        twin = library.create()
        trainer.forward(images[:1]), twin.forward(images[:1])
        gradient = np.full(graph[plan.top].shape, 1e4, np.float32)
        twin.backward(gradient), trainer.backward(gradient)
        twin.update(1.0, 1, 3), trainer.update(1.0, 1, 3)
        assert all(np.array_equal(value, twin.params()[name]) for name, value in trainer.params().items())
        assert any(not np.array_equal(value, first[name]) for name, value in trainer.params().items())
        return
    follow(graph, library.create(), trainer, images, batch=batch, steps=STEPS, **settings)


@pytest.mark.parametrize("spec", ["last", "bias", "conv2d_weight_[12]", "conv2d.weight,dense.bias"])
def test_parts_learn_through_packed_layers(spec: str, tmp_path: Path) -> None:
    """Whatever learns, through frozen layers whose weights are decoded row by row."""
    graph, images = int8_net("residual")
    for node in graph.nodes:  # few values, so that packing pays
        if REGISTRY[node.op].weight_axis(node) is not None:
            graph[node.inputs[1]].data = (graph.data(node.inputs[1]) // 32 * 32).astype(np.int8)
    learned = parse_spec(graph, spec)
    assert learned
    library, plan = build_twin(graph, learned, tmp_path / "project", "size")
    text = (tmp_path / "project/lib/tlc_model/src/tlc_model.c").read_text()
    forward, backward = text.split("static tlc_status_t backward")
    assert "tlc_rows_packed" in forward
    assert ("tlc_rows_packed" in backward) == (spec != "last")
    follow(graph, library.create(), ReferenceTrainer(graph, plan), images, batch=2, steps=20)


def test_a_layer_without_bias_keeps_its_zero_point(tmp_path: Path) -> None:
    """Its weights learn, and with them what the input's zero point adds, though there is no bias to hold it."""
    graph, images = int8_net("depthwise")
    node = next(node for node in graph.nodes if len(node.inputs) == 2 and node.op == "depthwise_conv2d")
    quant = graph[node.inputs[0]].quant
    assert quant is not None and quant.zero_point != 0
    library, plan = build_twin(graph, {node.inputs[1]: node.name}, tmp_path / "project")
    follow(graph, library.create(), ReferenceTrainer(graph, plan), images, batch=1, steps=10)


def test_only_what_leads_to_a_learned_tensor_is_computed() -> None:
    graph, _ = int8_net("residual")
    functions = [call.function for _, call in differentiate(graph, last_layer(graph)).calls]
    assert functions == ["tlc_mask_grad_f32", "tlc_dense_weight_grad_f32", "tlc_bias_grad_f32"]
    plan = differentiate(graph, parse_spec(graph, "conv2d_bias_2"))
    assert [node.name for node, _ in plan.order] == ["dense", "mean", "add_1", "sub", "conv2d_3", "add", "conv2d_2"]
    assert sum("input_grad" in call.function for _, call in plan.calls) == 2
    assert not any("weight_grad" in call.function for _, call in plan.calls)


def test_gradients_share_memory_where_they_are_the_same() -> None:
    """A residual addition hands its gradient to one branch as it is; the other gets a copy only if it is wanted."""
    graph, _ = int8_net("residual")
    plan = differentiate(graph, parse_spec(graph, "conv2d_bias_2"))
    program = schedule(graph, plan)
    addition = next(node for node in graph.nodes if node.name == "add")
    assert plan.aliases[addition.inputs[1]] == addition.output
    assert program.offset(gradient_name(addition.inputs[1])) == program.offset(gradient_name(addition.output))
    assert not any(call.function == "tlc_copy_grad_f32" and node is addition for node, call in plan.calls)
    full = differentiate(graph, layers(graph))
    assert sum(call.function == "tlc_copy_grad_f32" and node.name == "add" for node, call in full.calls) == 1


def test_gradient_buffers_die() -> None:
    graph, _ = int8_net("conv_last")
    buffers = [b for b in schedule(graph, differentiate(graph, layers(graph))).buffers.values() if b.name[:2] == "d("]
    assert len(buffers) == len(graph.nodes)
    owners = sorted((b for b in buffers if b.shares is None), key=lambda b: b.first)
    for early, late in zip(owners, owners[2:], strict=False):
        assert early.last < late.first, (early, late)


def test_an_operator_without_a_gradient_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, _ = int8_net("moves")
    monkeypatch.setattr(type(REGISTRY["softmax"]), "backward", lambda *_: None)
    with pytest.raises(UsageError, match="softmax has no gradient"):
        differentiate(graph, last_layer(graph))


def test_a_tensor_that_the_output_does_not_depend_on(tmp_path: Path) -> None:
    graph, _ = int8_net("shared")
    graph.outputs = [graph.nodes[0].output, graph.outputs[0]]
    with pytest.raises(UsageError, match="'dense_bias': it cannot learn"):
        differentiate(graph, parse_spec(graph, "dense_bias"))


def test_steps_below_one_are_right_in_the_mean() -> None:
    value = np.zeros((1, 20000), np.int8)
    gradient = np.full(value.shape, -0.3, np.float32)
    scale = np.ones(1, np.float32)
    stepped = sgd_step(value, gradient, scale, learning_rate=1.0, samples=1, step=1, seed=0, salt=0)
    assert set(np.unique(stepped)) == {0, 1}
    assert abs(float(stepped.mean()) - 0.3) < 0.01


def test_what_is_not_a_number_is_no_step() -> None:
    gradient = np.array([np.nan, np.inf, -np.inf], np.float32)
    value = np.array([5, 5, 5], np.int32)
    stepped = sgd_step(value, gradient, np.ones(1, np.float32), learning_rate=1.0, samples=1, step=1, seed=0, salt=0)
    assert stepped.tolist() == [5, 5 - (1 << 24), 5 + (1 << 24)]


# ---- losses on the device -----------------------------------------------------------------------------------------------

LOSSES = {
    "softmax-ce": ("moves", Learning("1", "softmax-ce")),  # ends in a softmax, which belongs to the loss
    "softmax-ce of logits": ("residual", Learning("many", "softmax-ce", momentum=True)),
    "mse of probabilities": ("moves", Learning("many", "mse")),
    "mse": ("shared", Learning("1", "mse", feedback=True)),
}


@pytest.mark.parametrize("case", LOSSES)
def test_losses_on_the_device(case: str, tmp_path: Path) -> None:
    name, learning = LOSSES[case]
    graph, images = int8_net(name)
    library, plan = build_twin(graph, layers(graph), tmp_path / "project", learning=learning)
    assert (plan.top != graph.outputs[0]) == (case == "softmax-ce")
    twin, trainer = library.create(), ReferenceTrainer(graph, plan)
    rng = np.random.default_rng(0)
    settings = {"momentum": 0.9, "clip": 0.1}
    first = trainer.params()
    for step in range(1, STEPS + 1):
        told = OptimizerStep(0.02, step, 5, **settings) if learning.interleaved else None
        image = images[rng.integers(len(images))][None]
        assert np.array_equal(trainer.forward(image)[0], twin.forward(image)[0])
        target = int(rng.integers(10))
        if learning.loss == "mse" and step % 2:
            target = rng.standard_normal(10).astype(np.float32)
        verdict = trainer.learn(target)
        assert twin.learn(target, told) == (float(verdict.loss), verdict.predicted), f"loss of step {step}"
        if told is None:
            twin.update(0.02, step, 5, **settings)
        trainer.update(0.02, step, 5, **settings)
        assert all(np.array_equal(value, twin.params()[n]) for n, value in trainer.params().items()), step
    assert any(not np.array_equal(value, first[n]) for n, value in trainer.params().items())
    trainer.forward(images[:1]), twin.forward(images[:1])
    with pytest.raises(DeviceError, match="argument"):
        twin.learn(10, OptimizerStep(0.02, STEPS + 1, 5))
    with pytest.raises(DataError, match="the label is 10, but the network has 10 classes"):
        trainer.learn(10)
    twin.learn(9, OptimizerStep(0.02, STEPS + 1, 5))  # the pass is still there


def test_a_loss_of_several_rows_is_refused() -> None:
    graph, _ = int8_net("conv_last")
    graph.outputs = [graph.nodes[1].output]
    with pytest.raises(UsageError, match="one row of logits"):
        differentiate(graph, {graph.nodes[1].inputs[1]: graph.nodes[1].name}, Learning(loss="softmax-ce"))


def test_functions_without_libm() -> None:
    for x in np.random.default_rng(0).exponential(20, 500).astype(np.float32):
        assert sqrt_f32(x) == pytest.approx(np.sqrt(np.float64(x)), rel=3e-7)
        assert log_f32(1 + x) == pytest.approx(np.log(np.float64(np.float32(1 + x))), rel=3e-7, abs=3e-7)
    for x in (1e-37, 1e-20, 1e20, 3e38):
        assert sqrt_f32(x) == pytest.approx(np.sqrt(x), rel=3e-7)
    assert sqrt_f32(0.0) == sqrt_f32(-1.0) == sqrt_f32(np.nan) == log_f32(1) == 0
