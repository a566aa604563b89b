# SPDX-License-Identifier: Apache-2.0
"""A device that computes its loss and steps by itself: over the link, and from samples of its own."""

from __future__ import annotations

import asyncio
import ctypes
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import succeeds, tlc
from tlc.builder import Builder
from tlc.errors import DeviceError
from tlc.frontends.onnx_writer import write_onnx
from tlc.frontends.tflite import read_tflite
from tlc.learning import Learning, Schedule
from tlc.ops.base import Activation
from tlc.passes.backward import differentiate
from tlc.passes.select import parse_spec
from tlc.pipeline import Options, compile_model
from tlc.reference_train import ReferenceTrainer
from tlc.twin import OptimizerStep, Twin
from tlc_host import messages as m
from tlc_host.session import Session, SmashedReply
from tlc_host.transports.memory import MemoryTransport

SETTINGS: dict[str, float] = {"momentum": 0.9, "weight_decay": 0.01, "clip": 0.5}


def compiled(directory: Path, learning: Learning, *, cut: str = "none") -> Path:
    """A small classifier of 6 × 6 images in 4 classes, all of which learns."""
    net = Builder("small", (1, 6, 6, 1), seed=3)
    first = net.conv2d(4, 3, stride=2, activation=Activation.RELU)
    net.flatten()
    net.dense(4)
    net.softmax()
    model = directory / "small.onnx"
    model.write_bytes(write_onnx(net.graph()).SerializeToString())
    rng = np.random.default_rng(0)
    np.save(directory / "x.npy", rng.standard_normal((64, 6, 6, 1)).astype(np.float32))
    out = directory / "project"
    where = first if cut == "first" else cut
    compile_model(Options(model, "qemu-m4", out, cut=where, calib=directory / "x.npy", train="full", learning=learning))
    return out


@pytest.fixture(scope="module")
def at_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("once"), Learning("1", "softmax-ce", momentum=True))


@pytest.fixture(scope="module")
def summing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("many"), Learning("many", "softmax-ce"))


def trainer_of(project: Path, twin: Twin) -> ReferenceTrainer:
    graph = read_tflite(project / "device.tflite")
    learning = twin.bundle.learning
    assert learning is not None
    return ReferenceTrainer(graph, differentiate(graph, parse_spec(graph, "full"), learning))


def params_of(trainer: ReferenceTrainer) -> list[bytes]:
    return [value.tobytes() for value in trainer.params().values()]


def twin_params(twin: Twin) -> list[bytes]:
    return [value.tobytes() for value in twin.params().values()]


@asynccontextmanager
async def session(twin: Twin, **options: Any) -> AsyncIterator[Session]:
    async def opener() -> MemoryTransport:
        return MemoryTransport(twin.receive, twin.send, twin.poll)

    async with await Session.connect(opener, bytes.fromhex(twin.bundle.hash), name="twin", **options) as connected:
        yield connected


def images(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, (count, 1, 6, 6, 1)).astype(np.int8)


def test_labels_over_the_link(at_once: Path) -> None:
    """The loss, its gradient and the updates are the reference's, and what is asked twice is done once."""
    twin = Twin(at_once)
    trainer = trainer_of(at_once, twin)
    x = images(20)

    async def scenario() -> None:
        async with session(twin) as device:
            assert device.hello.capabilities & m.Capability.JUDGE and device.hello.capabilities & m.Capability.AT_ONCE
            for number, image in enumerate(x, 1):
                reply = await device.forward(image, batch=number)
                trainer.forward(image)
                label = number % 4
                done = await device.train(reply, label, number, 0.05, 7, **SETTINGS)
                verdict = trainer.learn(label)
                trainer.update(0.05, number, 7, **SETTINGS)
                assert (done.loss, done.predicted, done.flags) == (float(verdict.loss), verdict.predicted, 0)
                again = await device.train(reply, label, number, 0.05, 7, **SETTINGS)
                assert (again.loss, again.flags) == (done.loss, m.DoneFlag.REPEATED)
                assert twin_params(twin) == params_of(trainer)

    asyncio.run(scenario())


def test_a_batch_of_labels(summing: Path) -> None:
    twin = Twin(summing)
    trainer = trainer_of(summing, twin)
    x = images(12)

    async def scenario() -> None:
        async with session(twin) as device:
            for step in range(1, 5):
                for place in range(3):
                    image = x[3 * step - 3 + place]
                    reply = await device.forward(image, batch=step)
                    trainer.forward(image)
                    trainer.learn(place)
                    await device.train(reply, place, step if place == 2 else None, 0.1, 3, weight_decay=0.1)
                trainer.update(0.1, step, 3, weight_decay=0.1)
                assert twin_params(twin) == params_of(trainer)
            reply = await device.forward(x[0], batch=9)
            await device.train(reply, 1)
            trainer.forward(x[0])
            trainer.learn(1)
            await device.step(5, 0.1, 3, clip=0.01)
            trainer.update(0.1, 5, 3, clip=0.01)
            assert twin_params(twin) == params_of(trainer)

    asyncio.run(scenario())


