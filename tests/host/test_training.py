# SPDX-License-Identifier: Apache-2.0
"""Vanilla split learning across the link: it learns, survives resets exactly, and hands the device part on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from tlc.builder import Builder
from tlc.errors import DataError
from tlc.frontends.onnx_writer import write_onnx
from tlc.ops.base import Activation
from tlc.pipeline import Options, compile_model
from tlc.twin import Twin, TwinLibrary
from tlc_host.algorithms.base import BatchDone, Event
from tlc_host.config import plan
from tlc_host.serve import assemble, link_devices, serve
from tlc_host.server_model import ServerModel
from tlc_host.server_worker import ServerWorker
from tlc_host.session import Session
from tlc_host.shards import Shard, deal, load_shard
from tlc_host.transports.memory import MemoryTransport

pytest.importorskip("tensorflow", reason="the host segment trains in TensorFlow: pip install 'tlc[train]'")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small split CNN on scikit-learn's 8x8 digits; its last device layer learns."""
    from sklearn.datasets import load_digits

    root = tmp_path_factory.mktemp("digits")
    digits = load_digits()
    x = (digits.images / 16.0).astype(np.float32)[..., None]
    np.savez(
        root / "data.npz", x_train=x[:1200], y_train=digits.target[:1200], x_test=x[1200:], y_test=digits.target[1200:]
    )
    net = Builder("digits8", (1, 8, 8, 1), seed=3)
    net.conv2d(8, 3, activation=Activation.RELU)
    cut = net.conv2d(8, 3, stride=2, activation=Activation.RELU)
    net.flatten()
    net.dense(10)
    net.softmax()
    model = root / "digits8.onnx"
    model.write_bytes(write_onnx(net.graph()).SerializeToString())
    out = root / "project"
    compile_model(Options(model, "qemu-m4", out, cut=cut, calib=root / "data.npz", train="last"))
    return out


@asynccontextmanager
async def session(twin: Twin) -> AsyncIterator[Session]:
    async def opener() -> MemoryTransport:
        return MemoryTransport(twin.receive, twin.send, twin.poll)

    async with await Session.connect(opener, bytes.fromhex(twin.bundle.hash), name="twin") as connected:
        yield connected


def accuracy(twin: Twin, server: ServerModel, shard: Shard) -> float:
    return float((server.infer(twin.forward(shard.inputs)[0])[0].argmax(1) == shard.labels).mean())


async def run(project: Path, twins: list[Twin], *, batches: int, resets: tuple[int, ...] = ()) -> ServerModel:
    server = ServerModel(project)
    whole = load_shard(project.parent / "data.npz", twins[0].bundle)
    settings = plan({"rounds": 2, "batches": batches, "batch": 8, "lr": 0.1, "seed": 5})
    async with AsyncExitStack() as stack:
        devices = [await stack.enter_async_context(session(twin)) for twin in twins]
        worker = await stack.enter_async_context(ServerWorker(server))
        loop = assemble(settings, worker, link_devices(devices, project, settings), deal(whole, len(twins)))
        done = 0
        async for event in loop.events():
            done += isinstance(event, BatchDone)
            if isinstance(event, BatchDone) and done in resets:
                twins[0].reboot(1000 + done)
    return server


def test_both_halves_learn(project: Path) -> None:
    twin = Twin(project)
    test = load_shard(project.parent / "data.npz", twin.bundle, "test")
    before = accuracy(twin, ServerModel(project), test)
    first = twin.params()
    server = asyncio.run(run(project, [twin], batches=60))
    assert before < 0.3
    assert accuracy(twin, server, test) > 0.8
    assert any(not np.array_equal(first[name], value) for name, value in twin.params().items())


def test_a_reset_of_the_device_changes_nothing(project: Path) -> None:
    calm, shaken = Twin(project), Twin(project)
    undisturbed = asyncio.run(run(project, [calm], batches=12))
    disturbed = asyncio.run(run(project, [shaken], batches=12, resets=(3, 10, 17)))
    for name, value in calm.params().items():
        np.testing.assert_array_equal(value, shaken.params()[name])
    for name, value in undisturbed.snapshot().items():
        np.testing.assert_array_equal(value, disturbed.snapshot()[name])


