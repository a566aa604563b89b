# SPDX-License-Identifier: Apache-2.0
"""A head at the cut in use: AdaSplit takes no gradient down, early exit sends what the device is not sure of, and both are other
algorithms where their settings say so."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from tlc.builder import Builder
from tlc.cli import cli
from tlc.errors import ConfigError, DeviceError
from tlc.frontends.onnx_writer import write_onnx
from tlc.learning import Learning
from tlc.ops.base import Activation
from tlc.pipeline import Options, compile_model
from tlc.twin import Twin, TwinLibrary
from tlc_host import messages as m
from tlc_host.algorithms import ALGORITHMS
from tlc_host.algorithms.adasplit import AdaSplit, Orchestrator
from tlc_host.algorithms.base import BatchDone, RoundDone
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
    """One network with a head, without one, and with one that cannot learn."""
    from sklearn.datasets import load_digits

    root = tmp_path_factory.mktemp("exits")
    digits = load_digits()
    x, y = (digits.images / 16.0).astype(np.float32).reshape(-1, 64), digits.target
    np.savez(root / "data.npz", x_train=x[:1200], y_train=y[:1200], x_test=x[1200:], y_test=y[1200:])
    np.save(root / "x.npy", x[:1200])
    net = Builder("digits", (1, 64), seed=3)
    cut = net.dense(24, activation=Activation.RELU)
    net.dense(24, activation=Activation.RELU)
    net.dense(10)
    net.softmax()
    model = root / "digits.onnx"
    model.write_bytes(write_onnx(net.graph()).SerializeToString())
    common: dict[str, Any] = {"cut": cut, "train": "full"}
    # x.npy has no labels: the head begins with random weights, and training shows
    compile_model(Options(model, "native", root / "head", calib=root / "x.npy", aux_head=True, **common))
    compile_model(Options(model, "native", root / "plain", calib=root / "x.npy", **common))
    fitted = {"cut": cut, "calib": root / "data.npz", "aux_head": True}
    compile_model(Options(model, "native", root / "fitted", **fitted))
    return root


class Outcome:
    """What a run left."""

    def __init__(self, loop: Any, server: ServerModel, events: list[Any]) -> None:
        self.parts = [member.kept for member in loop.cohort.members]
        self.host = {name: value.copy() for name, value in server.weights().items()}
        self.losses = np.array([event.loss for event in events if isinstance(event, BatchDone)])
        self.rounds = [event for event in events if isinstance(event, RoundDone)]
        self.algorithm = loop.algorithm


async def linked(project: Path, twin: Twin, **options: Any) -> LinkDevice:
    async def opener() -> MemoryTransport:
        return MemoryTransport(twin.receive, twin.send, twin.poll)

    session = await Session.connect(opener, bytes.fromhex(twin.bundle.hash), name="twin", **options)
    session.sensor = twin.sample
    return LinkDevice(session, twin.bundle, project)


def run(project: Path, algorithm: str, count: int = 2, *, over_link: bool = False, **settings: Any) -> Outcome:
    async def inside() -> Outcome:
        server, library = ServerModel(project), TwinLibrary(project)
        twins = [library.create(number + 1) for number in range(count)]
        devices: list[Any] = [TwinDevice(twin, f"twin {i}") for i, twin in enumerate(twins)]
        if over_link:
            devices = [await linked(project, twin) for twin in twins]
        shards = deal(load_shard(project.parent / "data.npz", server.bundle), count, "turns", seed=1)
        given = {"batches": 10, "batch": 4, "lr": 0.1, "seed": 5, **settings}
        events = []
        async with ServerWorker(server) as worker:
            loop = assemble(plan({"algorithm": algorithm, **given}), worker, devices, shards)
            async for event in loop.events():
                events.append(event)
        if over_link:
            for device in devices:
                await device.session.close()
        return Outcome(loop, server, events)

    return asyncio.run(asyncio.wait_for(inside(), 60))


def same(one: Outcome, two: Outcome) -> None:
    for a, b in zip(one.parts, two.parts, strict=True):
        for name in a.keys() & b.keys():
            np.testing.assert_array_equal(a[name], b[name], name)
    for name, value in one.host.items():
        np.testing.assert_array_equal(value, two.host[name], name)


class Wire:
    """Every message both ways."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.down: list[m.Message] = []
        self.up: list[m.Message] = []
        pack, parse = m.Message.pack, m.parse

        def packed(message: m.Message) -> bytes:
            self.down.append(message)
            return pack(message)

        def parsed(kind: int, payload: bytes) -> m.Message:
            self.up.append(parse(kind, payload))
            return self.up[-1]

        monkeypatch.setattr(m.Message, "pack", packed)
        monkeypatch.setattr(m, "parse", parsed)


