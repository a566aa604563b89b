# SPDX-License-Identifier: Apache-2.0
"""The algorithms on twins: each learns, and where two are the same by definition they do the same, bit for bit."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tlc.builder import Builder
from tlc.errors import ConfigError, DeviceError, DeviceReset, LinkError
from tlc.frontends.onnx_writer import write_onnx
from tlc.ops.base import Activation
from tlc.pipeline import Options, compile_model
from tlc.twin import TwinLibrary
from tlc_host.algorithms import ALGORITHMS
from tlc_host.algorithms.base import BatchDone, RoundDone
from tlc_host.cohort import Cohort, LinkDevice, TwinDevice
from tlc_host.config import plan
from tlc_host.loop import Loop
from tlc_host.model.optimizers import Settings as HostSettings
from tlc_host.serve import assemble, fitting, host_settings
from tlc_host.server_model import ServerModel
from tlc_host.server_worker import ServerWorker
from tlc_host.session import Session
from tlc_host.shards import Shard, deal, load_shard
from tlc_host.transports.memory import MemoryTransport

pytest.importorskip("tensorflow", reason="the host segment trains in TensorFlow: pip install 'tlc[train]'")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-learn's digits, and a dense network in two projects: cut in the middle, and before its softmax."""
    from sklearn.datasets import load_digits

    root = tmp_path_factory.mktemp("algorithms")
    digits = load_digits()
    x, y = (digits.images / 16.0).astype(np.float32).reshape(-1, 64), digits.target
    np.savez(root / "data.npz", x_train=x[:1200], y_train=y[:1200], x_test=x[1200:], y_test=y[1200:])
    net = Builder("digits", (1, 64), seed=3)
    middle = net.dense(24, activation=Activation.RELU)
    last = net.dense(10)
    net.softmax()
    model = root / "digits.onnx"
    model.write_bytes(write_onnx(net.graph()).SerializeToString())
    for name, cut in (("split", middle), ("logits", last)):
        compile_model(Options(model, "native", root / name, cut=cut, calib=root / "data.npz", train="full"))
    return root


class Outcome:
    """What a run left."""

    def __init__(self, loop: Loop, server: ServerModel, events: list[Any]) -> None:
        self.loop = loop
        self.parts = [member.kept for member in loop.cohort.members]
        self.host = server.weights()
        self.rounds = [event for event in events if isinstance(event, RoundDone)]
        self.batches = [event for event in events if isinstance(event, BatchDone)]

    def same(self, other: Outcome, *, last: bool = False) -> None:
        """Device parts (or the one that was handed on last) and host segments are equal bit for bit."""
        for one, two in list(zip(self.parts, other.parts, strict=True))[-1 if last else 0 :]:
            assert one is not None and two is not None
            for name in one:
                np.testing.assert_array_equal(one[name], two[name])
        assert self.host.keys() == other.host.keys()
        for name, value in self.host.items():
            np.testing.assert_array_equal(value, other.host[name])


def twins(project: Path, count: int) -> list[TwinDevice]:
    library = TwinLibrary(project)
    return [TwinDevice(library.create(number + 1), f"twin {number + 1}") for number in range(count)]


MODELS: dict[Path, tuple[ServerModel, dict[str, Any]]] = {}


def fresh(project: Path) -> ServerModel:
    """A host segment as it was compiled; TensorFlow's functions are built once for all tests."""
    if project not in MODELS:
        model = ServerModel(project)
        model.weights()
        MODELS[project] = model, model.snapshot()
    model, start = MODELS[project]
    model.configure(HostSettings())
    model.restore(start)
    return model


def run(
    project: Path,
    devices: int | list[Any],
    *,
    how: str = "turns",
    before: Callable[[Loop], None] = lambda loop: None,
    watch: Callable[[Loop, Any], None] = lambda loop, event: None,
    **settings: Any,
) -> Outcome:
    async def inside() -> Outcome:
        server = fresh(project)
        parts = twins(project, devices) if isinstance(devices, int) else devices
        whole = load_shard(project.parent / "data.npz", server.bundle)
        common = {"batches": 4, "batch": 4, "lr": 0.1, "seed": 5, "exchange": "batch"}
        chosen = plan({**common, **settings})
        events = []
        async with ServerWorker(server) as worker:
            shards = deal(whole, len(parts), how, seed=1)  # type: ignore[arg-type]
            loop = assemble(chosen, worker, parts, shards)
            before(loop)
            async for event in loop.events():
                events.append(event)
                watch(loop, event)
        return Outcome(loop, server, events)

    return asyncio.run(asyncio.wait_for(inside(), 60))


def accuracy(project: Path, outcome: Outcome, server: ServerModel | None = None) -> float:
    """Of the first device's part with the host segment, on the test part."""
    model = server or outcome.loop.algorithm.server.model
    test = load_shard(project.parent / "data.npz", model.bundle, "test")
    twin = TwinLibrary(project).create()
    from tlc_host.weights import pack

    part = outcome.parts[0]
    assert part is not None
    twin.set_params(pack(twin.bundle, part))
    return float((model.infer(twin.forward(test.inputs)[0])[0].argmax(1) == test.labels).mean())


# ---- identities ----


@pytest.mark.parametrize("exchange", ["sample", "batch"])
def test_epsl_without_aggregation_is_psl(root: Path, exchange: str) -> None:
    psl = run(root / "split", 3, algorithm="psl", rounds=2, exchange=exchange)
    run(root / "split", 3, algorithm="epsl", phi=0.0, rounds=2, exchange=exchange).same(psl)


