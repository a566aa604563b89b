# SPDX-License-Identifier: Apache-2.0
"""Several cuts over the link: CUT, `tlc run`, `tlc train` and `tlc serve` with --cut."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import refused, succeeds
from tlc import bundle as bundles
from tlc.builder import Builder
from tlc.errors import ConfigError, DeviceError, DeviceReset
from tlc.frontends.onnx_writer import write_onnx
from tlc.ops.base import Activation
from tlc.pipeline import Options, compile_model
from tlc.twin import Twin
from tlc_host import messages as m
from tlc_host.algorithms import ALGORITHMS
from tlc_host.session import Session
from tlc_host.transports.memory import MemoryTransport

SHALLOW, MIDDLE, DEEP = "dense_out", "dense_1_out", "dense_2_out"
rng = np.random.default_rng(3)


class Projects:
    """A network with three cuts in one bundle, which begins in the middle; and each of them alone."""

    def __init__(self, root: Path) -> None:
        net = Builder("digits", (1, 16), seed=3)
        for units in (12, 20, 8):
            net.dense(units, activation=Activation.RELU)
        net.dense(4)
        net.softmax()
        self.root = root
        self.model = root / "digits.onnx"
        self.model.write_bytes(write_onnx(net.graph()).SerializeToString())
        self.x = rng.random((48, 16), np.float32)
        self.data = root / "data.npz"
        np.savez(self.data, x=self.x, y=rng.integers(0, 4, 48))
        common: dict[str, Any] = {"calib": self.data, "train": "full"}
        self.several = root / "several"
        compile_model(Options(self.model, "native", self.several, cuts=(MIDDLE, SHALLOW, DEEP), **common))
        self.alone = {cut: root / cut for cut in (SHALLOW, DEEP)}
        for cut, directory in self.alone.items():
            compile_model(Options(self.model, "native", directory, cut=cut, **common))


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Projects:
    return Projects(tmp_path_factory.mktemp("cuts"))


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 60))


def connect(twin: Twin, cut: int | None, **options: Any) -> Coroutine[Any, Any, Session]:
    async def opener() -> MemoryTransport:
        return MemoryTransport(twin.receive, twin.send, twin.poll)

    return Session.connect(opener, bytes.fromhex(twin.bundle.hash), cut=cut, **options)


def test_from_cut_to_cut(projects: Projects) -> None:
    """A gradient that no step took is gone; what was learned stays; each cut is that of the bundle alone."""
    twin, alone = Twin(projects.several), Twin(projects.alone[DEEP])
    x = rng.integers(-128, 128, (1, 16)).astype(np.int8)
    gradient = rng.standard_normal(8).astype(np.float32)

    async def work() -> None:
        async with await connect(twin, 0) as session:
            reply = await session.forward(x)
            assert reply.outputs[0].size == 12  # no greeting at the cut that the device begins with
            assert (await session.backward(reply, np.ones(12, np.float32))).samples == 1
            assert (
                await session._asking.done(m.Cut(request=session._asking.number(), index=0))
            ).flags & m.DoneFlag.REPEATED
            assert (await session.stats()).samples == 1
            await session.select(2)
            assert (await session.stats()).samples == 0
            with pytest.raises(DeviceError, match="does not hold"):
                await session.backward(reply, gradient)
            reply = await session.forward(x)
            with pytest.raises(DeviceError, match="no gradient of this size"):
                await session.backward(reply, np.ones(12, np.float32))
            reply = await session.forward(x)
            np.testing.assert_array_equal(reply.outputs[0], alone.forward(x)[0][0])
            await session.backward(reply, gradient)
            await session.step(1, 0.3, 5)
            alone.backward(gradient)
            alone.update(0.3, 1, 5)
            learned = await session.get_params()
            assert learned == b"".join(value.tobytes() for value in alone.params().values())
            with pytest.raises(DeviceError, match=r"not so many cuts \(ARG\)"):
                await session.select(3)
            assert (await session.forward(x)).outputs[0].size == 8
            await session.select(0)
            assert await session.get_params() == learned

    run(work)


def test_a_reset_does_not_change_the_cut(projects: Projects) -> None:
    twin = Twin(projects.several)
    assert twin.bundle.cut == MIDDLE

    async def work() -> None:
        async with await connect(twin, 2, timeout_s=20) as session:
            x = np.zeros((1, 16), np.int8)
            assert (await session.forward(x)).outputs[0].size == 8
            await session.select(0)
            twin.reboot(9)
            with pytest.raises(DeviceReset):
                while True:
                    await session.forward(x)
            await session.greet()
            assert (await session.forward(x)).outputs[0].size == 12

    run(work)


def test_its_own_samples_come_at_the_cut(projects: Projects) -> None:
    twin, sizes = Twin(projects.several), []

    async def work() -> None:
        done = asyncio.Event()

        def answer(reply: Any) -> np.ndarray:
            sizes.append(reply.outputs[0].size)
            done.set()
            return np.zeros(4, np.float32)

        twin.sample(np.zeros(16, np.float32))  # it has one before anybody greets it
        async with await connect(twin, 2, on_sample=answer) as session:
            await done.wait()
            await session.select(0)
            done.clear()
            twin.sample(np.zeros(16, np.float32))
            await done.wait()

    run(work)
    assert sizes == [8, 12]


def test_a_device_of_one_cut_has_no_other(projects: Projects) -> None:
    async def work() -> None:
        async with await connect(Twin(projects.alone[DEEP]), None) as session:
            await session.select(0)
            with pytest.raises(DeviceError, match="not so many cuts"):
                await session.select(1)
        with pytest.raises(DeviceError, match="refuses the cut: this bundle has not so many cuts"):
            await connect(Twin(projects.alone[DEEP]), 1)

    run(work)


@pytest.mark.parametrize("device", ["twin", "native"])
def test_run_at_a_cut(projects: Projects, device: str, tmp_path: Path) -> None:
    x, one, other = tmp_path / "x.npy", tmp_path / "one.npy", tmp_path / "other.npy"
    np.save(x, projects.x[:5])
    for cut, directory in projects.alone.items():
        for raw in ([], ["--raw"]):
            files = ["--input", x, "--output"]
            if raw:
                np.save(x, rng.integers(-128, 128, (5, 16)).astype(np.int8))
            succeeds("run", projects.several, "--device", device, "--cut", cut, *files, one, *raw)
            succeeds("run", directory, *files, other, *raw)
            np.testing.assert_array_equal(np.load(one), np.load(other))
        np.save(x, projects.x[:5])


def test_train_at_a_cut(projects: Projects) -> None:
    """Losses and learned tensors are those of the bundle of that cut alone; the host's parts are kept apart."""
    pytest.importorskip("tensorflow")
    common = ["--data", projects.data, "--batches", "4", "--batch", "3", "--json"]
    several = succeeds("train", projects.several, "--cut", SHALLOW, *common).json
    alone = succeeds("train", projects.alone[SHALLOW], *common).json
    assert several["losses"] == alone["losses"] and Path(several["host"]).name == f"host_{SHALLOW}.trained.onnx"
    trained = (projects.several / f"host_{SHALLOW}.trained.onnx").read_bytes()
    assert trained == (projects.alone[SHALLOW] / "host.trained.onnx").read_bytes()
    changes = {row["name"]: row for row in several["learned"]}
    for row in alone["learned"]:
        assert changes.pop(row["name"]) == row
    assert len(changes) == 4 and all(row["changed"] == 0 for row in changes.values())
    refused(
        projects.several,
        1,
        *("run", projects.several, "--trained", "--input", projects.data, "--output", projects.root / "y.npy"),
        says=("there is no trained host segment",),
    )