# ---- AdaSplit ------------------------------------------------------------------------------------------------------------


def test_adasplit_takes_no_gradient_down_and_the_link_changes_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"rounds": 2, "batches": 5, "kappa": 0.6, "share": 0.5}
    direct = run(root / "head", "adasplit", **settings)
    wire = Wire(monkeypatch)
    through = run(root / "head", "adasplit", over_link=True, **settings)
    same(direct, through)
    np.testing.assert_array_equal(direct.losses[-4:], through.losses[-4:])
    assert not any(isinstance(message, m.Backward) for message in wire.down)
    lessons = [message for message in wire.down if isinstance(message, m.Train)]
    assert len(lessons) == 2 * 2 * 5 * 4
    assert all(message.kind == m.TrainKind.LABEL and not message.data for message in lessons)  # 0 bytes of gradient
    sent = [len(message.tensor) for message in wire.up if isinstance(message, m.Smashed)]
    assert sent.count(24) == 4 * 4 and sent.count(10) == len(lessons) - 4 * 4  # z of one device in 4 steps of 10
    before = next(i for i, size in enumerate(sent) if size == 24)
    assert before >= 2 * 6 * 4  # and not before the local phase has ended


def test_adasplit_learns_both_halves(root: Path) -> None:
    outcome = run(root / "head", "adasplit", rounds=6, batches=20, share=0.5)
    assert outcome.losses[-10:].mean() < 0.5 * outcome.losses[:10].mean()
    metrics = [done.metrics for done in outcome.rounds]
    assert [done["local steps"] for done in metrics] == [20, 20, 20, 12, 0, 0]
    assert "host loss" not in metrics[0] and metrics[5]["host loss"] < 0.8 * metrics[3]["host loss"]


def test_adasplit_all_local_is_local_learning(root: Path) -> None:
    """κ = 1: the host segment stays as it was, and every device goes its own way."""
    outcome = run(root / "head", "adasplit", rounds=1, kappa=1.0)
    start = ServerModel(root / "head").weights()
    for name, value in outcome.host.items():
        np.testing.assert_array_equal(value, start[name])
    assert all((outcome.parts[0][name] != outcome.parts[1][name]).any() for name in outcome.parts[0])


def test_adasplit_masks(root: Path) -> None:
    """They begin at 1; the penalty makes them sparse, and each device's is its own."""
    settings = {"rounds": 2, "batches": 15, "kappa": 0.0, "share": 1.0}
    outcome = run(root / "head", "adasplit", sparsity=0.3332, **settings)
    algorithm = outcome.algorithm
    assert isinstance(algorithm, AdaSplit)
    one, two = algorithm.masks[0], algorithm.masks[1]
    zeros = np.mean([float((mask == 0).mean()) for mask in one.values()])
    assert zeros > 0.3 and any((one[name] != two[name]).any() for name in one)
    for name, mask in one.items():
        np.testing.assert_allclose(outcome.host[name], algorithm.theta[name] * (mask + two[name]) / 2, atol=1e-6)
    other = AdaSplit(algorithm.settings, algorithm.cohort, algorithm.server)
    other.restore(json.loads(json.dumps(algorithm.state())))
    assert json.dumps(other.state()) == json.dumps(algorithm.state())
    without = run(root / "head", "adasplit", **settings)
    gentle = run(root / "head", "adasplit", sparsity=1e-9, **settings)
    assert abs(without.rounds[0].metrics["host loss"] - gentle.rounds[0].metrics["host loss"]) < 0.3


def test_the_orchestrator() -> None:
    """By hand: who was never chosen first, then losses and how long ago they were seen."""
    chief = Orchestrator(0.5)
    assert chief.choose([0, 1, 2], 2) == [0, 1]
    chief.note([0, 1, 2], {0: 1.0, 1: 3.0})
    assert chief.choose([0, 1, 2], 2) == [1, 2]
    chief.note([0, 1, 2], {1: 3.0, 2: 2.0})
    assert chief.seen == {0: [1.0, 0.5, 0.5, 1.0], 1: [4.5, 1.5, 3.0, 3.0], 2: [2.0, 1.0, 2.0, 0.0]}
    bonus = np.sqrt(2 * np.log(2))
    for device, (loss, chosen) in {0: (1.0, 0.5), 1: (4.5, 1.5), 2: (2.0, 1.0)}.items():
        assert chief.advantage(device) == pytest.approx(loss / chosen + bonus / np.sqrt(chosen))


# ---- early exit ----------------------------------------------------------------------------------------------------------


def test_without_a_weight_it_is_parallel_split_learning(root: Path) -> None:
    settings = {"rounds": 2, "batches": 5, "exchange": "batch"}
    psl = run(root / "head", "psl", **settings)
    same(psl, run(root / "head", "early-exit", weight=0.0, **settings))
    same(run(root / "plain", "psl", **settings), psl)  # whose device has the same T, whether there is a head or not
    weighted = run(root / "head", "early-exit", **settings)
    assert any((weighted.parts[0][name] != psl.parts[0][name]).any() for name in psl.parts[0])