def test_one_cluster_is_edgesplit(root: Path) -> None:
    one = run(root / "split", 3, algorithm="edgesplit", rounds=2)
    run(root / "split", 3, algorithm="cpsl", clusters=1, rounds=2).same(one)


def test_clusters_of_one_are_vanilla(root: Path) -> None:
    one = run(root / "split", 3, algorithm="vsl", rounds=2)
    run(root / "split", 3, algorithm="cpsl", clusters=3, rounds=2).same(one, last=True)


@pytest.mark.parametrize("name", ["splitfed-v1", "splitfed-v2", "psl", "edgesplit"])
def test_with_one_device_it_is_vanilla(root: Path, name: str) -> None:
    run(root / "split", 1, algorithm=name, rounds=2).same(run(root / "split", 1, algorithm="vsl", rounds=2))


@pytest.fixture(scope="module")
def deep(root: Path) -> Path:
    """Three dense layers on the host."""
    net = Builder("deep", (1, 64), seed=4)
    cut = net.dense(24, activation=Activation.RELU)
    net.dense(32, activation=Activation.RELU)
    net.dense(16, activation=Activation.RELU)
    net.dense(10)
    net.softmax()
    (root / "deep.onnx").write_bytes(write_onnx(net.graph()).SerializeToString())
    compile_model(Options(root / "deep.onnx", "native", root / "deep", cut=cut, calib=root / "data.npz", train="full"))
    return root / "deep"


def test_many_hops_are_one(deep: Path) -> None:
    """Over three servers the losses, and what is learned, are those of one, to the rounding of float32."""
    import onnx

    made = [name for node in onnx.load(deep / "host.onnx").graph.node for name in node.output]
    psl = run(deep, 3, algorithm="psl", rounds=2, gradient="float32")
    run(deep, 3, algorithm="multihop", rounds=2, gradient="float32").same(psl)  # none: the same bits
    relus = tuple(node.output[0] for node in onnx.load(deep / "host.onnx").graph.node if node.op_type == "Relu")
    assert len(relus) == 2
    chain = run(deep, 3, algorithm="multihop", hops=relus, rounds=2, gradient="float32")
    assert len(chain.loop.algorithm.chain) == 3  # type: ignore[attr-defined]
    for one, other in zip(chain.batches, psl.batches, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-6)
    for name, value in chain.host.items():
        np.testing.assert_allclose(value, psl.host[name], rtol=1e-5, atol=1e-7)
    with pytest.raises(ConfigError, match=f"no tensor 'relu_9'.*{made[0][:3]}"):
        run(deep, 1, algorithm="multihop", hops=("relu_9",))
    with pytest.raises(ConfigError, match="not in the order of the network"):
        run(deep, 1, algorithm="multihop", hops=relus[::-1])


def test_fedprox_without_its_term_is_fedavg(root: Path) -> None:
    one = run(root / "logits", 3, algorithm="fedavg", rounds=2)
    run(root / "logits", 3, algorithm="fedprox", mu=0.0, prox_every=2, rounds=2).same(one)


def test_an_async_update_of_one_device_is_its_own(root: Path) -> None:
    """At alpha 1 the only device's update is T; SGD goes on as if nobody had asked."""
    one = run(root / "logits", 1, algorithm="fedavg", rounds=3)
    run(root / "logits", 1, algorithm="fedasync", alpha=1.0, rounds=3).same(one)


@pytest.mark.parametrize("name", ["vsl", "epsl", "splitfed-v1", "fedavg"])
def test_twice_is_the_same(root: Path, name: str) -> None:
    project = root / ("logits" if name.startswith("fed") else "split")
    run(project, 3, algorithm=name, rounds=2).same(run(project, 3, algorithm=name, rounds=2))


# ---- what they are for ----


@pytest.mark.parametrize("name", ["vsl", "psl", "epsl", "edgesplit", "cpsl", "splitfed-v1", "splitfed-v2"])
def test_split_learning_learns(root: Path, name: str) -> None:
    outcome = run(root / "split", 3, algorithm=name, rounds=3, batches=25, batch=8, lr=0.3)
    assert len(outcome.rounds) == 3 and outcome.rounds[2].loss < 0.6 * outcome.rounds[0].loss
    assert accuracy(root / "split", outcome) > (0.6 if name == "epsl" else 0.8)


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "fedasync"])
def test_federated_learning_learns(root: Path, name: str) -> None:
    outcome = run(root / "logits", 3, algorithm=name, rounds=3, batches=25, batch=8, lr=0.3)
    assert outcome.rounds[2].loss < 0.6 * outcome.rounds[0].loss
    assert accuracy(root / "logits", outcome) > 0.75


def test_the_frozen_host_segment_stays(root: Path) -> None:
    outcome = run(root / "split", 2, algorithm="fedavg", rounds=2)
    for name, value in fresh(root / "split").weights().items():
        np.testing.assert_array_equal(outcome.host[name], value)


def test_averages_are_equal_and_between(root: Path) -> None:
    outcome = run(root / "split", 3, algorithm="edgesplit", rounds=1)
    first, *rest = outcome.parts
    for other in rest:
        for name in other:
            np.testing.assert_array_equal(first[name], other[name])


def test_backward_rows_fall_with_the_devices(root: Path) -> None:
    rows = {
        (phi, count): run(root / "split", count, algorithm="epsl", phi=phi, rounds=1)
        .rounds[0]
        .metrics["server_backward_rows"]
        for phi in (0.0, 0.5, 1.0)
        for count in (1, 4)
    }
    assert rows[0.0, 4] == 4 * rows[1.0, 4] == 4 * rows[1.0, 1] == 4 * 16
    assert rows[0.5, 4] == 16 / 2 + 4 * 16 / 2