async def refused(status: m.Status, text: str, call: Any) -> None:
    with pytest.raises(DeviceError, match=text) as caught:
        await call
    assert caught.value.status == status


def test_refusals(at_once: Path, summing: Path, tmp_path: Path) -> None:
    """Each leaves the learned tensors, and the forward pass where it can still be used, as they are."""
    one, many = Twin(at_once), Twin(summing)
    other = Twin(compiled(tmp_path, Learning("1"), cut="first"))
    (x,) = images(1)

    async def scenario() -> None:
        async with session(one) as device:
            before = twin_params(one)
            reply = await device.forward(x)
            gradient = np.zeros(4, np.float32)
            await refused(m.Status.ARG, "no such class", device.train(reply, 4, 1, 0.1))
            await refused(m.Status.ARG, "takes a label", device.train(reply, gradient, 1, 0.1, values=True))
            await refused(m.Status.STATE, "TRAIN with a step", device.train(reply, 1))
            await refused(m.Status.STATE, "TRAIN with a step", device.backward(reply, gradient))
            await refused(m.Status.STATE, "TRAIN with a step", device.step(1, 0.1))
            await refused(m.Status.NUMERIC, "learning rate", device.train(reply, 1, 1, float("nan")))
            await refused(m.Status.NUMERIC, "weight decay", device.train(reply, 1, 1, 0.1, weight_decay=-1.0))
            bad = SmashedReply(reply.request + 1, reply.outputs, 0)
            await refused(m.Status.STATE, "does not hold", device.train(bad, 1, 1, 0.1))
            assert twin_params(one) == before
            await device.train(reply, 1, 1, 0.1)
            later = await device.forward(x)
            await refused(m.Status.STATE, "applied before", device.train(later, 1, 1, 0.1))
        async with session(many) as device:
            reply = await device.forward(x)
            await refused(m.Status.ARG, "compile it with --momentum", device.train(reply, 1, 1, 0.1, momentum=0.9))
        async with session(other) as device:
            reply = await device.forward(x)
            await refused(m.Status.STATE, "compile it with --loss", device.train(reply, 1, 1, 0.1))
            scaled = np.ones(reply.outputs[0].size, np.int8)
            done = await device.train(reply, scaled, 1, 0.1, scale=0.01)
            assert (done.loss, done.flags) == (0.0, 0)

    asyncio.run(scenario())


def test_divergence_inside_the_backward_pass(at_once: Path) -> None:
    """What is half updated goes back to the journal's last entry."""
    from tlc.twin import TwinLibrary

    library = TwinLibrary(at_once)
    twin = library.create(1, library.blank_flash())
    x = images(4)

    async def scenario() -> None:
        async with session(twin) as device:
            for number in (1, 2):
                reply = await device.forward(x[number])
                await device.train(reply, number, number, 0.05, 7, save=number == 2)
            kept = twin_params(twin)
            reply = await device.forward(x[3])
            await device.train(reply, 0, 3, 0.05, 7)
            assert twin_params(twin) != kept
            reply = await device.forward(x[0])
            await refused(m.Status.NUMERIC, "norm is above", device.train(reply, 3, 4, 0.05, 7, max_norm=1e-6))
            assert twin_params(twin) == kept
            reply = await device.forward(x[0])
            large = np.full(4, 3e38, np.float32)
            await refused(m.Status.NUMERIC, "not finite", device.train(reply, large, 4, 0.05, 7))
            assert twin_params(twin) == kept and (await device.stats()).last_step == 2
            assert (await device.journal()).rollbacks == 2
            reply = await device.forward(x[0])
            await refused(m.Status.NUMERIC, "end of their range", device.train(reply, 3, 3, 1e4, 7))
            assert twin_params(twin) == kept

    asyncio.run(scenario())


class Own(ctypes.Structure):
    """tlc_learning_t, by its parts: tlc_step_t, tlc_schedule_t, batch."""

    _fields_ = (
        ("step", OptimizerStep),
        ("kind", ctypes.c_uint8),
        ("warm_up", ctypes.c_uint32),
        ("every", ctypes.c_uint32),
        ("factor", ctypes.c_float),
        ("batch", ctypes.c_uint32),
    )


SCHEDULES = [
    Schedule(),
    Schedule("step", warm_up=3, every=4, factor=0.5),
    Schedule("cosine", warm_up=2, every=20, factor=0.1),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.kind)
def test_a_device_learns_from_its_own_labels(schedule: Schedule, at_once: Path) -> None:
    """Without any host: the trajectory is the reference's, rates and all; the result hook is told first."""
    twin = Twin(at_once)
    trainer = trainer_of(at_once, twin)
    step = OptimizerStep(0.05, 0, 7, 0.9, 0.01, 0.5, 0.0)
    kind = ["constant", "step", "cosine"].index(schedule.kind)
    own = Own(step, kind, schedule.warm_up, schedule.every, schedule.factor, 1)
    edge = twin.bundle.inputs[0]
    for number, sample in enumerate(np.random.default_rng(2).standard_normal((30, 6, 6, 1)).astype(np.float32), 1):
        label = 99 if number == 30 else number % 4
        twin.library.c.tlc_twin_label(twin._memory, ctypes.c_uint32(label), ctypes.byref(own))
        twin.sample(sample)
        while twin.poll(number):
            pass
        (wanted,) = trainer.forward(edge.to_device(sample[None]))
        result = twin.result()
        assert result is not None
        np.testing.assert_array_equal(result, twin.bundle.outputs[0].to_file(wanted).ravel())
        if number < 30:
            trainer.learn(label)
            trainer.update(schedule.rate(0.05, number), number, 7, **SETTINGS)
        assert twin_params(twin) == params_of(trainer), number


