# SPDX-License-Identifier: Apache-2.0
"""A hundred steps in integers on emulated cores of four kinds: the device ends where the twin does, bit for bit, and that is
where the NumPy reference does (``tests/compiler/test_training_step_int.py``)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from hil_support import Built, running
from numpy.typing import NDArray

from tlc import boards, toolchain
from tlc import bundle as bundles
from tlc.builder import Builder
from tlc.frontends.onnx_writer import write_onnx
from tlc.graph import Graph
from tlc.learning import Learning
from tlc.ops.base import Activation
from tlc.pipeline import Options, compile_model
from tlc.twin import OptimizerStep, Twin

pytestmark = pytest.mark.hil

STEPS, RATE, SEED, MOMENTUM = 100, 0.05, 11, 0.75
WAYS = {
    "plain": Learning(arithmetic="int"),
    "static": Learning("1", momentum=True, feedback=True, arithmetic="int", scales="static"),
}


def model() -> Graph:
    """Every layer with weights learns; channels enough for the blocks of four and eight, and some over."""
    net = Builder("integers", (1, 8, 8, 1), seed=3)
    net.conv2d(9, 3, stride=2, activation=Activation.RELU)
    net.depthwise_conv2d(3, activation=Activation.RELU6)
    net.conv2d(14, 1, activation=Activation.RELU)
    net.conv2d(5, 3)
    net.mean()
    net.dense(4)
    net.softmax()
    return net.graph()


def build(name: str, directory: Path, learning: Learning) -> Built:
    """The firmware of the first part, all of which learns."""
    source, calibration, out = directory / "model.onnx", directory / "samples.npz", directory / "project"
    onnx.save(write_onnx(model()), source)
    rng = np.random.default_rng(1)
    np.savez(calibration, x=rng.standard_normal((64, 8, 8, 1)).astype(np.float32), y=rng.integers(0, 4, 64))
    cut, how = "conv2d_2_out", {"learning": learning, "train_arithmetic": "int"}
    compile_model(Options(source, name, out, cut=cut, calib=calibration, train="full", **how))
    board = boards.load(name)
    toolchain.pio_run(out)
    return Built(board, out, bundles.load(out), toolchain.firmware_elf(out, board))


def samples(built: Built) -> Iterator[tuple[NDArray[np.int8], NDArray[np.int8], np.float32]]:
    """Seeded inputs, and gradients at the cut as int8 with a scale."""
    rng = np.random.default_rng(5)
    elements = int(np.prod(built.bundle.outputs[0].shape))
    for x in built.inputs(STEPS, seed=6):
        yield x, rng.integers(-127, 128, elements, np.int8), np.float32(rng.uniform(1e-4, 1e-3))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("board", ["qemu-m0", "qemu-m4", "qemu-rv32", "qemu-xtensa"])
def test_one_trajectory(board: str, way: str, tmp_path: Path) -> None:
    learning = WAYS[way]
    built = build(board, tmp_path, learning)
    assert built.bundle.learning == learning
    momentum = MOMENTUM * learning.momentum

    async def scenario() -> bytes:
        async with running(built) as (session, _):
            for number, (x, gradient, scale) in enumerate(samples(built), 1):
                reply = await session.forward(x, step=number)
                if learning.interleaved:
                    await session.train(reply, gradient, number, RATE, SEED, scale=float(scale), momentum=momentum)
                else:
                    await session.backward(reply, gradient, scale=float(scale), step=number)
                    await session.step(number, RATE, SEED)
            return await session.get_params()

    raw = asyncio.run(scenario())
    twin = Twin(built.directory)
    first = twin.params()
    for number, (x, gradient, scale) in enumerate(samples(built), 1):
        twin.forward(x[None])
        told = OptimizerStep(RATE, number, SEED, momentum)
        twin.backward(scale * gradient.astype(np.float32), told if learning.interleaved else None)
        if not learning.interleaved:
            twin.update(RATE, number, SEED)
    entries = {entry.name: entry for entry in built.bundle.learned}
    for name, expected in twin.params().items():
        entry = entries[name]
        found = np.frombuffer(raw, expected.dtype, entry.elements, entry.offset)
        np.testing.assert_array_equal(found, expected.ravel(), err_msg=name)
        assert not np.array_equal(expected, first[name]), f"{name} did not learn"
