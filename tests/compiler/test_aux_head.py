# SPDX-License-Identifier: Apache-2.0
"""``--aux-head``: a classifier at the cut. The generated C is the reference bit for bit, whatever its gradient comes from; and
without the head's own loss the device is the one without a head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tlc import bundle as bundles
from tlc.builder import Builder
from tlc.errors import DeviceError, TlcError
from tlc.frontends.onnx_writer import write_onnx
from tlc.learning import Learning
from tlc.ops.base import Activation
from tlc.passes.aux_head import fit
from tlc.passes.backward import differentiate
from tlc.passes.select import parse_spec
from tlc.pipeline import Options, compile_model
from tlc.reference import run_int8
from tlc.reference_train_int import reference_trainer
from tlc.twin import OptimizerStep, Twin

CLASSES = 4
CE = Learning(loss="softmax-ce")


class Models:
    """A convolutional network for four kinds of stripes, and the tensors where it may be cut."""

    def __init__(self, root: Path) -> None:
        net = Builder("aux", (1, 8, 8, 1), seed=5)
        net.conv2d(4, 3, stride=2, activation=Activation.RELU)
        self.spatial = net.conv2d(6, 3, activation=Activation.RELU)
        net.flatten()
        self.flat = net.dense(12, activation=Activation.RELU)
        net.dense(CLASSES)
        net.softmax()
        self.path = root / "aux.onnx"
        self.path.write_bytes(write_onnx(net.graph()).SerializeToString())
        rng = np.random.default_rng(7)
        self.y = rng.integers(0, CLASSES, 256)
        self.x = rng.random((256, 1, 8, 8), np.float32) * 0.5
        row, column = np.indices((8, 8))
        patterns = np.stack([row % 2, column % 2, (row + column) % 2, np.full((8, 8), 0.5)])
        self.x += 0.5 * patterns[self.y][:, np.newaxis].astype(np.float32)
        np.savez(root / "xy.npz", x=self.x, y=self.y)
        np.save(root / "x.npy", self.x)
        np.savez(root / "wrong.npz", x=self.x, y=self.y + 1)
        self.root = root

    def compile(self, name: str, **options: Any) -> Path:
        """A project of it."""
        directory = self.root / name
        given: dict[str, Any] = {"calib": self.root / "xy.npz", "cut": self.flat, "train": "full", "aux_head": True}
        compile_model(Options(self.path, "native", directory, **{**given, **options}))
        return directory


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("aux"))


def compiled(models: Models, monkeypatch: pytest.MonkeyPatch, name: str, **options: Any) -> tuple[Path, Any]:
    """A project, and the integer graph it was made of."""
    from tlc.pipeline import fit

    kept = {}
    original = fit._program

    def watched(device: Any, *others: Any) -> Any:
        kept["device"] = device
        return original(device, *others)

    monkeypatch.setattr(fit, "_program", watched)
    return models.compile(name, **options), kept["device"]


@pytest.mark.parametrize("arithmetic", ["float", "int"])
@pytest.mark.parametrize("cut", ["spatial", "flat"])
def test_the_c_is_the_reference(models: Models, monkeypatch: pytest.MonkeyPatch, cut: str, arithmetic: Any) -> None:
    """Samples of all kinds in turn: the head's own loss alone, with the host's gradient, and the host's alone."""
    named = getattr(models, cut)
    project, graph = compiled(models, monkeypatch, f"{cut}-{arithmetic}", cut=named, train_arithmetic=arithmetic)
    learning = Learning(loss="softmax-ce", arithmetic=arithmetic)
    trainer = reference_trainer(graph, differentiate(graph, parse_spec(graph, "full"), learning))
    twin, rng = Twin(project), np.random.default_rng(1)
    head, moved = graph.outputs[-1], set()
    for step in range(1, 7):
        for kind in ("own", "both", "host") if step > 3 else (("own", "both", "host")[step - 1],):
            x = rng.integers(-128, 128, (1, 8, 8, 1)).astype(np.int8)
            label = int(rng.integers(CLASSES))
            (z,) = twin.forward(x)
            wanted = trainer.forward(x)
            np.testing.assert_array_equal(z, wanted[0])
            np.testing.assert_array_equal(twin.head(), wanted[1])
            assert (wanted[1] == run_int8(trainer.graph, {trainer.graph.inputs[0]: x})[head]).all()
            down = rng.standard_normal(z.shape).astype(np.float32) * np.float32(0.1)
            if kind == "host":
                twin.backward(down)
                trainer.backward(down)
                continue
            loss, predicted = twin.learn(label, gradient=down if kind == "both" else None)
            verdict = trainer.learn(label, down if kind == "both" else None)
            assert (np.float32(loss), predicted) == (verdict.loss, verdict.predicted)
        before = {name: value.copy() for name, value in twin.params().items()}
        twin.update(1.0, step, 3)
        trainer.update(1.0, step, 3)
        for name, value in trainer.params().items():
            np.testing.assert_array_equal(twin.params()[name], value, name)
            if (before[name] != value).any():
                moved.add(name)
                assert step != 3 or not name.startswith("exit"), name  # the host alone teaches the head nothing
    assert moved == set(trainer.params())


