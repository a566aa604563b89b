# SPDX-License-Identifier: Apache-2.0
"""``--cuts``: one bundle with several cuts is, at each of them, the bundle of that cut alone, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tlc import bundle as bundles
from tlc.builder import Builder
from tlc.errors import TlcError, UsageError
from tlc.frontends.onnx_writer import write_onnx
from tlc.learning import Learning
from tlc.ops import REGISTRY
from tlc.ops.base import Activation
from tlc.pipeline import Options, compile_model
from tlc.twin import OptimizerStep, Twin, TwinLibrary

A, B, C, D = "conv2d_out/nchw", "add_out", "max_pool2d_out/nchw", "dense_out"
rng = np.random.default_rng(11)

LEARNING: dict[str, dict[str, object]] = {
    "sgd": {},
    "momentum": {"learning": Learning(momentum=True, feedback=True)},
    "integers": {"train_arithmetic": "int"},
    "at once": {"learning": Learning("1")},
    "at once in integers": {"learning": Learning("1"), "train_arithmetic": "int"},
    "slices": {"train": "*weight[1:4],*bias"},
}


class Models:
    """A residual network; its cut B lies behind the addition, so B's gradient has two readers."""

    def __init__(self, root: Path) -> None:
        net = Builder("several", (1, 8, 8, 2), seed=5)
        first = net.conv2d(6, 3, stride=2, activation=Activation.RELU)
        inner = net.conv2d(6, 3, activation=Activation.RELU)
        net.node("add", [first, inner], REGISTRY["add"].Attrs(activation=Activation.RELU))
        net.max_pool2d(2)
        net.flatten()
        net.dense(12, activation=Activation.RELU)
        net.dense(5)
        net.softmax()
        self.path = root / "several.onnx"
        self.path.write_bytes(write_onnx(net.graph()).SerializeToString())
        self.data = root / "x.npz"
        np.savez(self.data, x=rng.random((32, 8, 8, 2), np.float32))
        self.root = root

    def compile(self, name: str, **options: object) -> Path:
        """A project of it."""
        directory = self.root / name
        given = {"calib": self.data, "train": "full", **options}
        compile_model(Options(self.path, "native", directory, **given))  # type: ignore[arg-type]
        return directory


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("cuts"))


@pytest.fixture(scope="module")
def several(models: Models) -> Path:
    return models.compile("several", cuts=(C, A, D, B))


def single(models: Models, cut: str, how: str = "sgd") -> Path:
    """The project of a cut alone."""
    directory = models.root / f"{cut.split('/')[0]}-{how.replace(' ', '')}"
    return directory if directory.exists() else models.compile(directory.name, cut=cut, **LEARNING[how])


def test_what_is_there(several: Path) -> None:
    bundle = bundles.load(several)
    assert (bundle.cut, [entry.name for entry in bundle.cuts]) == (C, [A, B, C, D])
    assert [entry.learned for entry in bundle.cuts] == [2, 4, 4, 6] and len(bundle.learned) == 6
    assert bundle.host_file == "host.onnx" and bundle.at("dense_out").host_file == "host_dense_out.onnx"
    assert bundle.at(A).hash == bundle.hash and bundle.at(A).outputs[0].shape == (1, 4, 4, 6)
    weights = (several / "lib" / "tlc_model" / "src" / "tlc_weights.c").read_text()
    assert weights.count("u00_conv2d_out_linear_weight_initial[") == 1


@pytest.mark.parametrize("cut", [A, B, C, D])
def test_inference_is_that_of_the_cut_alone(models: Models, several: Path, cut: str) -> None:
    alone = single(models, cut)
    one, twin = Twin(alone), Twin(several)
    twin.select(cut)
    x = rng.integers(-128, 128, (16, 8, 8, 2)).astype(np.int8)
    np.testing.assert_array_equal(twin.forward(x)[0], one.forward(x)[0])
    here, there = twin.bundle, one.bundle
    assert here.outputs == there.outputs and here.inputs == there.inputs
    assert (here.layers, here.macs, here.host_sha256) == (there.layers, there.macs, there.host_sha256)
    assert (several / here.host_file).read_bytes() == (alone / "host.onnx").read_bytes()
    assert twin.bundle.certificate.arena_bytes >= one.bundle.certificate.arena_bytes


