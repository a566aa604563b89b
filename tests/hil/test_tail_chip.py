# SPDX-License-Identifier: Apache-2.0
"""U-shaped splits on emulated cores without a message buffer: what comes, comes into the arena. Each request is sent twice, and
the device ends where the twin does, bit for bit."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hil_support import Built, running

from tlc import boards, toolchain
from tlc import bundle as bundles
from tlc.builder import Builder
from tlc.frontends.onnx_writer import write_onnx
from tlc.learning import Learning
from tlc.ops.base import Activation
from tlc.pipeline import Options, compile_model
from tlc.twin import Twin
from tlc_host import messages as m

pytestmark = pytest.mark.hil


@pytest.mark.parametrize("name", ["qemu-m0", "qemu-rv32"])
def test_one_trajectory(name: str, tmp_path: Path) -> None:
    source, calibration, out = tmp_path / "model.onnx", tmp_path / "x.npy", tmp_path / "project"
    net = Builder("ushaped", (1, 8, 8, 1), seed=5)
    net.conv2d(4, 3, stride=2, activation=Activation.RELU)
    head = net.conv2d(6, 3, activation=Activation.RELU)
    net.flatten()
    middle = net.dense(12, activation=Activation.RELU)
    net.dense(8, activation=Activation.RELU)
    net.dense(4)
    net.softmax()
    onnx.save(write_onnx(net.graph()), source)
    np.save(calibration, np.random.default_rng(1).random((32, 1, 8, 8), np.float32))
    learning = Learning(loss="softmax-ce")
    compile_model(Options(source, name, out, cut=head, tail=middle, calib=calibration, train="full", learning=learning))
    board = boards.load(name)
    toolchain.pio_run(out)
    built = Built(board, out, bundles.load(out), toolchain.firmware_elf(out, board))
    rng = np.random.default_rng(3)
    passes = [
        (
            rng.integers(-128, 128, (1, 8, 8, 1)).astype(np.int8),
            rng.integers(-128, 128, (1, 12)).astype(np.int8),
            int(rng.integers(4)),
            rng.standard_normal((1, 4, 4, 6)).astype(np.float32) * np.float32(0.1),
        )
        for _ in range(8)
    ]
    twin = Twin(out)
    expected = []
    for number, (x, u, label, g) in enumerate(passes, 1):
        twin.forward(x)
        _, gradient, loss, _ = twin.tail(u, label)
        expected.append((gradient.tobytes(), loss))
        twin.backward(g)
        if number % 2 == 0:
            twin.update(0.5, number, 3)

    async def scenario() -> bytes:
        async with running(built) as (session, _):
            ask = session._asking.ask

            async def twice(parts: Any, answer: Any) -> Any:
                first = await ask(parts, answer)
                second = await ask(parts, answer) if answer in (m.Smashed, m.Gradient, m.Done) else first
                if answer is m.Gradient:
                    assert second.gradient == first.gradient and second.flags & m.GradientFlag.REPEATED
                return first

            session._asking.ask = twice
            for number, (x, u, label, g) in enumerate(passes, 1):
                reply = await session.forward(x, batch=number)
                told = await session.tail_learn(reply, u, label)
                assert (told.gradient, told.loss) == expected[number - 1]
                await session.backward(reply, g)
                if number % 2 == 0:
                    await session.step(number, 0.5, 3)
            return bytes(await session.get_params())

    raw = asyncio.run(scenario())
    for learned in built.bundle.learned:
        part = np.frombuffer(raw[learned.offset : learned.offset + learned.nbytes], learned.dtype)
        np.testing.assert_array_equal(part.reshape(learned.shape), twin.params()[learned.name])