def test_both_exits_learn_and_the_link_changes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = {"rounds": 1, "batches": 4, "exchange": "batch", "probe": 6}
    direct = run(root / "head", "early-exit", **short)
    wire = Wire(monkeypatch)
    through = run(root / "head", "early-exit", over_link=True, **short)
    same(direct, through)
    assert direct.rounds[0].metrics == through.rounds[0].metrics
    lessons = [message for message in wire.down if isinstance(message, m.Train)]
    assert len(lessons) == 2 * 4 * 4 and all(message.kind == m.TrainKind.BOTH_S8 for message in lessons)
    outcome = run(root / "head", "early-exit", rounds=6, batches=20, threshold=0.5, exchange="batch")
    first, last = outcome.rounds[0].metrics, outcome.rounds[-1].metrics
    assert outcome.losses[-10:].mean() < 0.5 * outcome.losses[:10].mean()
    assert last["head loss"] < 0.6 * first["head loss"]
    assert last["exits"] > first["exits"] and last["answers right"] > 0.7


@pytest.fixture(scope="module")
def trained(root: Path) -> Path:
    """The labels' part of the data set with its images, for ``tlc run``."""
    with np.load(root / "data.npz") as data:
        np.savez(root / "test.npz", x_test=data["x_test"][:80], y_test=data["y_test"][:80])
    return root / "test.npz"


