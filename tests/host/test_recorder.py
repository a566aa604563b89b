# SPDX-License-Identifier: Apache-2.0
"""A training that is killed goes on as if nothing had been: rounds, both halves and every random state, bit for bit."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tlc.errors import OutputError
from tlc.twin import TwinLibrary
from tlc_host.algorithms.base import RoundDone
from tlc_host.cohort import TwinDevice
from tlc_host.config import plan
from tlc_host.recorder import recorded
from tlc_host.serve import Training, assemble, prepare_shards
from tlc_host.server_model import ServerModel
from tlc_host.server_worker import ServerWorker
from tlc_host.store import Store

pytest.importorskip("tensorflow", reason="the host segment trains in TensorFlow: pip install 'tlc[train]'")

ROUNDS = 4


@pytest.fixture
def copy(project: Path, tmp_path: Path) -> Path:
    return fresh(project, tmp_path / "project")


def fresh(project: Path, to: Path) -> Path:
    """A copy without the runs that other tests have recorded there."""
    return Path(shutil.copytree(project, to, ignore=shutil.ignore_patterns("runs")))


def train(
    directory: Path, data: Path, algorithm: str, *, stop_after: int = ROUNDS
) -> tuple[list[float], dict[str, Any], list[str]]:
    """Rounds' losses, all weights, and what was said. Stops without a word after some rounds, as a lost process would."""
    values = {"algorithm": algorithm, "rounds": ROUNDS, "batches": 2, "batch": 3, "seed": 9}
    training = Training(data, plan(values), "dirichlet")
    library = TwinLibrary(directory)
    said: list[str] = []

    async def run() -> tuple[list[float], dict[str, Any]]:
        losses = []
        model = ServerModel(directory)
        shards = prepare_shards(training, model, 3)
        twins = [library.create(boot) for boot in (1, 2, 3)]
        devices = [TwinDevice(twin, f"twin {i}") for i, twin in enumerate(twins)]
        with Store(directory, write=True, say=said.append) as store:
            async with ServerWorker(model) as server:
                loop = assemble(training.plan, server, devices, shards)
                async with aclosing(recorded(loop, store, values)) as events:
                    async for event in events:
                        if isinstance(event, RoundDone):
                            losses.append(event.loss)
                            if event.round + 1 == stop_after < ROUNDS:
                                break
        weights = {f"host/{name}": value for name, value in model.weights().items()}
        for number, twin in enumerate(twins):
            weights |= {f"{number}/{name}": value for name, value in twin.params().items()}
        return losses, weights

    losses, weights = asyncio.run(run())
    return losses, weights, said


@pytest.mark.parametrize("algorithm", ["splitfed-v2"])
def test_an_interrupted_run_goes_on_bit_for_bit(project: Path, models: Path, tmp_path: Path, algorithm: str) -> None:
    straight, broken = (fresh(project, tmp_path / name) for name in ("straight", "broken"))
    wanted, weights, _ = train(straight, models / "x.npz", algorithm)
    first, _, _ = train(broken, models / "x.npz", algorithm, stop_after=2)
    rest, reached, said = train(broken, models / "x.npz", algorithm)
    assert first + rest == wanted
    assert said == ["run 1 goes on after 2 rounds"]
    assert weights.keys() == reached.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(reached[name], value, err_msg=name)
    with Store(broken) as store:
        (run,) = store.runs()
        assert (run.status, run.rounds) == ("done", ROUNDS)
        assert [row["loss"] for row in store.rounds(run.id)] == wanted
        assert {device["name"] for device in store.devices(run.id)} == {"twin 0", "twin 1", "twin 2"}
    again, _, _ = train(broken, models / "x.npz", algorithm)  # that one was done: a new run
    assert again == wanted


def test_a_damaged_checkpoint_costs_a_round_and_nothing_else(copy: Path, models: Path) -> None:
    first, _, _ = train(copy, models / "x.npz", "psl", stop_after=2)
    newest = max((copy / "runs" / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:-100])
    rest, _, said = train(copy, models / "x.npz", "psl")
    assert rest[0] == first[1] and len(rest) == ROUNDS - 1
    assert str(newest) in said[0] and said[1] == "run 1 goes on after 1 rounds"