def test_aggregated_gradients_of_equal_devices_are_their_own(root: Path) -> None:
    """Devices with the same samples send the same: the mean of gradients is each one's, at each one's smashed data."""

    def alike(loop: Loop) -> None:
        for member in loop.cohort.members:
            member.shard = loop.cohort.members[0].shard
            member.order = type(member.order)(len(member.shard), 5, 0)
            member.device.seed = 5

    aggregated = run(root / "split", 3, algorithm="epsl", phi=1.0, rounds=1, before=alike)
    apart = run(root / "split", 3, algorithm="psl", rounds=1, before=alike)
    assert aggregated.rounds[0].loss == pytest.approx(apart.rounds[0].loss, rel=1e-3)
    for name, value in aggregated.host.items():
        np.testing.assert_allclose(value, apart.host[name], rtol=2e-3, atol=2e-4)


def test_the_proximal_term_holds_back(root: Path) -> None:
    def drift(mu: float) -> float:
        first = TwinLibrary(root / "logits").create().params()
        outcome = run(root / "logits", 2, algorithm="fedprox", mu=mu, prox_every=2, rounds=1, batches=8)
        return sum(float(np.abs(outcome.parts[0][name] - first[name].astype(float)).sum()) for name in first)

    assert drift(20.0) < 0.7 * drift(0.0)


def test_nobody_waits_for_a_slow_device(root: Path) -> None:
    """Two fast devices do the rounds; what the slow one sends then is stale, and weighs less."""

    class Slow(TwinDevice):
        async def step(self, learning_rate: float) -> None:
            for _ in range(60):  # turns of the event loop
                await asyncio.sleep(0)
            await super().step(learning_rate)

    devices = [*twins(root / "logits", 2), Slow(TwinLibrary(root / "logits").create(9), "slow")]
    outcome = run(root / "logits", devices, algorithm="fedasync", rounds=3)
    assert any(done.metrics["staleness"] > 0.5 for done in outcome.rounds)
    assert {0, 1} <= {batch.device for batch in outcome.batches}


# ---- over the link ----


@pytest.mark.parametrize("exchange", ["sample", "batch"])
@pytest.mark.parametrize("name", ["epsl", "splitfed-v2"])
def test_the_link_changes_nothing(root: Path, name: str, exchange: str) -> None:
    """Twins called directly, and over the link: the same integers."""
    project = root / "split"
    settings = {"algorithm": name, "rounds": 2, "batches": 3, "exchange": exchange}
    direct = run(project, 2, **settings)

    async def linked() -> Outcome:
        library, server = TwinLibrary(project), fresh(project)
        events, sessions = [], []
        for number in range(2):
            twin = library.create(number + 1)

            async def opener(twin: Any = twin) -> MemoryTransport:
                return MemoryTransport(twin.receive, twin.send, twin.poll)

            sessions.append(await Session.connect(opener, bytes.fromhex(library.bundle.hash), name=f"twin {number}"))
        try:
            async with ServerWorker(server) as worker:
                devices = [LinkDevice(session, library.bundle, project) for session in sessions]
                chosen = plan({"batch": 4, "lr": 0.1, "seed": 5, **settings})
                whole = load_shard(project.parent / "data.npz", server.bundle)
                loop = assemble(chosen, worker, devices, deal(whole, 2))
                async for event in loop.events():
                    events.append(event)
        finally:
            for session in sessions:
                await session.close()
        return Outcome(loop, server, events)

    through = asyncio.run(asyncio.wait_for(linked(), 60))
    through.same(direct)
    assert through.rounds[0].bytes_up > 3 * 4 * 24 and through.rounds[0].slowest


# ---- who is left out ----


class Faulty(TwinDevice):
    """Fails, or never answers, in its n-th forward pass; an error clears with ``recover``."""

    def __init__(self, project: Path, name: str, at: int, error: Exception | None) -> None:
        super().__init__(TwinLibrary(project).create(99), name)
        self.at, self.error, self.calls, self.recovered = at, error, 0, 0
        self.released = asyncio.Event()

    async def forward(self, x: Any) -> Any:
        self.calls += 1
        if self.calls == self.at:
            if self.error is not None:
                raise self.error
            await self.released.wait()
        return await super().forward(x)

    async def recover(self) -> None:
        self.recovered += 1


FAULTS = [
    LinkError("the line broke", where="bad"),
    DeviceReset("restarted", where="bad"),
    DeviceError("STATE", where="bad"),
]


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("name", ["psl", "epsl", "edgesplit", "cpsl", "splitfed-v1", "splitfed-v2", "fedavg"])
def test_a_drop_out_ends_no_round(root: Path, name: str, error: Exception) -> None:
    project = root / ("logits" if name.startswith("fed") else "split")
    bad = Faulty(project, "bad", 3, error)
    outcome = run(project, [*twins(project, 2), bad], algorithm=name, rounds=2)
    first, second = outcome.rounds
    assert [left.name for left in first.left_out] == ["bad"] and error.rule in first.left_out[0].reason  # type: ignore[attr-defined]
    assert not second.left_out and len(second.devices) == 3 and bad.recovered == 1