@pytest.mark.parametrize("device", ["twin", "link"])
def test_a_file_at_each_end_of_the_threshold(
    root: Path, trained: Path, tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 is plain split inference; at 0 the device answers all, and no smashed data are on the link."""
    import tlc_host.run

    project = root / "fitted"
    monkeypatch.setattr(
        tlc_host.run, "is_capturing", lambda: device == "link"
    )  # then the twin is spoken with over the link
    wire = Wire(monkeypatch)

    def ran(threshold: float | None) -> tuple[Any, Any, list[int]]:
        wire.up.clear()
        target = tmp_path / "out.npy"
        result = asyncio.run(run_file(project, "twin", trained, target, exit=threshold))
        return result, np.load(target), [len(x.tensor) for x in wire.up if isinstance(x, m.Smashed)]

    plain, outputs, sent = ran(None)
    never, same_outputs, same_sent = ran(1.0)
    np.testing.assert_array_equal(outputs, same_outputs)
    assert (plain.exits, never.exits, never.accuracy) == (None, 0, plain.accuracy) and sent == same_sent
    assert sent == ([] if device == "twin" else [24] * 80)
    always, own, sent = ran(0.0)
    assert always.exits == 80 and sent == ([] if device == "twin" else [10] * 80)
    twin = Twin(project)
    with np.load(trained) as data:
        x = twin.bundle.inputs[0].to_device(data["x_test"])
        y = data["y_test"]
    for row, sample in zip(own, x, strict=True):
        twin.forward(sample[np.newaxis])
        np.testing.assert_array_equal(row, (twin.head()[0].astype(np.float32) + 128) / 256)
    assert always.accuracy == np.mean(own.argmax(1) == y) and always.accuracy > 0.7
    some, mixed, sent = ran(0.6)
    exits = own.max(1) > 0.6
    assert some.exits == exits.sum() and 0 < some.exits < 80
    np.testing.assert_array_equal(mixed, np.where(exits[:, np.newaxis], own, outputs))
    assert sent == ([] if device == "twin" else np.where(exits, 10, 24).tolist())


def test_samples_of_its_own(root: Path) -> None:
    """The device answers those that it is sure of, and sends nothing of them."""

    async def inside(threshold: float | None) -> tuple[list[Any], int, m.Stats]:
        project, asked = root / "fitted", []
        twin = Twin(project)

        def hook(reply: Any) -> Any:
            asked.append(reply)
            return np.full(10, 7, np.float32)

        device = await linked(project, twin, on_sample=hook)
        if threshold is not None:
            await device.session.set_exit(threshold)
        with np.load(root / "data.npz") as data:
            x = data["x_test"][:20]
        shown = []
        for sample in twin.bundle.inputs[0].quant.dequantize(twin.bundle.inputs[0].to_device(x)):
            twin.sample(sample)
            while (result := twin.result()) is None:
                await asyncio.sleep(0.001)
            shown.append(result)
        stats = await device.session.stats()
        await device.session.close()
        return shown, len(asked), stats

    for threshold in (None, 1.0):
        shown, asked, stats = asyncio.run(asyncio.wait_for(inside(threshold), 30))
        assert asked == 20 and (stats.sampled, stats.exited) == (20, 0) and all((row == 7).all() for row in shown)
    shown, asked, stats = asyncio.run(asyncio.wait_for(inside(0.0), 30))
    assert asked == 0 and (stats.sampled, stats.exited) == (20, 20) and all(abs(row.sum() - 1) < 0.05 for row in shown)
    shown, asked, stats = asyncio.run(asyncio.wait_for(inside(0.6), 30))
    own = sum(row[0] != 7 for row in shown)
    assert 0 < own < 20 and asked == 20 - own and stats.exited == own


def test_the_daemon_tells_how_many(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sets the threshold, and sets it again after the device's reset."""
    import tlc_host.serve as daemon

    monkeypatch.setattr(daemon, "WATCH_S", 0.01)
    monkeypatch.setattr(daemon, "EXITS_TOLD", 5)
    said: list[str] = []

    async def inside() -> None:
        twin = Twin(root / "fitted")
        device = await linked(root / "fitted", twin, on_sample=lambda reply: np.zeros(10, np.float32))
        watch = asyncio.create_task(daemon._watch(device.session, said.append, 0.0))
        for times in (1, 2):
            while len(said) < 3 * times - 2:
                twin.sample(np.full(64, 0.5, np.float32))
                await asyncio.sleep(0.002)
            if times == 1:
                twin.reboot(2)
                while len(said) < 3:
                    await asyncio.sleep(0.01)
        watch.cancel()
        await device.session.close()

    asyncio.run(asyncio.wait_for(inside(), 60))
    assert "itself (100.0%)" in said[0] and "restarted" in said[1] and said[2].endswith("back")
    assert "itself (100.0%)" in said[3]


# ---- what does not fit -----------------------------------------------------------------------------------------------------


def test_projects_without_a_head(root: Path, tmp_path: Path) -> None:
    plain = ServerModel(root / "plain").bundle
    for name in ("adasplit", "early-exit"):
        with pytest.raises(ConfigError, match=r"no head at the cut.*--aux-head") as error:
            ALGORITHMS[name].require(plain, "here")
        assert "\n" not in str(error.value)
        ALGORITHMS[name].require(ServerModel(root / "head").bundle, "here")
    with pytest.raises(ConfigError, match="no head at the cut"):
        asyncio.run(run_file(root / "plain", "twin", root / "x.npy", tmp_path / "y.npy", exit=0.5))
    for name in ("adasplit", "early-exit"):
        with pytest.raises(ConfigError, match="nothing learns"):
            ALGORITHMS[name].require(ServerModel(root / "fitted").bundle, "here")

    async def inside() -> None:
        device = await linked(root / "plain", Twin(root / "plain"))
        session, x = device.session, np.zeros(64, np.int8)
        assert not session.hello.capabilities & m.Capability.EXIT
        for call in (session.infer(x, exit=0.5), session.set_exit(0.5)):
            with pytest.raises(DeviceError, match="compile it with --aux-head"):
                await call
        reply = await session.forward(x)
        with pytest.raises(DeviceError, match="compile it with --aux-head"):
            await session.train(reply, np.zeros(24, np.int8), label=3)
        await session.close()
        device = await linked(root / "head", Twin(root / "head"))
        assert device.session.hello.capabilities & m.Capability.EXIT
        reply = await device.session.forward(x)
        with pytest.raises(DeviceError, match="no such class"):
            await device.session.train(reply, np.zeros(24, np.int8), label=10)
        await device.session.close()

    asyncio.run(asyncio.wait_for(inside(), 30))


def test_updates_at_once(root: Path) -> None:
    """AdaSplit works with them, early exit does not."""
    out = root / "at-once"
    source = {"cut": ServerModel(root / "head").bundle.cut, "calib": root / "x.npy", "train": "full"}
    learning = Learning(batch="1")
    compile_model(Options(root / "digits.onnx", "native", out, aux_head=True, learning=learning, **source))
    with pytest.raises(ConfigError, match="--train-batch many"):
        ALGORITHMS["early-exit"].require(ServerModel(out).bundle, "here")
    outcome = run(out, "adasplit", rounds=4, batches=40, batch=1, lr=0.03)
    assert outcome.losses[-40:].mean() < outcome.losses[:40].mean()


@pytest.mark.parametrize("threshold", ["-0.1", "1.5", "nan"])
def test_a_threshold_that_is_none(root: Path, tmp_path: Path, threshold: str) -> None:
    command = ["run", str(root / "fitted"), "--device", "twin", "--exit", threshold]
    result = CliRunner().invoke(cli, [*command, "--input", str(root / "x.npy"), "--output", str(tmp_path / "y.npy")])
    assert result.exit_code != 0 and "0" in result.output and "Traceback" not in result.output