def test_interleaved_updates_too(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    learning = Learning(batch="1")
    project, graph = compiled(models, monkeypatch, "at-once", learning=learning, train_arithmetic="float")
    plan = differentiate(graph, parse_spec(graph, "full"), Learning(batch="1", loss="softmax-ce"))
    twin, trainer, rng = Twin(project), reference_trainer(graph, plan), np.random.default_rng(2)
    for step in range(1, 6):
        x = rng.integers(-128, 128, (1, 8, 8, 1)).astype(np.int8)
        np.testing.assert_array_equal(twin.forward(x)[0], trainer.forward(x)[0])
        down = rng.standard_normal((1, 12)).astype(np.float32) * np.float32(0.1) if step % 2 else None
        twin.learn(step % CLASSES, OptimizerStep(0.3, step, 3, 0, 0, 0, 0), down)
        trainer.learn(step % CLASSES, down)
        trainer.update(0.3, step, 3)
        for name, value in trainer.params().items():
            np.testing.assert_array_equal(twin.params()[name], value, name)


def test_without_its_loss_it_is_the_device_without_a_head(models: Models) -> None:
    with_head = Twin(models.compile("with", train_arithmetic="float"))
    without = Twin(models.compile("without", aux_head=False, train_arithmetic="float"))
    rng = np.random.default_rng(3)
    for step in range(1, 4):
        x = rng.integers(-128, 128, (1, 8, 8, 1)).astype(np.int8)
        np.testing.assert_array_equal(with_head.forward(x)[0], without.forward(x)[0])
        down = rng.standard_normal((1, 12)).astype(np.float32)
        for twin in (with_head, without):
            twin.backward(down)
            twin.update(0.5, step, 9)
        for name, value in without.params().items():
            np.testing.assert_array_equal(with_head.params()[name], value, name)


@pytest.mark.parametrize(("cut", "least"), [("spatial", 0.9), ("flat", 0.9)])
def test_it_is_fitted_to_labels_and_learns(models: Models, cut: str, least: float) -> None:
    """Fitted it knows most; without labels next to nothing, until it learns by its own loss."""

    def right(twin: Twin) -> float:
        edge = twin.bundle.inputs[0]
        found = []
        for x in edge.to_device(models.x):
            twin.forward(x[np.newaxis])
            found.append(int(twin.head().argmax()))
        return float(np.mean(np.array(found) == models.y))

    named = getattr(models, cut)
    fitted = Twin(models.compile(f"fitted-{cut}", cut=named, train="none"))
    assert right(fitted) > least
    fresh = Twin(models.compile(f"fresh-{cut}", cut=named, calib=models.root / "x.npy"))
    before, rng = right(fresh), np.random.default_rng(4)
    inputs = fresh.bundle.inputs[0].to_device(models.x)
    losses = []
    for step in range(1, 401):
        total = 0.0
        for index in rng.integers(0, 256, 8):
            fresh.forward(inputs[index : index + 1])
            total += fresh.learn(int(models.y[index]))[0]
        fresh.update(0.1, step, 1)
        losses.append(total / 8)
    assert np.mean(losses[-20:]) < 0.7 * np.mean(losses[:5])
    assert right(fresh) > max(0.75, before + 0.2)


def test_the_fit_finds_the_optimum() -> None:
    """The gradient of what is minimized is about zero there."""
    rng = np.random.default_rng(5)
    x = 5 + rng.standard_normal((300, 6)) * np.array([1, 3, 0.5, 2, 1, 0])
    y = (x[:, :3] - 5 + 0.3 * rng.standard_normal((300, 3))).argmax(1)
    weight, bias = fit(x, y, 3)
    scores = x @ weight.T + bias
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    spread = np.sqrt(x.var(0).mean())
    slope = (p - np.eye(3)[y]).T @ ((x - x.mean(0)) / spread) / 300 + 1e-3 * weight * spread
    assert np.abs(slope).max() < 1e-3 and (scores.argmax(1) == y).mean() > 0.85


def test_an_integer_model_gets_the_same_device(models: Models, tmp_path: Path) -> None:
    """From ``device.tflite`` of the whole network: what is int8 already stays as it is, the head comes to it."""
    whole = models.compile("whole", cut="none", aux_head=False, train="none")
    source = tmp_path / "whole.tflite"
    source.write_bytes((whole / "device.tflite").read_bytes())
    from tlc.frontends import read_model
    from tlc.passes.canonicalize import canonicalize
    from tlc.passes.split import legal_cuts

    cut = legal_cuts(canonicalize(read_model(source)))[1].file_name
    with_head, plain = tmp_path / "with", tmp_path / "plain"
    np.savez(tmp_path / "xy.npz", x=models.x.transpose(0, 2, 3, 1), y=models.y)
    for out, head in ((with_head, True), (plain, False)):
        compile_model(Options(source, "native", out, cut=cut, calib=tmp_path / "xy.npz", aux_head=head))
    x = np.random.default_rng(6).integers(-128, 128, (9, 8, 8, 1)).astype(np.int8)
    np.testing.assert_array_equal(Twin(with_head).forward(x)[0], Twin(plain).forward(x)[0])
    assert Twin(with_head).bundle.aux is not None


def test_what_is_where(models: Models) -> None:
    project = models.compile("where", cut=models.spatial)
    bundle = bundles.load(project)
    assert bundle.aux is not None and len(bundle.outputs) == 1
    assert bundle.aux.file_shape == (1, CLASSES) and (bundle.aux.scale, bundle.aux.zero_point) == (1 / 256, -128)
    assert bundle.learning is not None and bundle.learning.loss == "softmax-ce"
    assert [learned.name for learned in bundle.learned][-2:] == ["exit.weight", "exit.bias"]
    head = bundles.load(models.compile("head", cut=models.spatial, train="last"))
    assert [learned.name for learned in head.learned] == ["exit.weight", "exit.bias"]
    plain = models.compile("plain", aux_head=False)
    with pytest.raises(DeviceError, match="state"):
        Twin(plain).head()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cut": "none"}, "there is no cut for a head"),
        ({"tail": "flat", "cut": "spatial", "learning": CE}, "no use for a head"),
        ({"learning": Learning(loss="mse")}, "is softmax cross-entropy"),
        ({"train": "random"}, "not chosen by cost"),
        ({"train_ram": 1000}, "not chosen by cost"),
        ({"calib": "wrong.npz"}, "labels from 1 to 4"),
    ],
)
def test_bad_input(models: Models, options: dict[str, Any], words: str) -> None:
    named = {key: getattr(models, str(value), value) for key, value in options.items()}
    if "calib" in named:
        named["calib"] = models.root / named["calib"]
    with pytest.raises(TlcError, match=words) as error:
        models.compile("refused", **named)
    assert "\n" not in str(error.value)
    assert not (models.root / "refused").exists()