def test_the_device_part_is_handed_on(project: Path) -> None:
    library = TwinLibrary(project)
    twins = [library.create(boot) for boot in (1, 2, 3)]
    asyncio.run(run(project, twins, batches=3))
    start = library.create(9).params()
    last = twins[2].params()
    assert any(not np.array_equal(start[name], value) for name, value in last.items())


def test_a_thousand_twins_in_one_process(project: Path) -> None:
    library = TwinLibrary(project)
    twins = [library.create(boot) for boot in range(1, 1001)]
    x = np.random.default_rng(0).integers(-128, 128, (1, 8, 8, 1)).astype(np.int8)
    wanted = library.create(1).forward(x)[0]
    rng = np.random.default_rng(1)
    for twin in twins[::2]:  # every other one learns something of its own
        twin.forward(x)
        twin.backward(rng.standard_normal(wanted.size).astype(np.float32))
        twin.update(0.5, 1, 7)
    for twin in twins[1::2]:
        np.testing.assert_array_equal(twin.forward(x)[0], wanted)
    assert len({twin.params()[twin.bundle.learned[0].name].tobytes() for twin in twins}) > 400


def test_labels_out_of_range_are_refused(project: Path) -> None:
    server = ServerModel(project)
    smashed = np.zeros((1, *server.bundle.outputs[0].shape[1:]), np.int8)
    with pytest.raises(DataError, match=r"labels run from 10 to 10, but the network has 10 classes"):
        server.gradient(smashed, np.array([10]))


def test_the_gradient_is_the_mean_over_the_batch(project: Path) -> None:
    """A batch at once, or sample by sample before one step: the same weights."""
    rng = np.random.default_rng(2)
    one, two = ServerModel(project), ServerModel(project)
    smashed = rng.integers(-128, 128, (6, *one.bundle.outputs[0].shape[1:])).astype(np.int8)
    labels = rng.integers(0, 10, 6)
    whole = one.gradient(smashed, labels)
    one.apply(0.1)
    parts = [two.gradient(smashed[i : i + 1], labels[i : i + 1]) for i in range(6)]
    two.apply(0.1)
    np.testing.assert_allclose(np.concatenate([p.gradient for p in parts]) / 6, whole.gradient, rtol=1e-4, atol=1e-7)
    for name, value in one.weights().items():
        np.testing.assert_allclose(two.weights()[name], value, rtol=1e-4, atol=1e-6)


def test_the_daemon_answers_a_devices_own_samples(project: Path) -> None:
    """The sensor's floats go in at the device's hook, the network's answer comes out at the other."""
    twin = Twin(project)
    with np.load(project.parent / "data.npz") as arrays:
        x = arrays["x_test"][0]

    async def once() -> np.ndarray:
        server = ServerModel(project)

        def answer(reply: object) -> np.ndarray:
            return server.infer(reply.outputs[0].reshape(1, *twin.bundle.outputs[0].shape[1:]))[0].ravel()  # type: ignore[attr-defined]

        async def opener() -> MemoryTransport:
            return MemoryTransport(twin.receive, twin.send, twin.poll)

        async with await Session.connect(opener, bytes.fromhex(twin.bundle.hash), on_sample=answer):
            twin.sample(x)
            while (result := twin.result()) is None:
                await asyncio.sleep(0)
            return result

    result = asyncio.run(asyncio.wait_for(once(), 20))
    wanted = ServerModel(project).infer(Twin(project).forward(twin.bundle.inputs[0].to_device(x[None]))[0])[0][0]
    np.testing.assert_allclose(result, wanted, rtol=1e-6)


def test_serve_trains_and_ends(project: Path) -> None:
    from tlc_host.serve import Training

    steps: list[Event] = []
    settings = plan({"batches": 3, "batch": 4, "lr": 0.1})
    training = Training(project.parent / "data.npz", settings)
    asyncio.run(
        serve(project, ["twin", "twin"], training=training, say=lambda text: None, on_event=steps.append, once=True)
    )
    assert [done.device for done in steps if isinstance(done, BatchDone)] == [0, 0, 0, 1, 1, 1]
    assert [type(done).__name__ for done in steps].count("RoundDone") == 1
