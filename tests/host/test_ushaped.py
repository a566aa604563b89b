# SPDX-License-Identifier: Apache-2.0
"""U-shaped split learning: it is vanilla split learning but for where the last layers are, and no label crosses the link."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tlc.builder import Builder
from tlc.errors import ConfigError, DeviceError
from tlc.frontends.onnx_writer import write_onnx
from tlc.learning import Learning
from tlc.ops.base import Activation
from tlc.pipeline import Options, compile_model
from tlc.twin import Twin, TwinLibrary
from tlc_host import messages as m
from tlc_host.algorithms import ALGORITHMS
from tlc_host.algorithms.base import BatchDone
from tlc_host.cohort import LinkDevice, TwinDevice
from tlc_host.config import plan
from tlc_host.run import run_file
from tlc_host.serve import assemble
from tlc_host.server_model import ServerModel
from tlc_host.server_worker import ServerWorker
from tlc_host.session import Session
from tlc_host.shards import deal, load_shard
from tlc_host.transports.memory import MemoryTransport

pytest.importorskip("tensorflow", reason="the host segment trains in TensorFlow: pip install 'tlc[train]'")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One network, twice: cut as vanilla split learning has it, and with its last layer on the device."""
    from sklearn.datasets import load_digits

    root = tmp_path_factory.mktemp("ushaped")
    digits = load_digits()
    x, y = (digits.images / 16.0).astype(np.float32).reshape(-1, 64), digits.target
    np.savez(root / "data.npz", x_train=x[:1200], y_train=y[:1200], x_test=x[1200:], y_test=y[1200:])
    net = Builder("digits", (1, 64), seed=3)
    head = net.dense(24, activation=Activation.RELU)
    middle = net.dense(16, activation=Activation.RELU)
    net.dense(10)
    net.softmax()
    model = root / "digits.onnx"
    model.write_bytes(write_onnx(net.graph()).SerializeToString())
    common: dict[str, Any] = {"cut": head, "calib": root / "data.npz", "train": "full"}
    compile_model(Options(model, "native", root / "vanilla", **common))
    compile_model(
        Options(model, "native", root / "ushaped", tail=middle, learning=Learning(loss="softmax-ce"), **common)
    )
    return root


class Outcome:
    """What a run left."""

    def __init__(self, parts: list[Any], host: dict[str, Any], batches: list[BatchDone]) -> None:
        self.parts, self.host = parts, host
        self.losses = np.array([batch.loss for batch in batches])
        self.accuracy = float(np.mean([batch.accuracy for batch in batches[-20:]]))


async def linked(project: Path, twin: Twin) -> LinkDevice:
    async def opener() -> MemoryTransport:
        return MemoryTransport(twin.receive, twin.send, twin.poll)

    session = await Session.connect(opener, bytes.fromhex(twin.bundle.hash), name="twin")
    session.sensor = twin.sample
    return LinkDevice(session, twin.bundle, project, gradient="float32")


def run(project: Path, algorithm: str, count: int = 1, *, over_link: bool = False, **settings: Any) -> Outcome:
    async def inside() -> Outcome:
        server, library = ServerModel(project), TwinLibrary(project)
        twins = [library.create(number + 1) for number in range(count)]
        devices: list[Any] = [TwinDevice(twin, f"twin {i}", gradient="float32") for i, twin in enumerate(twins)]
        if over_link:
            devices = [await linked(project, twin) for twin in twins]
        shards = deal(load_shard(project.parent / "data.npz", server.bundle), count, "turns", seed=1)
        given = {"batches": 20, "batch": 4, "lr": 0.1, "seed": 5, "gradient": "float32", **settings}
        batches = []
        async with ServerWorker(server) as worker:
            loop = assemble(plan({"algorithm": algorithm, **given}), worker, devices, shards)
            async for event in loop.events():
                if isinstance(event, BatchDone):
                    batches.append(event)
        if over_link:
            for device in devices:
                await device.session.close()
        return Outcome([member.kept for member in loop.cohort.members], server.weights(), batches)

    return asyncio.run(asyncio.wait_for(inside(), 60))


