# SPDX-License-Identifier: Apache-2.0
"""First layers in strips of rows on an emulated core: outputs and learned tensors are those of the NumPy-checked twin whose
layers are whole, and the ticks of a layer are those of all its strips."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from hil_support import Built, running

from tlc import boards, toolchain
from tlc import bundle as bundles
from tlc.builder import Builder
from tlc.frontends.onnx_writer import write_onnx
from tlc.ops import REGISTRY
from tlc.ops.base import Activation
from tlc.pipeline import Options, compile_model
from tlc.size import measure
from tlc.twin import Twin

pytestmark = pytest.mark.hil

RELU = Activation.RELU


def test_strips_are_the_whole(tmp_path: Path) -> None:
    source, calibration, out = tmp_path / "model.onnx", tmp_path / "x.npy", tmp_path / "project"
    net = Builder("strips", (1, 21, 16, 3), seed=2)
    net.conv2d(8, 3, activation=RELU)
    skip = net.last
    net.depthwise_conv2d(5, activation=RELU)
    branch = net.conv2d(8, 1)
    net.node("add", [skip, branch], REGISTRY["add"].Attrs(activation=RELU))
    net.depthwise_conv2d(3, stride=2)
    net.conv2d(12, 1, activation=RELU)
    net.max_pool2d(2)
    net.conv2d(8, 3)
    net.mean()
    net.dense(4)
    onnx.save(write_onnx(net.graph()), source)
    np.save(calibration, np.random.default_rng(1).standard_normal((32, 21, 16, 3)).astype(np.float32))
    given = Options(source, "qemu-m4", out, cut="none", calib=calibration, train="last", patches="4")
    made = compile_model(given)
    assert made.estimate.strips > 1
    toolchain.pio_run(out)
    board = boards.load("qemu-m4")
    built = Built(board, out, bundles.load(out), toolchain.firmware_elf(out, board))
    assert measure(out).fits
    compile_model(dataclasses.replace(given, board="native", out=tmp_path / "whole", patches="none"))
    whole = Twin(tmp_path / "whole")
    assert whole.bundle.certificate.arena_bytes > 1.2 * made.bundle.certificate.arena_bytes
    inputs = built.inputs(6)
    rng = np.random.default_rng(3)
    gradients = [rng.integers(-127, 128, 4, np.int8) for _ in inputs]

    async def scenario() -> tuple[list[np.ndarray], np.ndarray, bytes]:
        replies = []
        async with running(built) as (session, _):
            for number, (x, gradient) in enumerate(zip(inputs, gradients, strict=True), 1):
                reply = await session.forward(x, step=number)
                replies.append(reply.outputs[0])
                layers = await session.layers()
                await session.backward(reply, gradient, scale=0.01, step=number)
                await session.step(number, 0.1, 7)
            return replies, layers, await session.get_params()

    replies, layers, raw = asyncio.run(scenario())
    for number, (x, gradient, reply) in enumerate(zip(inputs, gradients, replies, strict=True), 1):
        (expected,) = whole.forward(x[None])
        np.testing.assert_array_equal(np.ravel(reply), expected.ravel())
        whole.backward(np.float32(0.01) * gradient.astype(np.float32).reshape(expected.shape))
        whole.update(0.1, number, 7)
    for name, value in whole.params().items():
        entry = next(entry for entry in built.bundle.learned if entry.name == name)
        found = np.frombuffer(raw, value.dtype, entry.elements, entry.offset)
        np.testing.assert_array_equal(found, value.ravel(), err_msg=name)
    first_macs = 21 * 16 * 8 * 27
    assert layers[0] > first_macs  # of all strips: an instruction or more for each of its multiplications
