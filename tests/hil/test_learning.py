# SPDX-License-Identifier: Apache-2.0
"""A whole network that learns on the board from labels: 100 steps with momentum, decay, clipping and its own loss, the
twin's bit for bit, whatever computes the floats."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hil_support import build, running

from tlc.builder import Builder
from tlc.graph import Graph
from tlc.learning import Learning
from tlc.ops.base import Activation
from tlc.size import measure, require
from tlc.twin import OptimizerStep, Twin

pytestmark = pytest.mark.hil

STEPS = 100
SETTINGS = {"momentum": 0.9, "weight_decay": 0.02, "clip": 0.5}
BOARDS = ["qemu-m4", "qemu-m0", "qemu-rv32"]


def classifier() -> Graph:
    """8 × 8 images in 4 classes, through a residual branch."""
    net = Builder("learner", (1, 8, 8, 1), seed=4)
    first = net.conv2d(4, 3, stride=2, activation=Activation.RELU)
    second = net.conv2d(4, 1)
    net.node("add", [first, second], net_attrs())
    net.mean()
    net.dense(4)
    net.softmax()
    return net.graph()


def net_attrs() -> object:
    from tlc.ops import REGISTRY

    return REGISTRY["add"].Attrs(activation=Activation.RELU)


@pytest.mark.parametrize("name", BOARDS)
def test_a_hundred_steps_from_labels(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    learning = Learning("1", "softmax-ce", momentum=True, feedback=True)
    built = build(
        classifier(),
        name,
        tmp_path_factory.mktemp("hil") / "learner",
        cut="none",
        train="full",
        learning=learning,
        arithmetic="float",
    )
    require(measure(built.directory))
    inputs = built.inputs(STEPS, seed=6)
    labels = np.random.default_rng(7).integers(0, 4, STEPS)

    async def scenario() -> tuple[list[tuple[float, int]], bytes, tuple[int, int], int]:
        verdicts = []
        async with running(built) as (session, _):
            for step in range(1, STEPS + 1):
                reply = await session.forward(inputs[step - 1], batch=step)
                done = await session.train(reply, int(labels[step - 1]), step, 0.05, 11, **SETTINGS)
                verdicts.append((done.loss, done.predicted))
            stats = await session.stats()
            sizes = (stats.arena_bytes, stats.state_bytes)
            return verdicts, await session.get_params(), sizes, stats.stack_bytes

    verdicts, params, sizes, stack = asyncio.run(scenario())
    twin = Twin(built.directory)
    for step in range(1, STEPS + 1):
        twin.forward(inputs[step - 1 : step])
        told = OptimizerStep(0.05, step, 11, *SETTINGS.values(), 0.0)
        assert twin.learn(int(labels[step - 1]), told) == verdicts[step - 1], f"{name}: step {step}"
    for entry in built.bundle.learned:
        value = twin.params()[entry.name]
        assert params[entry.offset : entry.offset + value.nbytes] == value.tobytes(), f"{name}: {entry.name}"
    promise = built.bundle.certificate
    assert sizes == (promise.arena_bytes, promise.state_bytes) and 0 < stack <= promise.stack_bytes