def test_a_full_disk_ends_the_run_and_it_goes_on_later(
    copy: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, _, _ = train(copy, models / "x.npz", "psl")
    real = Store.save_checkpoint

    def full(self: Store, run: int, checkpoint: Any) -> Path:
        if checkpoint.rounds == 2:
            raise OutputError("the disk is full", where="runs")
        return real(self, run, checkpoint)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "save_checkpoint", full)
        with pytest.raises(OutputError, match="the disk is full"):
            train(copy, models / "x.npz", "psl")
    with Store(copy) as store:
        assert store.run().status == "interrupted"
        assert [event["kind"] for event in store.events(store.run().id)] == ["error"]
    rest, _, _ = train(copy, models / "x.npz", "psl")
    assert rest == wanted[1:]


class Lost(BaseException):
    """The process is gone: nobody closes a run."""


def test_tlc_train_goes_on_too(copy: Path, models: Path, tmp_path: Path) -> None:
    """One device over the link, with an optimizer that remembers; both halves and the file of the host's end alike."""
    from tlc_host.train import train as train_one

    straight = fresh(copy, tmp_path / "straight")
    values = {"rounds": 3, "batches": 2, "batch": 2, "host_optimizer": "adam", "host_lr": 0.01}
    said: list[str] = []

    def once(directory: Path, last: int = 99, **more: Any) -> Any:
        def watch(event: Any) -> None:
            if isinstance(event, RoundDone) and event.round + 1 == last:
                raise Lost

        training = Training(models / "x.npz", plan(values | more))
        return asyncio.run(train_one(directory, "twin", training, say=said.append, on_event=watch))

    wanted = once(straight)
    with pytest.raises(Lost):
        once(copy, 2)
    assert not (copy / "host.trained.onnx").exists()
    rest = once(copy)
    assert said == ["run 1 goes on after 2 rounds"]
    assert wanted.losses[4:] == rest.losses and (rest.first_step, rest.last_step) == (4, 6)
    assert (copy / "host.trained.onnx").read_bytes() == (straight / "host.trained.onnx").read_bytes()
    ends = []
    for directory in (straight, copy):
        with Store(directory) as store:
            (run,) = store.runs()
            assert (run.status, run.rounds, run.settings["command"]) == ("done", 3, "train")
            checkpoint = store.load_checkpoint(run.id)
            assert checkpoint is not None
            ends.append((checkpoint.parts["server"], json.loads(checkpoint.parts["loop"])))
    assert ends[0] == ends[1]


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from tlc_host.algorithms.base import RoundDone
from tlc_host.config import plan
from tlc_host.serve import Training, serve

def watch(event):
    if isinstance(event, RoundDone) and event.round + 1 == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

values = {"algorithm": "psl", "rounds": 3, "batches": 2, "batch": 2}
training = Training(Path(sys.argv[2]), plan(values))
asyncio.run(serve(Path(sys.argv[1]), ["twin", "twin"], training=training, on_event=watch, once=True, say=print))
"""


@pytest.mark.slow
def test_kill_9_and_the_same_command_again(copy: Path, models: Path, tmp_path: Path) -> None:
    """The daemon itself, over the link, in processes of their own."""
    straight = fresh(copy, tmp_path / "straight")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}

    def daemon(directory: Path, last: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED, str(directory), str(models / "x.npz"), str(last)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)

    assert daemon(straight, 99).returncode == 0
    assert daemon(copy, 2).returncode == -signal.SIGKILL
    resumed = daemon(copy, 99)
    assert resumed.returncode == 0, resumed.stderr
    assert "goes on after 2 rounds" in resumed.stdout
    ends = []
    for directory in (straight, copy):
        with Store(directory) as store:
            run = store.run()
            losses = [row["loss"] for row in store.rounds(run.id)]
            checkpoint = store.load_checkpoint(run.id)
            assert checkpoint is not None and (run.status, len(losses), checkpoint.rounds) == ("done", 3, 3)
            ends.append((losses, checkpoint.parts["server"], json.loads(checkpoint.parts["loop"])))
    assert ends[0] == ends[1]