def test_who_is_late_is_left_out_once_a_quorum_has_answered(root: Path) -> None:
    project = root / "split"
    bad = Faulty(project, "late", 2, None)
    outcome = run(project, [*twins(project, 3), bad], algorithm="psl", rounds=2, deadline_s=0.05)
    first, second = outcome.rounds
    assert [(left.name, "no answer within 0.05 s" in left.reason) for left in first.left_out] == [("late", True)]
    assert first.samples == 16 * 4 - 3 * 4 and second.samples == 16 * 4
    assert not second.left_out  # it was brought back into step, and answers again


def test_who_never_comes_back_holds_nobody_up(root: Path) -> None:
    class Gone(Faulty):
        async def recover(self) -> None:
            self.recovered += 1
            await self.released.wait()

    gone = Gone(root / "split", "gone", 2, None)
    outcome = run(root / "split", [*twins(root / "split", 2), gone], algorithm="psl", rounds=3, deadline_s=0.05)
    assert [[left.name for left in done.left_out] for done in outcome.rounds] == [["gone"]] * 3
    assert gone.recovered == 2 and outcome.rounds[2].samples == 2 * 16


def test_a_run_that_is_left_leaves_nothing_behind(root: Path) -> None:
    project = root / "logits"

    async def inside() -> int:
        server = fresh(project)
        whole = load_shard(root / "data.npz", server.bundle)
        chosen = plan({"algorithm": "fedasync", "rounds": 9, "batches": 4, "batch": 2, "exchange": "batch"})
        async with ServerWorker(server) as worker:
            loop = assemble(chosen, worker, twins(project, 3), deal(whole, 3))
            events = loop.events()
            async for event in events:
                if isinstance(event, RoundDone):
                    break
            await events.aclose()
            return len(asyncio.all_tasks())

    assert asyncio.run(inside()) == 1


def test_below_the_quorum_a_round_waits(root: Path) -> None:
    """Two of two must answer: the deadline passes, and the late one is waited for."""
    project = root / "split"
    bad = Faulty(project, "late", 1, None)

    def later(loop: Loop) -> None:
        asyncio.get_running_loop().call_later(0.15, bad.released.set)

    outcome = run(project, [*twins(project, 1), bad], algorithm="psl", deadline_s=0.02, quorum=1.0, before=later)
    assert not outcome.rounds[0].left_out and outcome.rounds[0].samples == 16 * 2


def test_what_a_late_device_did_in_a_round_does_not_count(root: Path) -> None:
    """Its next round begins with what it had when the last one ended, without gradients of before."""
    project = root / "split"
    bad = Faulty(project, "late", 2, None)
    seen: list[Any] = []

    def watch(loop: Loop, event: Any) -> None:
        if isinstance(event, RoundDone) and event.round == 0:
            member = loop.cohort.members[-1]
            seen.append({name: value.copy() for name, value in (member.kept or {}).items()})
            bad.twin.forward(member.shard.inputs[:1])
            bad.twin.backward(np.ones(24, np.float32))  # something half done
            bad._samples += 1

    run(project, [*twins(project, 2), bad], algorithm="psl", rounds=2, batches=1, lr=1e-9, deadline_s=0.05, watch=watch)
    for name, value in bad.twin.params().items():
        np.testing.assert_array_equal(value, seen[0][name])


def test_devices_join_and_leave(root: Path) -> None:
    project = root / "split"
    extra = TwinDevice(TwinLibrary(project).create(50), "newcomer")

    def watch(loop: Loop, event: Any) -> None:
        if not isinstance(event, RoundDone):
            return
        if event.round == 0:
            loop.cohort.join(extra, loop.cohort.members[0].shard)
        if event.round == 1:
            loop.cohort.leave(loop.cohort.members[0])

    outcome = run(project, 2, algorithm="edgesplit", rounds=3, watch=watch)
    assert [done.devices for done in outcome.rounds] == [
        ("twin 1", "twin 2"), ("twin 1", "twin 2", "newcomer"), ("twin 2", "newcomer"),
    ]  # fmt: skip


def test_a_cohort_that_never_answers_is_given_up(root: Path) -> None:
    class Dead(TwinDevice):
        async def forward(self, x: Any) -> Any:
            raise LinkError("no line", where=self.name)

    library = TwinLibrary(root / "split")
    dead = [Dead(library.create(number), f"dead {number}") for number in (1, 2)]
    with pytest.raises(LinkError, match="no device has got through 3 rounds; the last error: dead 1: no line"):
        run(root / "split", dead, algorithm="psl", rounds=9)
    with pytest.raises(LinkError, match="dead 1: no line"):  # alone: nobody to go on with
        run(root / "split", dead[:1], algorithm="psl", rounds=9)


# ---- state ----


ADAMW = {"host_optimizer": "adamw", "host_lr": 0.01, "host_decay": 0.1, "host_schedule": "cosine", "host_clip": 0.5}
MOMENTUM = {"host_optimizer": "momentum", "host_momentum": 0.8, "host_schedule": "step", "host_warm_up": 3}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("vsl", {}),
        ("psl", ADAMW),
        ("cpsl", {}),
        ("splitfed-v1", MOMENTUM),
        ("splitfed-v2", {}),
        ("multihop", ADAMW),
        ("fedavg", {}),
        ("gossip", {}),
        ("clustered", {}),
        ("tinyreptile", {}),
        ("distillation", {}),
    ],
)
def test_a_run_goes_on_elsewhere(root: Path, name: str, more: dict[str, Any]) -> None:
    """From the state between rounds, on fresh twins: the trajectory of a run that was not interrupted."""
    import json

    alone = ("fedavg", "gossip", "clustered", "tinyreptile", "distillation")
    project = root / ("logits" if name in alone else "split")
    whole = run(project, 3, algorithm=name, rounds=4, **more)
    kept: list[Any] = []

    def keep(loop: Loop, event: Any) -> None:
        if isinstance(event, RoundDone) and event.round == 1:
            model = loop.algorithm.server.model
            kept.append((json.dumps(loop.state()), model.save() if model.bundle.split else b""))

    run(project, 3, algorithm=name, rounds=4, watch=keep, **more)

    async def rest() -> Outcome:
        server = fresh(project)
        common = {"rounds": 4, "batches": 4, "batch": 4, "lr": 0.1, "seed": 5, "exchange": "batch"}
        chosen = plan({"algorithm": name, **common, **more})
        data = load_shard(project.parent / "data.npz", server.bundle)
        async with ServerWorker(server) as worker:
            loop = assemble(chosen, worker, twins(project, 3), deal(data, 3))
            server.load(kept[0][1])
            await loop.restore(json.loads(kept[0][0]))
            events = [event async for event in loop.events()]
        return Outcome(loop, server, events)

    later = asyncio.run(rest())
    assert [done.round for done in later.rounds] == [2, 3]
    later.same(whole)