def test_it_is_vanilla_but_for_where_the_last_layer_is(root: Path) -> None:
    """Vanilla has V in float32, here it is int8: so close, not equal."""
    one, two = (
        run(root / kind, name, rounds=4, lr=0.05) for kind, name in (("vanilla", "vsl"), ("ushaped", "ushaped"))
    )
    apart = np.abs(one.losses - two.losses)
    assert apart[:20].max() < 0.1 and apart.mean() < 0.06
    assert two.losses[-10:].mean() < 0.75 * two.losses[:10].mean() and abs(two.accuracy - one.accuracy) < 0.1
    names = {name.split(":")[0] for name in two.host}
    moved = 0
    for name in names & one.host.keys():  # L, float32 on both
        np.testing.assert_allclose(two.host[name], one.host[name], atol=0.06)
        moved += 1
    assert moved == 2
    vanilla, ushaped = one.parts[0], two.parts[0]
    start = Twin(root / "vanilla").params()
    for name, value in vanilla.items():  # T, in integers
        if value.dtype == np.int8:
            way, off = value.astype(int) - start[name], ushaped[name].astype(int) - value
            assert np.abs(off).mean() < 0.4 * np.abs(way).mean() and np.abs(way).max() > 10


def test_the_link_changes_nothing_and_no_label_is_in_a_frame(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[m.Message] = []
    heard: list[m.Message] = []
    pack, parse = m.Message.pack, m.parse

    def packed(message: m.Message) -> bytes:
        sent.append(message)
        return pack(message)

    def parsed(kind: int, payload: bytes) -> m.Message:
        heard.append(parse(kind, payload))
        return heard[-1]

    settings = {"rounds": 2, "batches": 3}
    direct = run(root / "ushaped", "ushaped", 2, **settings)
    monkeypatch.setattr(m.Message, "pack", packed)
    monkeypatch.setattr(m, "parse", parsed)
    through = run(root / "ushaped", "ushaped", 2, over_link=True, **settings)
    for a, b in zip(direct.parts, through.parts, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
    for name, value in direct.host.items():
        np.testing.assert_array_equal(value, through.host[name])
    np.testing.assert_array_equal(direct.losses, through.losses)

    passes = 2 * 2 * 3 * 4
    forwards = [x for x in sent if isinstance(x, m.Forward)]
    tails = [x for x in sent if isinstance(x, m.Tail)]
    assert len(forwards) == len(tails) == passes
    assert all(x.flags & m.ForwardFlag.OWN and not x.tensor for x in forwards)
    assert all(x.kind == m.TailKind.OWN and x.value == 0 for x in tails)
    downward = {m.Welcome, m.Forward, m.Tail, m.Backward, m.Step, m.GetParams, m.SetParams, m.GetStats}
    assert {type(x) for x in sent} <= downward
    upward = {m.Hello, m.Done, m.Smashed, m.Gradient, m.Params, m.Stats, m.Error}
    assert {type(x) for x in heard} <= upward
    assert {x.of for x in heard if isinstance(x, m.Error)} <= {m.GetParams.TYPE}  # no room for it coded
    assert {len(x.tensor) for x in heard if isinstance(x, m.Smashed)} == {24}  # z, and never the ten outputs
    gradients = [x for x in heard if isinstance(x, m.Gradient)]
    assert len(gradients) == passes and {len(x.gradient) for x in gradients} == {4 * 16}


def test_what_is_asked_again_is_done_once(root: Path) -> None:
    """Each request of a sample twice: as if every answer had been lost."""

    async def inside(times: int) -> dict[str, Any]:
        project = root / "ushaped"
        twin = Twin(project)
        device = await linked(project, twin)
        session = device.session
        ask = session._asking.ask

        async def again(parts: Any, answer: Any) -> Any:
            first = await ask(parts, answer)
            for _ in range(times - 1):
                second = await ask(parts, answer)
                if answer is m.Gradient:
                    assert (second.gradient, second.loss) == (first.gradient, first.loss)
                    assert second.flags & m.GradientFlag.REPEATED
            return first

        session._asking.ask = again  # type: ignore[method-assign]
        rng = np.random.default_rng(4)
        for number in range(1, 4):
            twin.sample(rng.random(64, np.float32), int(rng.integers(10)))
            reply = await session.forward_own(batch=number)
            done = await session.tail_learn(reply, rng.integers(-128, 128, 16).astype(np.int8))
            assert np.abs(np.frombuffer(done.gradient, np.float32)).max() > 0
            await session.backward(reply, rng.standard_normal(24).astype(np.float32))
            assert (await session.stats()).samples == 1
            await session.step(number, 0.3, 1)
        await session.close()
        return {name: value.copy() for name, value in twin.params().items()}

    once, twice = asyncio.run(inside(1)), asyncio.run(inside(2))
    for name, value in once.items():
        np.testing.assert_array_equal(value, twice[name])


def test_what_a_device_refuses(root: Path) -> None:
    async def inside() -> None:
        twin = Twin(root / "ushaped")
        device = await linked(root / "ushaped", twin)
        session, u = device.session, np.zeros(16, np.int8)

        async def refused(call: Any, words: str) -> None:
            with pytest.raises(DeviceError, match=words):
                await call

        await refused(session.forward_own(), "no sample now")
        twin.sample(np.zeros(64, np.float32))
        reply = await session.forward_own()
        await refused(session.tail_learn(reply, u), "without a label")
        await refused(session.backward(reply, np.zeros(24, np.float32)), "does not hold")
        await refused(session.train(reply, 3), "does not hold")
        await refused(session.tail_learn(reply, np.zeros(15, np.int8), 1), "no tensor of this size")
        await refused(session.tail_learn(reply, u, 10), "no such class")
        reply = await session.forward(np.zeros(64, np.int8))
        await refused(session.tail_learn(reply, u), "without a label")  # it is the host's sample now
        assert (await session.tail(reply, u)).size == 10
        await session.tail_result(reply, u)
        shown = twin.result()
        assert shown is not None and shown.size == 10 and abs(shown.sum() - 1) < 0.05
        await session.close()
        other = Twin(root / "vanilla")
        device = await linked(root / "vanilla", other)
        reply = await device.session.forward(np.zeros(64, np.int8))
        await refused(device.session.tail(reply, u), "compile it with --tail")
        await device.session.close()

    asyncio.run(asyncio.wait_for(inside(), 30))


def test_running_a_file(root: Path, tmp_path: Path) -> None:
    """About what the vanilla split says."""
    with np.load(root / "data.npz") as data:
        x = data["x_test"][:40]
    np.save(tmp_path / "x.npy", x)
    asyncio.run(run_file(root / "ushaped", "twin", tmp_path / "x.npy", tmp_path / "y.npy"))
    out = np.load(tmp_path / "y.npy")
    assert out.shape == (40, 10)
    vanilla = tmp_path / "v.npy"
    asyncio.run(run_file(root / "vanilla", "twin", tmp_path / "x.npy", vanilla))
    assert np.abs(np.load(vanilla) - out).max() < 0.1


def test_algorithms_and_projects_that_do_not_fit(root: Path) -> None:
    vanilla, ushaped = ServerModel(root / "vanilla").bundle, ServerModel(root / "ushaped").bundle
    with pytest.raises(ConfigError, match="compile with --tail"):
        ALGORITHMS["ushaped"].require(vanilla, "here")
    ALGORITHMS["ushaped"].require(ushaped, "here")
    for name, algorithm in ALGORITHMS.items():
        if name != "ushaped":
            with pytest.raises(ConfigError):
                algorithm.require(ushaped, "here")