@pytest.mark.parametrize("how", LEARNING)
def test_training_is_that_of_the_cut_alone(models: Models, how: str) -> None:
    options = LEARNING[how]
    library = TwinLibrary(models.compile(f"learns{how.replace(' ', '')}", cuts=(A, B, C, D), **options), sanitize=True)
    at_once = library.bundle.learning is not None and library.bundle.learning.interleaved
    momentum, decay = (0.5, 0.1) if how == "momentum" else (0.0, 0.0)
    for cut in (A, B, D):
        one, twin = Twin(single(models, cut, how)), Twin(library)
        twin.select(cut)
        begun = {name: value.copy() for name, value in twin.params().items()}
        for number in range(1, 5):
            for _ in range(1 if at_once else 3):
                x = rng.integers(-128, 128, (1, 8, 8, 2)).astype(np.int8)
                np.testing.assert_array_equal(twin.forward(x)[0], one.forward(x)[0])
                g = (rng.standard_normal(one.bundle.outputs[0].shape) / 4).astype(np.float32)
                step = OptimizerStep(0.2, number, 9) if at_once else None
                one.backward(g, step)
                twin.backward(g, step)
            if not at_once:
                one.update(0.2, number, 9, momentum=momentum, weight_decay=decay)
                twin.update(0.2, number, 9, momentum=momentum, weight_decay=decay)
        found, wanted = twin.params(), one.params()
        assert len(wanted) == twin.bundle.cuts[twin.bundle.cut_index or 0].learned
        assert any((begun[name] != value).any() for name, value in wanted.items())
        for name, value in found.items():
            np.testing.assert_array_equal(value, wanted.get(name, begun[name]), err_msg=f"{cut}: {name}")


def test_going_from_cut_to_cut(several: Path) -> None:
    """What was learned at one is there at the others; gradients that no step took are not."""
    twin, other = Twin(several), Twin(several)
    x = rng.integers(-128, 128, (1, 8, 8, 2)).astype(np.int8)

    def learn(device: Twin, cut: str, number: int) -> None:
        device.select(cut)
        shape = device.forward(x)[0].shape
        device.backward(np.full(shape, 0.1, np.float32))
        device.update(0.5, number, 1)

    for number, cut in enumerate((D, A, C, B, D), 1):
        learn(other, cut, number)
        twin.select(D)
        twin.forward(x)
        twin.backward(np.full((1, 12), 100, np.float32))
        twin.select(A)
        learn(twin, cut, number)
    for name, value in twin.params().items():
        np.testing.assert_array_equal(value, other.params()[name])
    twin.reboot(2)
    assert twin.bundle.cut == D and twin.forward(x)[0].shape == (1, 12)  # where it was told to end


def test_where_nothing_learns_there_is_no_backward_pass(models: Models) -> None:
    directory = models.compile("last", cuts=(A, D), train="last")
    twin = Twin(directory)
    assert [entry.learned for entry in twin.bundle.cuts] == [0, 2] and not twin.bundle.trains
    twin.forward(np.zeros((1, 8, 8, 2), np.int8))
    with pytest.raises(TlcError, match="state"):
        twin.backward(np.zeros((1, 4, 4, 6), np.float32))
    assert twin.bundle.at(D).trains