def test_serve_at_a_cut(projects: Projects) -> None:
    pytest.importorskip("tensorflow")
    common = ["--device", "twin", "--device", "twin", "--train", projects.data, "--batches", "2", "--batch", "2"]
    common += ["--algorithm", "edgesplit", "--once", "--json"]
    several = succeeds("serve", projects.several, "--cut", DEEP, *common).json
    alone = succeeds("serve", projects.alone[DEEP], *common).json
    assert [row["loss"] for row in several["steps"]] == [row["loss"] for row in alone["steps"]]


def test_refusals(projects: Projects) -> None:
    at, y = projects.several, projects.root / "y.npy"
    files = ("--input", projects.data, "--output", y)
    says = ("--cut dense_3_out: the project has no such cut", "did you mean dense_2_out, dense_1_out, dense_out?")
    refused(projects.root, 2, "run", at, "--cut", "dense_3_out", *files, says=says)
    refused(projects.root, 2, "serve", at, "--cut", "dense_3_out", says=says)
    refused(projects.root, 2, "train", at, "--cut", "dense_3_out", "--data", projects.data, says=says)
    refused(projects.root, 2, "fleet", at, "--cut", "dense_3_out", says=says)
    compile_model(
        Options(
            projects.model, "native", projects.root / "last", cuts=(SHALLOW, DEEP), calib=projects.data, train="last"
        )
    )
    bundle = bundles.load(projects.root / "last")
    for name, algorithm in ALGORITHMS.items():
        if algorithm.ushaped or algorithm.exits:
            continue
        with pytest.raises(
            ConfigError, match=f"'{name}' trains.*nothing learns before the cut at 'dense_out'; take --cut dense_2"
        ):
            algorithm.require(bundle, "here")
        algorithm.require(bundle.at(DEEP), "here")