def test_rates() -> None:
    cosine = Schedule("cosine", warm_up=4, every=100, factor=0.1)
    assert [cosine.rate(1.0, step) for step in (1, 2, 4)] == [0.25, 0.5, 1.0]
    wave = 0.1 + 0.9 * (1 + np.cos(np.pi * np.arange(101) / 100)) / 2
    np.testing.assert_allclose([cosine.rate(1.0, 5 + i) for i in range(101)], wave, atol=1e-6)
    assert cosine.rate(1.0, 100000) == pytest.approx(0.1)
    steps = Schedule("step", every=10, factor=0.5)
    assert [steps.rate(0.8, step) for step in (1, 10, 11, 31)] == pytest.approx([0.8, 0.8, 0.4, 0.1])


def refused_by(*arguments: object) -> str:
    """What the command line says on one line, without a traceback."""
    done = tlc(*arguments)
    assert done.code in (1, 2) and done.out == "", done
    assert done.err.count("\n") == 1 and "Traceback" not in done.err, done.err
    return done.err


# ---- algorithms and the command line ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes that differ by which quarter of the image is bright."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 4, 240)
    x = rng.standard_normal((240, 6, 6, 1)).astype(np.float32) * 0.4
    for image, label in zip(x, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[3 * row : 3 * row + 3, 3 * column : 3 * column + 3] += 1.0
    path = tmp_path_factory.mktemp("lessons") / "lessons.npz"
    np.savez(path, x=x, y=labels)
    return path


@pytest.mark.parametrize("batch", [1, 8])
def test_tlc_train_without_a_host_segment(batch: int, at_once: Path, summing: Path, lessons: Path) -> None:
    """The device is sent samples and labels, and learns what they have in common."""
    project = at_once if batch == 1 else summing
    options = ["--set", "device_momentum=0.5", "--set", "device_clip=1.0"] if batch == 1 else []
    options += ["--set", "device_schedule=cosine", "--set", "device_warm_up=5"]
    batches = 160 // batch
    arguments = ("--batch", batch, "--batches", batches, "--rounds", 3, "--lr", 0.02 * batch, *options, "--json")
    done = succeeds("train", project, "--data", lessons, *arguments)
    result = json.loads(done.out)
    assert result["algorithm"] == "local" and result["host"] is None
    assert result["last_step"] == 3 * batches
    assert result["accuracies"][-1] > 0.85 > 0.5 > result["accuracies"][0] or result["accuracies"][-1] > 0.95
    assert result["losses"][-1] < 0.5 * result["losses"][0]


def test_settings_that_the_project_cannot_follow(at_once: Path, summing: Path, lessons: Path, tmp_path: Path) -> None:
    text = refused_by("train", at_once, "--data", lessons)
    assert "takes a step after every sample" in text and "--batch 1" in text
    text = refused_by("train", summing, "--data", lessons, "--set", "device_momentum=0.9")
    assert "keeps no velocities" in text and "--momentum" in text
    plain = compiled(tmp_path, Learning())
    assert "compiled without a loss" in refused_by("train", plain, "--data", lessons, "--algorithm", "local")
    wrong = tmp_path / "wrong.npz"
    np.savez(wrong, x=np.zeros((3, 6, 6, 1), np.float32), y=[0, 1, 4])
    assert "labels run from 0 to 4, but the network has 4 classes" in refused_by("train", summing, "--data", wrong)


def test_options_that_do_not_fit_together(at_once: Path, tmp_path: Path) -> None:
    model = at_once.parent / "small.onnx"
    compile_to = ("compile", model, "--board", "qemu-m4", "--out", tmp_path / "out")
    text = refused_by(*compile_to, "--cut", "conv2d_out", "--train", "full", "--loss", "softmax-ce")
    assert "that is on the host" in text and "--cut none" in text
    assert "nothing learns" in refused_by(*compile_to, "--cut", "none", "--loss", "mse")
    assert "not one of" in refused_by(*compile_to, "--cut", "none", "--train", "full", "--loss", "hinge")
    assert not (tmp_path / "out").exists()


def test_a_split_device_that_updates_at_once(tmp_path: Path, lessons: Path) -> None:
    """By vanilla split learning, over the link: the device's step carries the gradient."""
    pytest.importorskip("tensorflow")
    project = compiled(tmp_path, Learning("1", momentum=True, feedback=True), cut="first")
    arguments = ("--batch", 1, "--batches", 6, "--set", "device_momentum=0.9", "--json")
    done = succeeds("train", project, "--data", lessons, *arguments)
    result = json.loads(done.out)
    assert result["last_step"] == 6 and any(row["changed"] for row in result["learned"])