def test_behind_strips(tmp_path: Path) -> None:
    """Layers that are computed a few rows at a time all lie before the first cut."""
    net = Builder("strips", (1, 16, 16, 2), seed=5)
    net.conv2d(8, 3, activation=Activation.RELU)
    net.conv2d(8, 3, stride=2, activation=Activation.RELU)
    net.conv2d(6, 3, stride=2, activation=Activation.RELU)
    net.flatten()
    net.dense(12, activation=Activation.RELU)
    net.dense(5)
    model = tmp_path / "strips.onnx"
    model.write_bytes(write_onnx(net.graph()).SerializeToString())
    cuts = ("conv2d_1_out/nchw", "conv2d_2_out/nchw", "dense_out")
    x = rng.integers(-128, 128, (4, 16, 16, 2)).astype(np.int8)
    compile_model(Options(model, "native", tmp_path / "several", cuts=cuts, train="last", patches="4"))
    source = (tmp_path / "several" / "lib" / "tlc_model" / "src" / "tlc_model.c").read_text()
    assert "forward_strips(ctx);\n    if (ctx->model->cut <= 0)" in source
    twin = Twin(tmp_path / "several")
    for number, cut in enumerate(cuts):
        compile_model(Options(model, "native", tmp_path / str(number), cut=cut, train="last"))
        twin.select(cut)
        np.testing.assert_array_equal(twin.forward(x)[0], Twin(tmp_path / str(number)).forward(x)[0])
        assert twin.bundle.layers == bundles.load(tmp_path / str(number)).layers


def test_same_files_same_bytes(models: Models, several: Path) -> None:
    again = models.compile("again", cuts=(C, A, D, B))
    for path in sorted(several.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (again / path.relative_to(several)).read_bytes(), path
    assert len(json.loads((several / "report.json").read_text())["cuts"]) == 4


def test_a_single_cut_knows_nothing_of_it(models: Models) -> None:
    directory = single(models, C)
    assert "cuts" not in json.loads((directory / "bundle.json").read_text())
    assert "cuts" not in json.loads((directory / "report.json").read_text())
    assert "cut" not in (directory / "lib" / "tlc_model" / "src" / "tlc_model.c").read_text().split("#include", 1)[1]
    assert bundles.load(directory, C).cut == C


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cuts": (A, "dens_out")}, r"--cuts: no tensor 'dens_out' to cut at; did you mean dense_out"),
        ({"cuts": (A, "conv2d_1_out/nchw")}, r"--cuts: a cut at 'conv2d_1_out/nchw' is not the only tensor"),
        ({"cuts": (A, B, A)}, r"--cuts: 'conv2d_out/nchw' is named twice"),
        ({"cuts": (A, "none")}, r"--cuts: 'none': with the whole network on the device there is no other cut"),
        ({"cuts": (A,)}, r"--cuts: only 'conv2d_out/nchw' is named; use --cut"),
        ({"cuts": (A, "input")}, r"--cuts: 'input' is an input of the model"),
        ({"cuts": (A, "")}, r"--cuts: no tensor '' to cut at"),
        ({"cuts": (A, B), "cut": A}, r"two answers to one question; leave --cut out"),
        ({"cuts": (A, B), "tail": D}, r"one cut only; give --cut with --tail"),
        (
            {"cuts": (A, B), "learning": Learning(scales="static"), "train_arithmetic": "int"},
            r"at one cut; leave --train-scales out",
        ),
        ({"cuts": (A, B), "aux_head": True}, r"one cut only; give --cut with --aux-head"),
        ({"cuts": (A, B), "learning": Learning(loss="mse")}, r"that is on the host; leave --loss to the host"),
    ],
)
def test_bad_cuts(models: Models, options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        models.compile("bad", **options)
    assert not (models.root / "bad").exists()


def test_no_such_cut_of_a_project(models: Models, several: Path) -> None:
    with pytest.raises(UsageError, match=r"--cut add_ou: the project has no such cut; did you mean add_out"):
        bundles.load(several, "add_ou")
    with pytest.raises(UsageError, match=r"--cut dense_out: the project has no such cut; known: conv2d_out/nchw"):
        bundles.load(single(models, A), "dense_out")
