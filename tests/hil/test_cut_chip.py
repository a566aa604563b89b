# SPDX-License-Identifier: Apache-2.0
"""One firmware with several cuts on emulated cores without a message buffer: what comes, comes into the arena, at each cut into
another place. At every cut the chip is the twin of that cut alone, and what it learns from cut to cut is what the twin does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from hil_support import Built, running

from tlc import boards, size, toolchain
from tlc import bundle as bundles
from tlc.builder import Builder
from tlc.frontends.onnx_writer import write_onnx
from tlc.ops.base import Activation
from tlc.pipeline import Options, compile_model
from tlc.twin import Twin
from tlc_host import messages as m
from tlc_host.devices import open_device
from tlc_host.session import Session

pytestmark = pytest.mark.hil

CUTS = ("conv2d_out/nchw", "conv2d_1_out/nchw", "dense_out")


@pytest.mark.parametrize("name", ["qemu-m4", "qemu-m0"])  # learns in float32, and in integers
def test_from_cut_to_cut(name: str, tmp_path: Path) -> None:
    model, out = tmp_path / "model.onnx", tmp_path / "several"
    net = Builder("cuts", (1, 8, 8, 1), seed=5)
    net.conv2d(4, 3, stride=2, activation=Activation.RELU)
    net.conv2d(6, 3, activation=Activation.RELU)
    net.flatten()
    net.dense(12, activation=Activation.RELU)
    net.dense(4)
    net.softmax()
    model.write_bytes(write_onnx(net.graph()).SerializeToString())
    compile_model(Options(model, name, out, cuts=(CUTS[1], CUTS[0], CUTS[2]), train="full"))
    alone = {}
    for number, cut in enumerate(CUTS):
        compile_model(Options(model, name, tmp_path / str(number), cut=cut, train="full"))
        alone[cut] = Twin(tmp_path / str(number))
    toolchain.pio_run(out)
    built = Built(boards.load(name), out, bundles.load(out), toolchain.firmware_elf(out, boards.load(name)))
    size.require(size.measure(out))
    xs = np.random.default_rng(3).integers(-128, 128, (3, 8, 8, 1)).astype(np.int8)

    async def lessons(session: Session) -> list[bytes]:
        seen, rng = [], np.random.default_rng(4)
        for number, index in enumerate([2, 0, 1, 2, 1, 0], 1):
            await session.select(index)
            await session.select(index)  # once more changes nothing
            for x in xs:
                reply = await session.forward(x, batch=number)
                seen.append(reply.outputs[0].tobytes())
                gradient = rng.integers(-127, 128, reply.outputs[0].size).astype(np.int8)
                await session.backward(reply, gradient, scale=0.01)
                assert (await session.backward(reply, gradient, scale=0.01)).flags & m.DoneFlag.REPEATED
            await session.step(number, 0.3, 7)
            seen.append(await session.get_params())
        return seen

    async def chip() -> list[bytes]:
        async with running(built) as (session, _):
            for index, cut in enumerate(CUTS):
                await session.select(index)
                for x in xs:
                    wanted = alone[cut].forward(x[np.newaxis])[0].reshape(-1)
                    np.testing.assert_array_equal((await session.infer(x)).outputs[0], wanted)
            return await lessons(session)

    async def twin() -> list[bytes]:
        async with open_device(out, "twin") as session:
            return await lessons(session)

    found, wanted = asyncio.run(chip()), asyncio.run(twin())
    assert found == wanted and len({*found[3::4]}) == 6  # what is learned changes with every step
