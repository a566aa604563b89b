# SPDX-License-Identifier: Apache-2.0
"""The host segment trains: values, gradients, optimizers, both modes of batch normalization, export, state, the event loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from segment_models import CLASSES, MODELS, SHAPES, Maker

from tlc.errors import ConfigError, DataError, ModelError, UnsupportedOperator
from tlc_host.model.optimizers import Settings
from tlc_host.model.schedules import Schedule
from tlc_host.server_model import ServerModel
from tlc_host.server_worker import ServerWorker

pytest.importorskip("tensorflow", reason="the host segment trains in TensorFlow: pip install 'tlc[train]'")


def trainer(model: bytes, **settings: Any) -> Any:
    from tlc_host.model.trainer import Trainer

    return Trainer(model, Settings(**settings))


def data(name: str, count: int = 5, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, *SHAPES[name])).astype(np.float32), rng.integers(0, CLASSES[name], count)


def runtime(model: bytes, x: NDArray[np.float32]) -> NDArray[np.float32]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    rows = [session.run(None, {"z": row[np.newaxis]})[0].reshape(1, -1) for row in x]
    return np.concatenate(rows)


# ---- values and gradients ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_forward_and_what_is_exported_after_training(name: str) -> None:
    x, y = data(name)
    ours = trainer(MODELS[name](), optimizer="momentum")
    np.testing.assert_allclose(ours.forward(x), runtime(MODELS[name](), x), atol=2e-6)
    first = ours.gradient(x, y)
    for _ in range(8):
        ours.apply(0.05)
        last = ours.gradient(x, y)
    assert last.loss < first.loss
    exported = ours.module.onnx()
    assert np.abs(ours.forward(x) - runtime(MODELS[name](), x)).max() > 1e-3
    np.testing.assert_allclose(ours.forward(x), runtime(exported, x), atol=2e-6)
    before, after = (onnx.load_model_from_string(content).graph for content in (MODELS[name](), exported))
    assert before.node == after.node and [t.name for t in before.initializer] == [t.name for t in after.initializer]


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    """In float64, along a random direction: of the input, and of every parameter."""
    import tensorflow as tf

    from tlc_host.model.module import OnnxModule

    module = OnnxModule(MODELS[name](), dtype="float64")
    rng = np.random.default_rng(3)
    x = rng.standard_normal((1, *SHAPES[name]))
    weights = rng.standard_normal(CLASSES[name])
    output = module.outputs[0]

    def value(z: Any) -> Any:
        return tf.reduce_sum(tf.reshape(module({"z": z})[output], [-1]) * weights)

    with tf.GradientTape() as tape:
        z = tf.constant(x)
        tape.watch(z)
        loss = value(z)
    variables = list(module.parameters.values())
    *of_variables, of_input = tape.gradient(loss, [*variables, z])
    step = 1e-6
    direction = rng.standard_normal(x.shape)
    numeric = (value(tf.constant(x + step * direction)) - value(tf.constant(x - step * direction))) / (2 * step)
    np.testing.assert_allclose(np.sum(of_input * direction), numeric, rtol=1e-5, atol=1e-8)
    for (label, variable), gradient in zip(module.parameters.items(), of_variables, strict=True):
        kept, direction = variable.numpy(), rng.standard_normal(variable.shape)
        sides = []
        for sign in (1, -1):
            variable.assign(kept + sign * step * direction)
            sides.append(value(tf.constant(x)))
        variable.assign(kept)
        numeric = (sides[0] - sides[1]) / (2 * step)
        np.testing.assert_allclose(np.sum(gradient * direction), numeric, rtol=1e-5, atol=1e-8, err_msg=label)


def test_the_gradient_at_the_cut_is_float32_and_that_of_the_mean_loss() -> None:
    x, y = data("convolutions", 4)
    whole = trainer(MODELS["convolutions"]()).gradient(x, y)
    apart = [trainer(MODELS["convolutions"]()).gradient(x[i : i + 1], y[i : i + 1]).gradient for i in range(4)]
    assert whole.gradient.dtype == np.float32 and whole.gradient.shape == x.shape
    np.testing.assert_allclose(whole.gradient, np.concatenate(apart) / 4, rtol=1e-4, atol=1e-7)


def test_backward_from_a_gradient_of_the_logits_is_gradient() -> None:
    """What U-shaped splits and aggregated gradients are made of."""
    x, y = data("convolutions", 3)
    one, two = trainer(MODELS["convolutions"]()), trainer(MODELS["convolutions"]())
    wanted = one.gradient(x, y)
    logits = two.forward(x, logits=True)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(3), y] -= 1
    np.testing.assert_allclose(two.backward(x, p / 3, logits=True), wanted.gradient, rtol=1e-4, atol=1e-7)
    for name, value in one.gradients().items():
        np.testing.assert_allclose(two.gradients()[name], value, rtol=1e-3, atol=1e-6, err_msg=name)


def test_losses_of_values() -> None:
    m = Maker((3,), seed=5)
    m.dense(3, 2)
    m.op("Sigmoid")
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    target = np.array([[0, 1], [1, 1], [0, 0], [1, 0]], np.float32)
    ours = trainer(m.bytes())
    p = ours.forward(x)
    wanted = -np.mean(target * np.log(p) + (1 - target) * np.log(1 - p))
    assert ours.gradient(x, target, "binary_cross_entropy").loss == pytest.approx(wanted, rel=1e-5)
    assert ours.gradient(x, target, "mse").loss == pytest.approx(np.mean((p - target) ** 2), rel=1e-5)


def test_one_trace_a_batch_shape() -> None:
    ours = trainer(MODELS["convolutions"]())
    for count in (1, 4, 1, 4, 4):
        ours.gradient(*data("convolutions", count))
        ours.apply()
    assert ours.traces == 3  # two batch shapes, and the step


# ---- optimizers ----------------------------------------------------------------------------------------------------------


def textbook(optimizer: str, s: Settings, w: NDArray[Any], gradients: list[NDArray[Any]]) -> NDArray[Any]:
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(gradients, 1):
        if optimizer == "sgd":
            w = w - s.learning_rate * g
        elif optimizer == "momentum":
            v = s.momentum * v + g
            w = w - s.learning_rate * v
        else:
            m = s.beta1 * m + (1 - s.beta1) * g
            v = s.beta2 * v + (1 - s.beta2) * g**2
            decay = s.weight_decay * w if optimizer == "adamw" else 0
            step = m / (1 - s.beta1**t) / (np.sqrt(v / (1 - s.beta2**t)) + s.epsilon)
            w = w - s.learning_rate * (step + decay)
    return w


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adamw"])
def test_optimizers(optimizer: str) -> None:
    x, y = data("bound_to_one", 4)
    ours = trainer(MODELS["bound_to_one"](), optimizer=optimizer, learning_rate=0.02)
    start = {name: variable.numpy().astype(np.float64) for name, variable in ours.module.parameters.items()}
    seen: dict[str, list[NDArray[Any]]] = {name: [] for name in start}
    for _ in range(6):
        ours.gradient(x, y)
        for name, value in ours.gradients().items():
            seen[name].append(value.astype(np.float64))
        ours.apply()
    for name, variable in ours.module.parameters.items():
        wanted = textbook(optimizer, ours.settings, start[name], seen[name])
        np.testing.assert_allclose(variable.numpy(), wanted, rtol=1e-4, atol=1e-6, err_msg=name)


def test_clipping_is_by_the_norm_of_all_gradients() -> None:
    x, y = data("bound_to_one", 4)
    ours = trainer(MODELS["bound_to_one"](), learning_rate=1.0, clip_norm=0.05)
    before = ours.module.arrays()
    ours.gradient(x, y)
    gradients = ours.gradients()
    norm = np.sqrt(sum(np.sum(g.astype(np.float64) ** 2) for g in gradients.values()))
    assert norm > 0.05
    assert ours.apply() == pytest.approx(norm, rel=1e-5)
    for name, value in ours.module.arrays().items():
        np.testing.assert_allclose(before[name] - value, gradients[name] * 0.05 / norm, rtol=1e-3, atol=1e-7)


def test_schedules() -> None:
    assert [Schedule()(t) for t in (0, 5)] == [1.0, 1.0]
    assert [Schedule("step", every=2, factor=0.5)(t) for t in range(5)] == [1, 1, 0.5, 0.5, 0.25]
    cosine = Schedule("cosine", total=4, floor=0.1)
    np.testing.assert_allclose([cosine(t) for t in (0, 2, 4, 9)], [1, 0.55, 0.1, 0.1])
    np.testing.assert_allclose([Schedule("cosine", warmup=2, total=4)(t) for t in (0, 1, 2, 4)], [0.5, 1, 1, 0.5])
    x, y = data("bound_to_one", 2)
    ours = trainer(MODELS["bound_to_one"](), learning_rate=1.0, schedule=Schedule("step", every=1, factor=0.0))
    for _ in range(2):
        before = ours.module.arrays()
        ours.gradient(x, y)
        ours.apply()
    for name, value in ours.module.arrays().items():  # the second step's rate was 0
        np.testing.assert_array_equal(before[name], value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optimizer": "adma"}, "no optimizer 'adma'; did you mean adam"),
        ({"batch_norm": "train"}, "must be frozen or training, but is 'train'; did you mean training"),
        ({"learning_rate": -1.0}, "learning_rate: must be positive, but is -1.0"),
        ({"momentum": 1.0}, "momentum: must be at least 0 and below 1"),
        ({"clip_norm": float("nan")}, "clip_norm: must be 0 or positive"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Settings(**settings)


# ---- modes ---------------------------------------------------------------------------------------------------------------


def test_batch_norm_frozen_and_training() -> None:
    m = Maker((3, 4), seed=6)
    m.norm(3, momentum=0.8)
    model = m.bytes()
    x = (2 + 3 * np.random.default_rng(1).standard_normal((8, 3, 4))).astype(np.float32)
    frozen, training = trainer(model), trainer(model, batch_norm="training")
    statistics = {name: v.numpy() for name, v in frozen.module.statistics.items()}
    mean, variance = statistics.values()
    np.testing.assert_allclose(frozen.forward(x).reshape(8, -1), runtime(model, x), atol=1e-5)
    seen = training.forward(x)
    gamma, beta = (v.numpy()[None, :, None] for v in training.module.parameters.values())
    centred = (x - x.mean((0, 2), keepdims=True)) / np.sqrt(x.var((0, 2), keepdims=True) + 1e-5)
    np.testing.assert_allclose(seen, centred * gamma + beta, atol=1e-5)
    for each in (frozen, training):
        each.gradient(x, np.zeros((8, 12), np.float32), "mse")
        before = {name: v.numpy() for name, v in each.module.parameters.items()}
        each.apply(0.1)
        assert all(np.abs(v.numpy() - before[name]).max() > 1e-3 for name, v in each.module.parameters.items())
    for name, value in frozen.module.statistics.items():
        np.testing.assert_array_equal(value.numpy(), statistics[name])
    new_mean, new_variance = (v.numpy() for v in training.module.statistics.values())
    np.testing.assert_allclose(new_mean, 0.8 * mean + 0.2 * x.mean((0, 2)), rtol=1e-5)
    np.testing.assert_allclose(new_variance, 0.8 * variance + 0.2 * x.var((0, 2)), rtol=1e-5)


def test_dropout_drops_in_training_alone_and_repeats_from_its_seed() -> None:
    x, y = data("attention", 4)
    model = MODELS["attention"]()
    runs = [trainer(model, batch_norm="training", seed=seed) for seed in (1, 1, 2)]
    losses = [[one.gradient(x, y).loss for _ in range(3)] for one in runs]
    assert losses[0] == losses[1] != losses[2]
    assert len(set(losses[0])) == 3  # another mask each pass
    still = trainer(model)
    assert still.gradient(x, y).loss == still.gradient(x, y).loss


# ---- what is refused -----------------------------------------------------------------------------------------------------


def test_an_operator_that_cannot_be_trained_is_refused_by_name() -> None:
    m = Maker((4,))
    m.dense(4, 4)
    m.op("TopK", m.last, m.array(np.array([2])), outputs=2)
    with pytest.raises(UnsupportedOperator, match=r"node 'TopK1' of host.onnx: TopK cannot be trained; cut behind it"):
        trainer(m.bytes())


def test_what_has_no_gradient_is_refused_by_name() -> None:
    m = Maker((4,))
    m.dense(4, 4)
    m.op("Round")
    m.dense(4, 2)
    with pytest.raises(UnsupportedOperator, match=r"node 'Round1' of host.onnx: Round has no gradient"):
        trainer(m.bytes())


def test_an_attribute_that_cannot_be_trained_is_refused_before_the_first_step() -> None:
    m = Maker((2, 4, 4))
    m.op("Resize", m.last, "", m.array(np.array([1, 1, 0.5, 0.5], np.float32)), antialias=1, mode="linear")
    with pytest.raises(UnsupportedOperator, match=r"node 'Resize0' of host.onnx: Resize with antialias=1 cannot be"):
        trainer(m.bytes(18))


def test_batch_statistics_of_one_sample_are_refused() -> None:
    m = Maker((3, 4), batch=1)
    m.norm(3)
    with pytest.raises(ModelError, match="one sample at a time, which has no batch statistics"):
        trainer(m.bytes(), batch_norm="training")


# ---- the server model ----------------------------------------------------------------------------------------------------


def steps(model: ServerModel, count: int, seed: int) -> list[float]:
    rng = np.random.default_rng(seed)
    shape = model.bundle.outputs[0].shape[1:]
    losses = []
    for _ in range(count):
        smashed = rng.integers(-128, 128, (6, *shape)).astype(np.int8)
        losses.append(model.gradient(smashed, rng.integers(0, model.classes, 6)).loss)
        model.apply()
    return losses


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_a_saved_state_goes_on_bit_for_bit(project: Path, optimizer: str) -> None:
    settings = Settings(optimizer=optimizer, learning_rate=0.01, schedule=Schedule("cosine", total=12), clip_norm=1.0)
    straight = ServerModel(project, settings=settings)
    steps(straight, 4, seed=1)
    kept = straight.save()
    tail = steps(straight, 4, seed=2)
    resumed = ServerModel(project, settings=settings)
    resumed.load(kept)
    assert resumed.save() == kept
    assert steps(resumed, 4, seed=2) == tail
    assert resumed.save() == straight.save()
    assert resumed.onnx() == straight.onnx()


def test_a_state_between_gradient_and_step_is_complete(project: Path) -> None:
    one, two = ServerModel(project), ServerModel(project)
    smashed = np.random.default_rng(0).integers(-128, 128, (3, *one.bundle.outputs[0].shape[1:])).astype(np.int8)
    one.gradient(smashed, np.array([0, 1, 2]))
    two.load(one.save())
    assert one.apply() == two.apply()
    assert one.save() == two.save()


def test_states_that_do_not_fit_are_refused(project: Path) -> None:
    model = ServerModel(project)
    steps(model, 1, seed=0)
    kept = model.save()
    with pytest.raises(DataError, match="damaged"):
        ServerModel(project).load(kept[: len(kept) // 2])
    with pytest.raises(DataError, match=r"lacks 'm/.*it is of another model or optimizer than adam"):
        ServerModel(project, settings=Settings(optimizer="adam")).load(kept)
    with pytest.raises(DataError, match="of seed 0, not 7"):
        ServerModel(project, settings=Settings(seed=7)).load(kept)
    before = model.weights()
    with pytest.raises(ModelError, match="must be of shape"):
        model.set_weights({next(iter(before)): np.zeros((1, 1))})
    with pytest.raises(ModelError, match="no parameter 'nobody'"):
        model.set_weights({"nobody": np.zeros(1)})


def test_inference_follows_the_weights(project: Path) -> None:
    model = ServerModel(project)
    smashed = np.random.default_rng(0).integers(-128, 128, (3, *model.bundle.outputs[0].shape[1:])).astype(np.int8)
    first = model.infer(smashed)[0]
    np.testing.assert_allclose(model.forward(smashed), first, atol=1e-6)
    weights = model.weights()
    steps(model, 3, seed=1)
    assert np.abs(model.infer(smashed)[0] - first).max() > 1e-4
    np.testing.assert_allclose(model.forward(smashed), model.infer(smashed)[0], atol=1e-6)
    model.set_weights(weights)
    np.testing.assert_array_equal(model.infer(smashed)[0], first)


def test_the_event_loop_goes_on_while_the_segment_works(project: Path) -> None:
    """The worker waits for what only the loop can do, so a blocked loop would hang; and calls keep their order."""

    async def both() -> tuple[list[int], float]:
        gate, order = threading.Event(), []
        async with ServerWorker(ServerModel(project)) as server:

            def first() -> None:
                assert gate.wait(20)
                order.append(1)

            waiting = asyncio.create_task(server.call(first))
            shape = server.model.bundle.outputs[0].shape[1:]
            step = asyncio.create_task(server.gradient(np.zeros((2, *shape), np.int8), np.array([0, 1])))
            last = asyncio.create_task(server.call(order.append, 2))
            await asyncio.sleep(0)
            assert not waiting.done()
            gate.set()
            result = await step
            await last
            await server.apply(0.1)
        return order, result.loss

    order, loss = asyncio.run(asyncio.wait_for(both(), 60))
    assert order == [1, 2] and loss > 0


def test_tensorflow_is_not_imported_before_it_trains() -> None:
    code = "import sys, tlc_host.server_model, tlc_host.server_worker, tlc_host.model; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
