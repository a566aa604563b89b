# SPDX-License-Identifier: Apache-2.0
"""``tlc compile --train-scales static``: what it wants, and what comes of it. The arithmetic: test_training_step_int.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from command_line import refused, succeeds
from small_models import save, small
from tlc.builder import Builder
from tlc.learn.cut_gradient import gradients_at
from tlc.ops.base import Activation


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A model of five classes, samples, and the same with classes."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 8, 8, 1)).astype(np.float32)
    save(small(), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=x)
    np.savez(tmp_path / "xy.npz", x=x, y=rng.integers(0, 5, 40))
    np.savez(tmp_path / "wrong.npz", x=x, y=np.full(40, 5))
    return tmp_path


@pytest.mark.parametrize(
    "end", [("--cut", "conv2d_1_out"), ("--cut", "none", "--loss", "softmax-ce")], ids=["cut", "loss"]
)
def test_shifts_are_constants(place: Path, end: tuple[str, ...]) -> None:
    out = place / "out"
    common = (place / "m.onnx", "--board", "qemu-m0", "--train", "full", "--calib", place / "xy.npz", *end)
    succeeds("compile", *common, "--train-scales", "static", "--train-batch", "1", "--out", out)
    text = (out / "lib/tlc_model/src/tlc_model.c").read_text()
    assert "_static_grad_s16" in text and "_weight_grad_s16" not in text
    first = [path.read_bytes() for path in sorted(out.rglob("tlc_model.c"))]
    succeeds("compile", *common, "--train-scales", "static", "--train-batch", "1", "--out", out)
    assert [path.read_bytes() for path in sorted(out.rglob("tlc_model.c"))] == first
    succeeds("compile", *common, "--out", place / "dynamic")
    assert "_static_" not in (place / "dynamic/lib/tlc_model/src/tlc_model.c").read_text()


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (
            ("--board", "qemu-m4", "--calib", "xy.npz"),
            2,
            ("--train-scales static", "float32", "--train-arithmetic int"),
        ),
        (("--board", "qemu-m0"), 1, ("--train-scales static", "labelled samples", "--calib")),
        (("--board", "qemu-m0", "--calib", "x.npz"), 1, ("x.npz", "y")),
        (("--board", "qemu-m0", "--calib", "wrong.npz"), 1, ("label 5 is no class", "5")),
        (
            ("--board", "qemu-m0", "--calib", "xy.npz", "--train", "none"),
            2,
            ("nothing learns", "--train-scales static"),
        ),
    ],
    ids=["float", "no samples", "no labels", "no class", "nothing learns"],
)
def test_bad_input(place: Path, options: tuple[str, ...], code: int, says: tuple[str, ...]) -> None:
    given = [place / option if option.endswith(".npz") else option for option in options]
    learns = () if "--train" in options else ("--train", "last")
    refused(
        place, code, "compile", place / "m.onnx", "--cut", "conv2d_1_out", "--train-scales", "static", *learns, *given,
        "--out", place / "out", says=says,
    )  # fmt: skip


def test_the_gradient_at_the_cut() -> None:
    """Of a dense layer and a softmax behind it: (p - one-hot) back through the weights; of the softmax itself -1 / p."""
    net = Builder("behind", (1, 6), seed=1)
    net.dense(4, activation=Activation.RELU)
    net.dense(3)
    net.softmax()
    graph = net.graph()
    rng = np.random.default_rng(2)
    x, labels = rng.standard_normal((5, 6)).astype(np.float32), rng.integers(0, 3, 5)
    first, second = (node for node in graph.nodes if node.op == "dense")
    w, b = (graph.data(name).astype(np.float64) for name in second.inputs[1:])
    v, c = (graph.data(name).astype(np.float64) for name in first.inputs[1:])
    z = np.maximum(x @ v.T + c, 0)
    p = np.exp(z @ w.T + b)
    p /= p.sum(axis=1, keepdims=True)
    wanted = (p - np.eye(3)[labels]) @ w
    np.testing.assert_allclose(gradients_at(graph, first.output, {"input": x}, labels), wanted, rtol=1e-3, atol=1e-5)
    ends = gradients_at(graph, graph.outputs[0], {"input": x}, labels)
    np.testing.assert_allclose(ends, -np.eye(3)[labels] / p[np.arange(5), labels][:, None], rtol=1e-3, atol=1e-5)
