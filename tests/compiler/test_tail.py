# SPDX-License-Identifier: Apache-2.0
"""``--tail``: U-shaped splits. The generated C is the reference bit for bit, and with a middle that computes nothing it is
the uncut device bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tlc import bundle as bundles
from tlc.builder import Builder
from tlc.errors import DeviceError, TlcError
from tlc.frontends.onnx_writer import write_onnx
from tlc.learning import Learning
from tlc.ops.base import Activation
from tlc.passes.backward import differentiate
from tlc.pipeline import Options, compile_model
from tlc.twin import Twin, TwinLibrary

CE = Learning(loss="softmax-ce")
CLASSES = 4
rng = np.random.default_rng(7)


class Models:
    """A convolutional network, and the names of the tensors between its parts."""

    def __init__(self, root: Path) -> None:
        net = Builder("ushaped", (1, 8, 8, 1), seed=5)
        net.conv2d(4, 3, stride=2, activation=Activation.RELU)
        self.head = net.conv2d(6, 3, activation=Activation.RELU)
        self.flat = net.flatten()
        self.middle = net.dense(12, activation=Activation.RELU)
        net.dense(8, activation=Activation.RELU)
        self.logits = net.dense(CLASSES)
        net.softmax()
        self.path = root / "ushaped.onnx"
        self.path.write_bytes(write_onnx(net.graph()).SerializeToString())
        self.data = root / "x.npz"
        self.x = rng.random((32, 1, 8, 8), np.float32)
        np.savez(self.data, x=self.x)
        self.root = root

    def compile(self, name: str, **options: object) -> Path:
        """A project of it."""
        directory = self.root / name
        given = {"calib": self.data, "train": "full", "learning": CE, **options}
        compile_model(Options(self.path, "native", directory, **given))  # type: ignore[arg-type]
        return directory


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("tail"))


@pytest.fixture(scope="module")
def ushaped(models: Models) -> Path:
    return models.compile("ushaped", cut=models.head, tail=models.middle)


def test_what_is_where(models: Models, ushaped: Path) -> None:
    import onnx

    bundle = bundles.load(ushaped)
    assert bundle.tail is not None
    assert [edge.shape for edge in (*bundle.inputs, *bundle.outputs)] == [(1, 8, 8, 1), (1, 4, 4, 6)]
    assert bundle.tail.input.shape == (1, 12) and bundle.tail.output.shape == (1, CLASSES)
    host = onnx.load(str(ushaped / "host.onnx")).graph
    assert [node.op_type for node in host.node if node.op_type in ("Gemm", "MatMul", "Softmax")] in (
        ["Gemm"],
        ["MatMul"],
    )
    assert {learned.kind for learned in bundle.learned} == {"weight", "bias"} and len(bundle.learned) == 8


def test_the_c_is_the_reference(ushaped: Path, reference) -> None:  # type: ignore[no-untyped-def]
    twin, trainer = Twin(ushaped), reference
    bundle = twin.bundle
    for step in range(1, 6):
        for _ in range(2):
            x = rng.integers(-128, 128, (1, 8, 8, 1)).astype(np.int8)
            label = int(rng.integers(CLASSES))
            (z,) = twin.forward(x)
            np.testing.assert_array_equal(z, trainer.forward(x)[0])
            back = rng.integers(-128, 128, bundle.tail.input.shape).astype(np.int8)
            out, gradient, loss, predicted = twin.tail(back, label)
            wanted_out, wanted, verdict = trainer.learn_tail(back, label)
            np.testing.assert_array_equal(out, wanted_out)
            np.testing.assert_array_equal(gradient, wanted)
            assert np.abs(gradient).max() > 0
            assert (np.float32(loss), predicted) == (verdict.loss, verdict.predicted)
            down = rng.standard_normal(z.shape).astype(np.float32) * np.float32(0.1)
            twin.backward(down)
            trainer.backward(down)
        before = {name: value.copy() for name, value in twin.params().items()}
        twin.update(0.5, step, 3)
        trainer.update(0.5, step, 3)
        for name, value in trainer.params().items():
            np.testing.assert_array_equal(twin.params()[name], value)
            assert step > 1 or (before[name] != value).any(), name


@pytest.fixture
def reference(models: Models, ushaped: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """The reference of the same integers, as the pipeline makes them."""
    from tlc.passes.select import parse_spec
    from tlc.pipeline import fit
    from tlc.reference_train import ReferenceTrainer

    kept = {}
    original = fit._program

    def watched(device, *others):  # type: ignore[no-untyped-def]
        kept["device"] = device
        return original(device, *others)

    monkeypatch.setattr(fit, "_program", watched)
    models.compile("again", cut=models.head, tail=models.middle)
    device = kept["device"]
    return ReferenceTrainer(device, differentiate(device, parse_spec(device, "full"), CE))


def test_with_nothing_between_it_is_the_uncut_device(models: Models) -> None:
    """The middle is a flatten: whatever crosses comes back the same, so not a bit may differ."""
    whole = Twin(models.compile("whole", cut="none"))
    parts = Twin(models.compile("parts", cut=models.head, tail=models.flat))
    ends = parts.bundle.tail
    assert ends is not None
    for step in range(1, 5):
        x = rng.integers(-128, 128, (1, 8, 8, 1)).astype(np.int8)
        label = int(rng.integers(CLASSES))
        (z,) = parts.forward(x)
        real = parts.bundle.outputs[0].to_file(z)
        out, gradient, loss, predicted = parts.tail(ends.input.to_device(real.reshape(ends.input.file_shape)), label)
        (wanted,) = whole.forward(x)
        np.testing.assert_array_equal(out, wanted)
        assert whole.learn(label) == (loss, predicted)
        down = ends.input.origin.to_file(gradient).reshape(parts.bundle.outputs[0].file_shape)
        parts.backward(parts.bundle.outputs[0].origin.from_file(down, z.shape))
        for twin in (whole, parts):
            twin.update(0.5, step, 9)
        for (name, one), two in zip(whole.params().items(), parts.params().values(), strict=True):
            np.testing.assert_array_equal(one, two, name)


def test_calls_in_the_wrong_order(ushaped: Path) -> None:
    twin = TwinLibrary(ushaped).create()
    assert twin.bundle.tail is not None
    back = np.zeros(twin.bundle.tail.input.shape, np.int8)
    with pytest.raises(DeviceError, match="state"):
        twin.tail(back, 0)
    (z,) = twin.forward(np.zeros((1, 8, 8, 1), np.int8))
    with pytest.raises(DeviceError, match="state"):  # the tail has not been yet
        twin.backward(np.zeros(z.shape, np.float32))
    with pytest.raises(DeviceError, match="argument"):
        twin.tail(back, CLASSES)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tail": "nowhere"}, "no tensor 'nowhere'"),
        ({"cut": "logits"}, "does not come after the cut"),
        ({"tail": "head"}, "does not come after the cut"),
        ({"cut": "none"}, "the whole network is on the device"),
        ({"train": "none"}, "takes a loss and something that learns"),
        ({"learning": Learning()}, "takes a loss and something that learns"),
        ({"learning": Learning(batch="1", loss="softmax-ce")}, "no updates inside"),
        ({"train_arithmetic": "int"}, "as float32"),
        ({"train": "random"}, "not chosen by cost"),
    ],
)
def test_bad_input(models: Models, options: dict[str, object], words: str) -> None:
    names = {"cut": models.head, "tail": models.middle}
    named = {key: getattr(models, str(value), value) for key, value in options.items()}
    with pytest.raises(TlcError, match=words) as error:
        models.compile("refused", **{**names, **named})
    assert "\n" not in str(error.value)
    assert not (models.root / "refused").exists()


def test_more_than_one_tensor_to_the_tail(models: Models, tmp_path: Path) -> None:
    from tlc.ops import REGISTRY

    net = Builder("bypass", (1, 8), seed=1)
    first = net.dense(8, activation=Activation.RELU)
    second = net.dense(8, activation=Activation.RELU)
    third = net.dense(8, activation=Activation.RELU)
    net.node("add", [second, third], REGISTRY["add"].Attrs())
    net.dense(3)
    path = tmp_path / "bypass.onnx"
    path.write_bytes(write_onnx(net.graph()).SerializeToString())
    with pytest.raises(TlcError, match="needs more than that tensor"):
        compile_model(Options(path, "native", tmp_path / "out", cut=first, tail=third))


def test_a_frozen_one_infers_also_from_a_fused_tensor(models: Models) -> None:
    import onnx

    middle = next(
        node
        for node in onnx.load(str(models.path)).graph.node
        if node.op_type == "Relu" and node.output[0] == models.middle
    )
    frozen = models.compile("frozen", cut=models.head, tail=middle.input[0], train="none", learning=Learning())
    twin = Twin(frozen)
    assert twin.bundle.tail is not None
    twin.forward(np.zeros((1, 8, 8, 1), np.int8))
    out, *_ = twin.tail(np.zeros(twin.bundle.tail.input.shape, np.int8))
    assert out.shape == (1, CLASSES)