# ---- settings ----


def test_unknown_names_and_keys() -> None:
    with pytest.raises(ConfigError, match=r"--algorithm: no algorithm 'espl'; did you mean epsl"):
        plan({"algorithm": "espl"})
    with pytest.raises(ConfigError, match=r"t.toml: algorithm 'epsl' has no key 'batchs'; did you mean batches, batch"):
        plan({"algorithm": "epsl", "batchs": 3}, {"batchs": "t.toml"})
    with pytest.raises(ConfigError, match=r"algorithm 'psl' has no key 'phi'; it belongs to epsl"):
        plan({"algorithm": "psl", "phi": 0.5})
    with pytest.raises(ConfigError, match=r"phi must be less than or equal to 1, but is 2"):
        plan({"algorithm": "epsl", "phi": 2})


def test_every_algorithm_says_what_it_is() -> None:
    for name, algorithm in ALGORITHMS.items():
        assert algorithm.name == name and algorithm.title and ("arXiv" in algorithm.paper or "20" in algorithm.paper)
        for key, field in algorithm.Settings.model_fields.items():
            assert field.description, f"{name}: {key}"


def test_a_cohort_needs_samples(root: Path) -> None:
    from tlc.errors import DataError

    empty = Shard(np.zeros((0, 64), np.int8), np.zeros(0, np.int64))
    with pytest.raises(DataError, match="no samples to learn from"):
        Cohort().join(twins(root / "split", 1)[0], empty)


@pytest.mark.parametrize("name", ["fedavg", "fedasync", "gossip", "tinyreptile", "clustered"])
def test_a_whole_network_that_judges_itself(root: Path, name: str) -> None:
    """--cut none --loss softmax-ce: samples and labels go down, no gradient; no host segment is there."""
    from tlc.learning import Learning

    project = root / "whole"
    if not project.exists():
        options = Options(root / "digits.onnx", "native", project, cut="none", calib=root / "data.npz", train="full")
        compile_model(dataclasses.replace(options, learning=Learning(loss="softmax-ce")))
    more = {"visits": 6} if name == "tinyreptile" else {}

    async def inside() -> list[RoundDone]:
        server = ServerModel(project)
        whole = load_shard(root / "data.npz", server.bundle)
        chosen = plan({"algorithm": name, "rounds": 3, "batches": 25, "batch": 8, "lr": 0.3, "seed": 5, **more})
        async with ServerWorker(server) as worker:
            loop = assemble(chosen, worker, twins(project, 3), deal(whole, 3))
            return [event async for event in loop.events() if isinstance(event, RoundDone)]

    rounds = asyncio.run(inside())
    assert rounds[2].loss < 0.75 * rounds[0].loss and rounds[2].accuracy > 0.7


# ---- without a global model ----


@pytest.mark.parametrize("name", ["gossip", "tinyreptile", "distillation", "transfer", "clustered", "local"])
def test_the_others_learn(root: Path, name: str) -> None:
    more = {"visits": 3} if name == "tinyreptile" else {}
    project = root / "logits"
    outcome = run(project, 3, algorithm=name, rounds=3, batches=25, batch=8, lr=0.3, **more)
    assert outcome.rounds[2].loss < 0.8 * outcome.rounds[0].loss
    assert accuracy(project, outcome) > 0.7


def test_mixing_matrices_keep_the_mean() -> None:
    from tlc_host.algorithms.gossip import mixing_matrix

    for topology in ("ring", "line", "full"):
        for count in (1, 2, 3, 8):
            weights = mixing_matrix(count, topology)
            np.testing.assert_allclose(weights.sum(axis=0), 1)
            np.testing.assert_allclose(weights, weights.T)
            assert (weights >= 0).all()
    np.testing.assert_allclose(np.linalg.matrix_power(mixing_matrix(8, "ring"), 200), 1 / 8, atol=1e-6)


def test_gossip_brings_a_ring_together(root: Path) -> None:
    def spread(name: str, **settings: Any) -> float:
        parts = run(root / "logits", 4, algorithm=name, rounds=1, batches=6, lr=0.3, **settings).parts
        return float(np.std([np.concatenate([v.ravel() for v in part.values()]) for part in parts], axis=0).mean())

    apart = spread("local")
    assert spread("gossip", mixes=1) < 0.8 * apart and spread("gossip", mixes=12) < 0.25 * apart


