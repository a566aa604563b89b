# SPDX-License-Identifier: Apache-2.0
"""The true firmware image on every board: what it says, computes and learns is the twin's, bit for bit.

The models are small enough for 16 KiB of RAM, seeded and untrained.
"""

from __future__ import annotations

import asyncio
import dataclasses

import numpy as np
import pytest
from hil_support import ALL, EMULATED, Built, build, running
from numpy.typing import NDArray

from tlc import boards
from tlc.builder import Builder
from tlc.errors import BundleMismatch, DeviceReset
from tlc.frontends.tflite import read_tflite
from tlc.graph import Graph
from tlc.ops.base import Activation
from tlc.reference import run_int8
from tlc.twin import Twin
from tlc_host.session import Session
from whole_model import whole_model

pytestmark = pytest.mark.hil

RATE, SEED = 0.05, 11


def cut_model() -> Graph:
    """Three convolutions, the last of which learns; then the host's part."""
    net = Builder("scenario", (1, 12, 12, 1), seed=3)
    net.conv2d(4, 3, stride=2, activation=Activation.RELU)
    net.depthwise_conv2d(3, activation=Activation.RELU)
    net.conv2d(6, 1)
    net.mean()
    net.dense(5)
    net.softmax()
    return net.graph()


@pytest.fixture(scope="session", params=ALL)
def split(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The cut model on a board, its last device layer learning."""
    return build(cut_model(), request.param, tmp_path_factory.mktemp("hil") / "split", cut="conv2d_1_out", train="last")


@pytest.fixture(scope="session", params=ALL)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The other model, all of it on the board."""
    return build(whole_model(), request.param, tmp_path_factory.mktemp("hil") / "whole", cut="none")


def gradients(built: Built, count: int) -> list[tuple[NDArray[np.int8], float]]:
    """Seeded gradients at the cut, int8 with a scale."""
    rng = np.random.default_rng(5)
    elements = int(np.prod(built.bundle.outputs[0].shape))
    return [
        (rng.integers(-127, 128, elements, np.int8), float(np.float32(rng.uniform(1e-4, 1e-3)))) for _ in range(count)
    ]


class Lesson:
    """The same training on a device and on the twin: two samples a step."""

    def __init__(self, built: Built, steps: int) -> None:
        self.twin = Twin(built.directory)
        self.inputs = built.inputs(2 * steps, seed=6)
        self.gradients = gradients(built, 2 * steps)
        self.steps = steps

    def params(self) -> bytes:
        """The twin's learned tensors as they lie in a message."""
        learned = self.twin.params()
        raw = bytearray(max(t.offset + learned[t.name].nbytes for t in self.twin.bundle.learned))
        for tensor in self.twin.bundle.learned:
            raw[tensor.offset : tensor.offset + learned[tensor.name].nbytes] = learned[tensor.name].tobytes()
        return bytes(raw)

    async def step(self, session: Session, number: int) -> None:
        """Step ``number`` (from 1) on the device."""
        for at in (2 * number - 2, 2 * number - 1):
            reply = await session.forward(self.inputs[at], step=number)
            gradient, scale = self.gradients[at]
            await session.backward(reply, gradient, scale=scale, step=number)
        await session.step(number, RATE, SEED)

    def step_twin(self, number: int) -> None:
        """The same on the twin."""
        for at in (2 * number - 2, 2 * number - 1):
            self.twin.forward(self.inputs[at : at + 1])
            gradient, scale = self.gradients[at]
            self.twin.backward(np.float32(scale) * gradient.astype(np.float32))
        self.twin.update(RATE, number, SEED)


def test_greets(split: Built) -> None:
    async def scenario() -> None:
        async with running(split) as (session, _):
            assert session.hello.bundle_hash == split.hash
            assert session.hello.board.decode() == split.board.id
            assert session.hello.param_bytes == sum(
                t.elements * (1 if t.dtype == "int8" else 4) for t in split.bundle.learned
            )

    asyncio.run(scenario())


def test_split_inference_is_the_twins(split: Built) -> None:
    x = split.inputs(12)

    async def scenario() -> NDArray[np.int8]:
        async with running(split) as (session, _):
            return np.stack([(await session.infer(one)).outputs[0] for one in x])

    ours = asyncio.run(scenario())
    (expected,) = Twin(split.directory).forward(x)
    np.testing.assert_array_equal(ours, expected.reshape(len(x), -1))
    assert len(np.unique(ours)) > 50


def test_uncut_inference_is_the_references(whole: Built) -> None:
    x = whole.inputs(12)

    async def scenario() -> NDArray[np.int8]:
        async with running(whole) as (session, _):
            return np.stack([(await session.infer(one)).outputs[0] for one in x])

    ours = asyncio.run(scenario())
    graph = read_tflite(whole.directory / "device.tflite")
    reference = run_int8(graph, {graph.inputs[0]: x.reshape(len(x), *graph[graph.inputs[0]].shape[1:])})
    np.testing.assert_array_equal(ours, reference[graph.outputs[0]].reshape(len(x), -1))
    np.testing.assert_array_equal(ours, Twin(whole.directory).forward(x)[0].reshape(len(x), -1))
    assert len(np.unique(ours)) > 5


def test_training_is_the_twins(split: Built) -> None:
    lesson = Lesson(split, 20)
    untrained = lesson.params()
    probe = split.inputs(1, seed=7)

    async def scenario() -> tuple[bytes, NDArray[np.int8]]:
        async with running(split) as (session, _):
            assert await session.get_params() == untrained
            for number in range(1, lesson.steps + 1):
                await lesson.step(session, number)
            return await session.get_params(), (await session.infer(probe[0])).outputs[0]

    params, output = asyncio.run(scenario())
    for number in range(1, lesson.steps + 1):
        lesson.step_twin(number)
    assert params == lesson.params() != untrained
    np.testing.assert_array_equal(output, lesson.twin.forward(probe)[0].ravel())


def test_a_reset_in_the_middle(split: Built) -> None:
    lesson = Lesson(split, 6)
    untrained = lesson.params()

    async def scenario() -> bytes:
        async with running(split) as (session, reset):
            for number in (1, 2, 3):
                await lesson.step(session, number)
            saved = await session.get_params()
            reply = await session.forward(lesson.inputs[6], step=4)
            boot = session.hello.boot
            reset()
            with pytest.raises(DeviceReset, match="the device restarted"):
                await session.backward(reply, *lesson.gradients[6][:1], scale=lesson.gradients[6][1])
            with pytest.raises(DeviceReset):
                await session.infer(lesson.inputs[0])
            hello = await session.greet()
            assert hello.boot != boot and hello.last_step == 0
            assert await session.get_params() == untrained  # as in flash
            await session.set_params(saved)
            for number in (4, 5, 6):
                await lesson.step(session, number)
            return await session.get_params()

    params = asyncio.run(scenario())
    for number in range(1, 7):
        lesson.step_twin(number)
    assert params == lesson.params()


KEEPING = [name for name in EMULATED if boards.load(name).memory.journal_sector_bytes]


@pytest.mark.parametrize("split", KEEPING, indirect=True)
def test_what_is_saved_outlives_a_reset(split: Built) -> None:
    lesson = Lesson(split, 4)

    async def scenario() -> bytes:
        async with running(split) as (session, reset):
            untrained = await session.get_params()
            for number in (1, 2):
                await lesson.step(session, number)
            assert await session.save()
            saved = await session.get_params()
            await lesson.step(session, 3)
            reset()
            with pytest.raises(DeviceReset):
                while True:
                    await session.stats()
            hello = await session.greet()
            assert hello.last_step == 2 and await session.get_params() == saved
            journal = await session.journal()
            assert (journal.saved_step, journal.wear_a, journal.wear_b) == (2, 1, 0)
            for number in (3, 4):
                await lesson.step(session, number)
            learned = await session.get_params()
            await session.reset_state()
            assert await session.get_params() == untrained
            reset()
            with pytest.raises(DeviceReset):
                while True:
                    await session.stats()
            assert (await session.greet()).last_step == 0 and await session.get_params() == untrained
            return learned

    params = asyncio.run(scenario())
    for number in range(1, 5):
        lesson.step_twin(number)
    assert params == lesson.params()


def test_a_wrong_bundle_is_refused(split: Built) -> None:
    other = dataclasses.replace(split, bundle=split.bundle.model_copy(update={"seed": 99}).sealed())
    assert other.hash != split.hash

    async def scenario() -> None:
        async with running(other):
            pass

    with pytest.raises(BundleMismatch) as caught:
        asyncio.run(scenario())
    assert split.bundle.hash in str(caught.value) and other.bundle.hash in str(caught.value)


@pytest.mark.parametrize("whole", EMULATED, indirect=True)
def test_instruction_counts_repeat(whole: Built) -> None:
    x = whole.inputs(3)

    async def scenario(seed: int) -> list[list[int]]:
        counts = []
        async with running(whole, seed=seed) as (session, _):
            for one in x:
                await session.infer(one)
                counts.append([int(ticks) for ticks in await session.layers()])
        return counts

    first = asyncio.run(scenario(1))
    assert asyncio.run(scenario(2)) == first
    assert all(count > 0 for layers in first for count in layers)
    assert len(first[0]) == len(whole.bundle.layers)


@pytest.mark.parametrize("split", EMULATED, indirect=True)
def test_memory_stays_within_the_certificate(split: Built) -> None:
    promise = split.bundle.certificate
    lesson = Lesson(split, 2)

    async def scenario() -> tuple[int, int, int]:
        async with running(split) as (session, _):
            await lesson.step(session, 1)
            await session.set_params(await session.get_params())
            await session.layers()
            stats = await session.stats()
            return stats.arena_bytes, stats.state_bytes, stats.stack_bytes

    arena, state, stack = asyncio.run(scenario())
    assert (arena, state) == (promise.arena_bytes, promise.state_bytes)
    assert 0 < stack <= promise.stack_bytes <= split.board.memory.stack_bytes
