# SPDX-License-Identifier: Apache-2.0
"""A head at the cut on an emulated core without a message buffer and an FPU: early answers and lessons of every kind, each request
sent twice, end where the twin does, bit for bit."""

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
from tlc.ops.base import Activation
from tlc.pipeline import Options, compile_model
from tlc.twin import Twin
from tlc_host import messages as m
from tlc_host.exits import is_sure

pytestmark = pytest.mark.hil


def test_one_trajectory(tmp_path: Path) -> None:
    name = "qemu-m0"
    source, calibration, out = tmp_path / "model.onnx", tmp_path / "xy.npz", tmp_path / "project"
    net = Builder("exits", (1, 8, 8, 1), seed=5)
    net.conv2d(4, 3, stride=2, activation=Activation.RELU)
    cut = net.conv2d(6, 3, activation=Activation.RELU)
    net.flatten()
    net.dense(4)
    net.softmax()
    onnx.save(write_onnx(net.graph()), source)
    rng = np.random.default_rng(3)
    np.savez(calibration, x=rng.random((64, 1, 8, 8), np.float32), y=rng.integers(0, 4, 64))
    compile_model(Options(source, name, out, cut=cut, calib=calibration, train="full", aux_head=True))
    board, bundle = boards.load(name), bundles.load(out)
    assert bundle.learning is not None and bundle.learning.arithmetic == "int" and bundle.aux is not None
    toolchain.pio_run(out)
    built = Built(board, out, bundle, toolchain.firmware_elf(out, board))
    passes = [
        (
            rng.integers(-128, 128, (1, 8, 8, 1)).astype(np.int8),
            int(rng.integers(4)),
            rng.integers(-128, 128, 96).astype(np.int8),
        )
        for _ in range(9)
    ]
    twin, heads = Twin(out), []
    for x, *_ in passes:
        twin.forward(x)
        heads.append(int(twin.head().max()) + 128)
    threshold = float(np.median(heads)) / 256
    expected: list[tuple[bool, bytes, Any]] = []
    for number, (x, label, q) in enumerate(passes):
        (z,) = twin.forward(x)
        p, told = twin.head(), None
        sure = bool(is_sure(p, threshold)[0])
        if number % 3 == 0:
            told = twin.learn(label)
        elif number % 3 == 1:
            told = twin.learn(label, gradient=np.float32(0.01) * q.astype(np.float32))
        else:
            twin.backward(np.float32(0.01) * q.astype(np.float32))
            twin.update(0.5, number + 1, 3)
        expected.append((sure, (p if sure else z).tobytes(), told))
    assert {sure for sure, _, _ in expected} == {True, False}

    async def scenario() -> bytes:
        async with running(built) as (session, _):
            ask = session._asking.ask

            async def twice(parts: Any, answer: Any) -> Any:
                first = await ask(parts, answer)
                second = await ask(parts, answer) if answer in (m.Smashed, m.Trained, m.Done) else first
                if answer is m.Trained:
                    assert second.loss == first.loss and second.flags & m.DoneFlag.REPEATED
                return first

            session._asking.ask = twice
            assert session.hello.capabilities & m.Capability.EXIT
            for number, ((x, label, q), (sure, sent, told)) in enumerate(zip(passes, expected, strict=True)):
                reply = await session.forward(x, exit=threshold, batch=number)
                assert (reply.exited, reply.outputs[0].tobytes()) == (sure, sent)
                if number % 3 == 2:
                    await session.backward(reply, q, scale=0.01)
                    await session.step(number + 1, 0.5, 3)
                    continue
                both = number % 3 == 1
                done = await session.train(reply, q if both else label, scale=0.01, label=label if both else None)
                assert (done.loss, done.predicted) == told
            return bytes(await session.get_params())

    raw = asyncio.run(scenario())
    for learned in bundle.learned:
        part = np.frombuffer(raw[learned.offset : learned.offset + learned.nbytes], learned.dtype)
        np.testing.assert_array_equal(part.reshape(learned.shape), twin.params()[learned.name])