def test_gossip_among_all_is_fedavg(root: Path) -> None:
    """With a full topology one mix is the average; both round what is left alike in the first round."""
    one = run(root / "logits", 3, algorithm="fedavg", rounds=1)
    run(root / "logits", 3, algorithm="gossip", topology="full", rounds=1).same(one)


def test_clusters_find_who_belongs_together(root: Path) -> None:
    """Half of the devices have other labels for the same images: one T cannot serve both."""

    def swap(loop: Loop) -> None:
        for member in loop.cohort.members[2:]:
            member.shard = Shard(member.shard.inputs, (member.shard.labels + 5) % 10)

    common = {"rounds": 6, "batches": 12, "batch": 8, "lr": 0.3}
    clustered = run(root / "logits", 4, algorithm="clustered", before=swap, **common)
    assert sorted(map(sorted, clustered.loop.algorithm.clusters)) == [[0, 1], [2, 3]]  # type: ignore[attr-defined]
    together = run(root / "logits", 4, algorithm="fedavg", before=swap, **common)
    assert clustered.rounds[-1].accuracy > together.rounds[-1].accuracy + 0.1
    alike = run(root / "logits", 4, algorithm="clustered", **common)
    assert alike.rounds[-1].metrics["clusters"] == 1


def test_bipartition() -> None:
    from tlc_host.algorithms.clustered import bipartition

    similarity = np.array([[1, 0.9, -0.5, 0.1], [0.9, 1, -0.4, 0], [-0.5, -0.4, 1, 0.3], [0.1, 0, 0.3, 1]])
    assert bipartition(similarity).tolist() == [False, False, True, True]


def test_the_coral_gradient_is_its_derivative() -> None:
    from tlc_host.algorithms.transfer import coral

    rng = np.random.default_rng(0)
    features, source = rng.standard_normal((7, 4)), np.cov(rng.standard_normal((50, 4)), rowvar=False)
    _, gradient = coral(features, source)
    for place in np.ndindex(features.shape):
        step = np.zeros_like(features)
        step[place] = 1e-6
        slope = (coral(features + step, source)[0] - coral(features - step, source)[0]) / 2e-6
        assert gradient[place] == pytest.approx(slope, rel=1e-4, abs=1e-9)


def test_coral_brings_the_features_nearer(root: Path) -> None:
    """Without labels: the covariance of shifted inputs' features comes nearer to the source's."""
    from tlc_host.algorithms.transfer import Transfer, coral

    project = root / "split"
    whole = load_shard(root / "data.npz", fresh(project).bundle)
    dim = Shard((whole.inputs.astype(int) // 2 - 64).astype(np.int8), whole.labels)  # half the contrast

    def shifted(loop: Loop) -> None:
        loop.cohort.members[0].shard = dim

    def distance(weight: float) -> float:
        settings = {"algorithm": "transfer", "supervised": 0.0, "coral": weight, "source": str(root / "data.npz")}
        outcome = run(project, 1, before=shifted, rounds=1, batches=40, batch=32, lr=1.0, **settings)
        algorithm = outcome.loop.algorithm
        assert isinstance(algorithm, Transfer)
        device = outcome.loop.cohort.members[0].device
        z = asyncio.run(device.forward(dim.inputs))
        return coral(algorithm.features(z), algorithm.source_covariance())[0]

    assert distance(200.0) < 0.7 * distance(1e-9)
    with pytest.raises(ConfigError, match="coral needs source"):
        plan({"algorithm": "transfer", "coral": 1.0})


def test_others_teach(root: Path) -> None:
    """The teacher of a device is the mean of the others', label by label."""
    outcome = run(root / "logits", 3, algorithm="distillation", rounds=2, batches=30, how="dirichlet")
    algorithm: Any = outcome.loop.algorithm
    teacher = algorithm.teacher(0)
    others = [algorithm.taught[1], algorithm.taught[2]]
    np.testing.assert_allclose(teacher, np.nanmean(others, axis=0), rtol=1e-9)
    known = ~np.isnan(teacher[:, 0])
    np.testing.assert_allclose(teacher[known].sum(axis=1), 1)


def test_what_needs_outputs_is_refused_without(root: Path) -> None:
    from tlc.learning import Learning

    bundle = fresh(root / "split").bundle.model_copy(update={"learning": Learning(loss="softmax-ce")})
    for name in ("transfer", "distillation"):
        with pytest.raises(ConfigError, match=f"'{name}' makes the gradient on the host"):
            ALGORITHMS[name].require(bundle, "p")
    whole = bundle.model_copy(update={"host_sha256": None})
    for name in ("vsl", "psl", "epsl", "cpsl", "edgesplit", "splitfed-v1", "splitfed-v2"):
        with pytest.raises(ConfigError, match="there is no host segment"):
            ALGORITHMS[name].require(whole, "p")
    ALGORITHMS["fedavg"].require(whole, "p")


# ---- scale ----


@pytest.mark.parametrize("name", ["epsl", "edgesplit"])
def test_a_fleet_is_its_twins(root: Path, name: str) -> None:
    """Forty sessions at once through the link code: losses as of the twins called directly."""
    from tlc_host.fleet import fleet

    settings = {"algorithm": name, "batches": 2, "batch": 2, "lr": 0.1, "seed": 5, "exchange": "sample"}
    if name == "epsl":
        settings["phi"] = 1.0
    seen: list[Any] = []
    result = asyncio.run(
        fleet(root / "split", 40, plan({**settings, "rounds": 1}), data=root / "data.npz", on_event=seen.append)
    )
    direct = run(root / "split", 40, **{**settings, "rounds": 2})
    found = [event.loss for event in seen if isinstance(event, RoundDone)]
    assert found == [done.loss for done in direct.rounds]
    assert result.left_out == 0 and result.rounds == 1 and result.bytes_up > 40 * 2 * 2 * 24
    if name == "epsl":
        assert [event.metrics["server_backward_rows"] for event in seen if isinstance(event, RoundDone)] == [4, 4]


def test_the_event_loop_gets_round_between_two_twins(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many have something to do at once, in a turn of the loop a few of them compute, and a few are asked."""
    from tlc.twin import Twin
    from tlc_host.cohort.cohort import BEGIN
    from tlc_host.fleet import fleet
    from tlc_host.transports.memory import TOGETHER

    computed: list[set[int]] = [set()]
    asked = [0]
    poll, forward = Twin.poll, LinkDevice.forward

    def noted_poll(self: Twin, now: int) -> bool:
        computed[-1].add(id(self))
        return poll(self, now)

    async def noted_forward(self: LinkDevice, x: Any) -> Any:
        asked[-1] += 1
        return await forward(self, x)

    async def turns() -> None:
        while True:
            await asyncio.sleep(0)
            computed.append(set())
            asked.append(0)

    async def watched() -> Any:
        watch = asyncio.ensure_future(turns())
        try:
            return await fleet(root / "split", 40, plan({"algorithm": "psl", "batches": 1, "batch": 2}))
        finally:
            watch.cancel()

    monkeypatch.setattr(Twin, "poll", noted_poll)
    monkeypatch.setattr(LinkDevice, "forward", noted_forward)
    assert asyncio.run(watched()).left_out == 0
    # the end of a turn and the beginning of the next lie between two looks
    assert 0 < max(len(some) for some in computed) <= 2 * TOGETHER
    assert 0 < max(asked) <= 2 * BEGIN


def test_the_collector_leaves_out_what_stays_while_a_run_goes_on(root: Path) -> None:
    import gc

    frozen: list[int] = []
    run(root / "split", 2, algorithm="psl", batches=2, watch=lambda *_: frozen.append(gc.get_freeze_count()))
    assert min(frozen) > 100_000 and gc.get_freeze_count() == 0


def test_the_fleet_command(root: Path) -> None:
    from command_line import refused, succeeds

    out = succeeds(
        "fleet", root / "split", "--devices", 7, "--batches", 1, "--batch", 2, "--algorithm", "psl", "--json"
    ).json
    assert out["devices"] == 7 and out["algorithm"] == "psl" and out["rounds_per_s"] > 0 and out["peak_bytes"] > 1e7
    few = ("--devices", 1201, "--data", root / "data.npz")
    refused(root, 1, "fleet", root / "split", *few, says=("1200 samples for 1201 devices",))


# ---- the command line ----


def test_settings_from_a_file_the_command_line_and_set(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from command_line import refused, succeeds

    (tmp_path / "tlc.toml").write_text('[train]\nalgorithm = "epsl"\nphi = 0.5\nrounds = 2\nbatches = 1\nbatch = 2\n')
    monkeypatch.chdir(tmp_path)
    command = ("serve", root / "split", "--device", "twin", "--device", "twin", "--train", root / "data.npz", "--once")
    curves = tmp_path / "c.svg"
    answer = succeeds(*command, "--json", "--set", "phi=1.0", "--batches", 2, "--curves", curves).json
    assert answer["algorithm"] == "epsl" and [done["samples"] for done in answer["rounds"]] == [8, 8]
    rows = [done["metrics"]["server_backward_rows"] for done in answer["rounds"]]
    assert rows == [4, 4]  # phi from --set, batches from the option
    assert curves.read_text().count("<polyline") == 2
    shown = succeeds("config").out
    assert "phi = 0.5" in shown and "algorithm = 'epsl'" in shown
    (tmp_path / "tlc.toml").write_text('[train]\nalgorithm = "epsl"\nphii = 0.5\n')
    refused(tmp_path, 2, *command, says=("tlc.toml", "algorithm 'epsl' has no key 'phii'", "did you mean phi"))
    (tmp_path / "tlc.toml").write_text("[train]\nrounds = [\n")
    refused(tmp_path, 2, *command, says=("tlc.toml", "is no TOML"))
    (tmp_path / "tlc.toml").write_text("[tran]\nrounds = 1\n")
    refused(tmp_path, 2, *command, says=("tlc.toml", "no table 'tran'", "[train]"))
    (tmp_path / "tlc.toml").unlink()
    refused(tmp_path, 2, *command, "--algorithm", "esplit", says=("--algorithm", "no algorithm 'esplit'", "epsl"))
    refused(tmp_path, 2, *command, "--set", "phi", says=("--set", "'phi' is no KEY=VALUE"))


def test_the_host_segment_learns_as_the_settings_say(root: Path) -> None:
    """The rate is its own, goes to 0 with the run's last step, and the devices' is another."""
    plain = run(root / "split", 2, algorithm="psl", rounds=2)
    slow = run(root / "split", 2, algorithm="psl", rounds=2, host_lr=1e-12)
    start = fresh(root / "split").weights()
    for name, value in slow.host.items():
        np.testing.assert_allclose(value, start[name], atol=1e-9)
        assert np.abs(plain.host[name] - start[name]).max() > 1e-4
    settings = {"rounds": 2, "batches": 5, **MOMENTUM}
    for name, devices, steps in (("vsl", 3, 30), ("psl", 3, 10), ("splitfed-v1", 3, 10), ("cpsl", 3, 20)):
        told = host_settings(plan({"algorithm": name, **settings}), devices)
        assert (told.optimizer, told.momentum, told.schedule.warmup) == ("momentum", 0.8, 3)
        rates = [told.schedule(step) for step in range(3, 3 + steps)]
        assert [rates.count(rate) for rate in (1.0, 0.5, 0.25)] == [-(-steps // 3)] * 2 + [steps - 2 * -(-steps // 3)]
        falls = host_settings(plan({"algorithm": name, "rounds": 2, "batches": 5, "host_schedule": "cosine"}), devices)
        assert 0 < falls.schedule(steps - 1) < 0.03 and falls.schedule(steps) == 0
    # the trainer really has them, and takes the rate that the schedule says
    falls_to = run(root / "split", 2, algorithm="psl", rounds=1, **ADAMW).loop.algorithm.server.model
    assert (falls_to.settings.optimizer, falls_to.settings.clip_norm, falls_to.settings.schedule.total) == (
        "adamw",
        0.5,
        4,
    )
    assert {name.split("/")[0] for name in falls_to.snapshot()} >= {"m", "v", "weight"}


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"host_optimizer": "adamm"}, "host_optimizer must be 'sgd', 'momentum', 'adam' or 'adamw', but is adamm"),
        ({"host_optimizer": "momentum", "host_momentum": 1.0}, "host_momentum must be less than 1, but is 1.0"),
        ({"host_optimzer": "adam"}, "did you mean host_optimizer"),
        ({"host_lr": -0.1}, "host_lr must be .* 0, but is -0.1"),
        ({"host_decay": 0.1}, "host_decay has no effect on host_optimizer 'sgd'; it belongs to adamw"),
        ({"algorithm": "fedavg", "host_lr": 0.1}, "with algorithm 'fedavg' the host segment does not learn"),
    ],
)
def test_settings_of_the_host_segment_that_make_no_sense(values: dict[str, Any], rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        plan(values)


def test_a_network_without_a_host_segment_has_no_settings_of_one(root: Path) -> None:
    from tlc import bundle as bundles

    bundle = bundles.load(root / "split")
    learning = bundle.learning
    assert learning is not None
    whole = bundle.model_copy(
        update={"host_sha256": None, "learning": dataclasses.replace(learning, loss="softmax-ce")}
    )
    assert fitting(plan({"batches": 3}), whole).settings.batches == 3
    with pytest.raises(ConfigError, match="host_lr has no effect: with algorithm 'local'"):
        fitting(plan({"host_lr": 0.1}), whole)


def test_every_key_is_explained() -> None:
    from command_line import succeeds

    text = succeeds("config", "--explain").out
    for algorithm in ALGORITHMS.values():
        for key, field in algorithm.Settings.model_fields.items():
            assert f"{key} = " in text and (field.description or "?") in text
    keys = succeeds("config", "--explain", "--algorithm", "epsl", "--json").json
    assert [key["name"] for key in keys if key["algorithm"]] == ["phi"]


def test_the_page_is_what_the_files_say() -> None:
    from tlc_host.docs import with_algorithms

    page = (Path(__file__).resolve().parents[2] / "docs" / "algorithms.md").read_text(encoding="utf-8")
    assert with_algorithms(page) == page, "run python -m tlc_host.docs"


# ---- the host segment and the event loop ----


def test_the_loop_goes_on_while_the_host_segment_computes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    model = fresh(root / "split")
    ticked = threading.Event()
    original = model.gradient

    def slow(*arguments: Any, **more: Any) -> Any:
        assert ticked.wait(20), "the event loop stood still"
        return original(*arguments, **more)

    monkeypatch.setattr(model, "gradient", slow)

    def soon(loop: Loop) -> None:
        asyncio.get_running_loop().call_later(0.05, ticked.set)

    assert run(root / "split", 2, algorithm="psl", batches=1, before=soon).rounds[0].samples == 8


def test_an_answer_of_another_batch_is_refused(root: Path) -> None:
    from tlc.errors import ProtocolError
    from tlc.twin import Twin
    from tlc_host import messages as m
    from tlc_host.session import SmashedReply

    class Mixed:
        name, hello = "mixed up", m.Hello()

        async def forward(self, x: Any, *, keep: bool, exit: None, step: int, batch: int) -> SmashedReply:
            return SmashedReply(1, (np.zeros(24, np.int8),), 0, batch=batch + 1)

    device = LinkDevice(Mixed(), Twin(root / "split").bundle)  # type: ignore[arg-type]
    with pytest.raises(ProtocolError, match="mixed up: asked for batch 1 with 24 values, it sent batch 2 with 24"):
        asyncio.run(device.forward(np.zeros((1, 64), np.int8)))


def test_curves(tmp_path: Path) -> None:
    from tlc.errors import OutputError
    from tlc_host.live import write_curves

    batches = [BatchDone(0, -1, n, 2.0 / n, 1 - 1 / n, 4) for n in range(1, 9)]
    write_curves(tmp_path / "c.svg", "A < B", batches, [])
    text = (tmp_path / "c.svg").read_text()
    assert text.startswith("<svg") and "A &lt; B" in text and "step 1 to 8" in text
    assert len(text.split('points="')[1].split('"')[0].split()) == 8
    with pytest.raises(OutputError, match=r"curves go to .svg or .png"):
        write_curves(tmp_path / "c.gif", "", batches, [])
    with pytest.raises(OutputError, match="cannot be written"):
        write_curves(tmp_path / "none" / "c.svg", "", batches, [])
    pytest.importorskip("matplotlib")
    write_curves(tmp_path / "c.png", "t", batches, [])
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.png", "c.svg"]
