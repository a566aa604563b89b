# SPDX-License-Identifier: Apache-2.0
"""Nothing is lost: what a killed process wrote, damaged and half-written checkpoints, full disks, a second daemon."""

from __future__ import annotations

import csv
import errno
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from command_line import succeeds
from tlc.errors import ConfigError, DataError, OutputError, UsageError
from tlc_host.store import KEEP, Checkpoint, Store

SETTINGS = {"lr": 0.05, "rounds": 3}


def note(store: Store, run: int, number: int, loss: float = 0.5, **metrics: float) -> None:
    store.round(
        run, number, loss=loss, accuracy=0.75, samples=64, seconds=1.5, bytes_up=1000, bytes_down=2000, metrics=metrics
    )


def filled(directory: Path) -> int:
    with Store(directory, write=True) as store:
        run = store.begin("psl", "ab" * 32, SETTINGS)
        store.device(run, "twin", "qemu-m4")
        for number in range(3):
            note(store, run, number, 1.0 / (number + 1), clusters=2.0)
        store.event(run, 1, "left", "twin #2: no answer")
        store.end(run)
    return run


def test_what_was_noted_is_read_again(tmp_path: Path) -> None:
    run = filled(tmp_path)
    with Store(tmp_path) as store:
        (kept,) = store.runs()
        assert (kept.id, kept.status, kept.algorithm, kept.rounds) == (run, "done", "psl", 3)
        assert kept.settings == SETTINGS and kept.ended is not None
        rounds = store.rounds(run)
        assert [row["loss"] for row in rounds] == [1.0, 0.5, 1 / 3]
        assert rounds[2]["clusters"] == 2.0 and rounds[2]["bytes_down"] == 2000
        assert [(d["name"], d["board"]) for d in store.devices(run)] == [("twin", "qemu-m4")]
        assert [(e["round"], e["kind"], e["text"]) for e in store.events(run)] == [(1, "left", "twin #2: no answer")]
        with pytest.raises(UsageError, match=r"no run 7; there are 1"):
            store.run(7)
    with pytest.raises(DataError, match="holds no runs"):
        Store(tmp_path / "elsewhere")


def test_a_loss_that_is_no_number_is_kept_as_none(tmp_path: Path) -> None:
    with Store(tmp_path, write=True) as store:
        run = store.begin("psl", "", {})
        note(store, run, 0, math.nan)
        assert store.rounds(run)[0]["loss"] is None


KILLED = """
import os, signal, sys
from pathlib import Path
from tlc_host.store import Checkpoint, Store
store = Store(Path(sys.argv[1]), write=True)
run = store.begin("psl", "bundle", {"lr": 0.05})
for number in range(3):
    store.round(run, number, loss=1.0, accuracy=0.5, samples=1, seconds=0.1, bytes_up=1, bytes_down=1)
    if number < 2:
        store.save_checkpoint(run, Checkpoint(number + 1, {"server": bytes([number]) * 1000, "loop": b"{}"}))
(Path(sys.argv[1]) / "runs" / "checkpoints" / "1-00000003.part").write_bytes(b"half of one")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_daemons_run_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert killed.returncode == -signal.SIGKILL
    with Store(tmp_path, write=True) as store:  # the lock of the dead is free
        assert store.find("psl", "bundle", {"lr": 0.1}) is None
        assert store.find("psl", "other", {"lr": 0.05}) is None
        run = store.find("psl", "bundle", {"lr": 0.05})
        assert run is not None and (run.status, run.rounds) == ("interrupted", 3)
        checkpoint = store.load_checkpoint(run.id)
        assert checkpoint == Checkpoint(2, {"server": b"\x01" * 1000, "loop": b"{}"})
        store.resume(run.id, checkpoint.rounds)
        assert [row["round"] for row in store.rounds(run.id)] == [0, 1]  # the third is done again
        note(store, run.id, 2)
        store.end(run.id)
        assert store.find("psl", "bundle", {"lr": 0.05}) is None


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "renamed"])
def test_a_damaged_checkpoint_is_passed_over_and_it_says_so(tmp_path: Path, damage: str) -> None:
    said: list[str] = []
    with Store(tmp_path, write=True, say=said.append) as store:
        run = store.begin("psl", "", {})
        paths = [store.save_checkpoint(run, Checkpoint(n, {"server": bytes([n]) * 100})) for n in (1, 2)]
        content = bytearray(paths[1].read_bytes())
        if damage == "bit":
            content[-5] ^= 1
        elif damage == "cut":
            del content[-20:]
        elif damage == "empty":
            content.clear()
        else:
            content[:] = paths[0].read_bytes()
        paths[1].write_bytes(content)
        checkpoint = store.load_checkpoint(run)
        assert checkpoint is not None and checkpoint.rounds == 1 and checkpoint.parts["server"] == b"\x01" * 100
        assert len(said) == 1 and str(paths[1]) in said[0] and "the one before it is used" in said[0]
        assert [event["kind"] for event in store.events(run)] == ["damaged"]
        paths[0].unlink()
        assert store.load_checkpoint(run) is None


def test_only_the_last_checkpoints_stay(tmp_path: Path) -> None:
    with Store(tmp_path, write=True) as store:
        run, other = store.begin("psl", "", {}), store.begin("psl", "", {})
        store.save_checkpoint(other, Checkpoint(1, {}))
        for number in (1, 9, 10, 11):
            store.save_checkpoint(run, Checkpoint(number, {"a": b"b"}))
        names = sorted(path.name for path in (tmp_path / "runs" / "checkpoints").iterdir())
    assert KEEP == 2 and names == ["1-00000010.tlc", "1-00000011.tlc", "2-00000001.tlc"]


def test_a_full_disk_is_said_and_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Store(tmp_path, write=True) as store:
        run = store.begin("psl", "", {})
        store.save_checkpoint(run, Checkpoint(1, {"a": b"kept"}))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OutputError, match=r"the disk is full; what was there before stays; free space"):
                store.save_checkpoint(run, Checkpoint(2, {"a": b"lost"}))
        assert [path.name for path in (tmp_path / "runs" / "checkpoints").iterdir()] == ["1-00000001.tlc"]
        assert store.load_checkpoint(run) == Checkpoint(1, {"a": b"kept"})


def test_a_full_database_is_said_and_nothing_is_half_noted(tmp_path: Path) -> None:
    with Store(tmp_path, write=True) as store:
        run = store.begin("psl", "", {})
        note(store, run, 0)
        pages = store._db.execute("PRAGMA page_count").fetchone()[0]
        store._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(OutputError, match=r"database or disk is full.*free space"):
            for number in range(1, 2000):
                note(store, run, number, **{f"metric {i}": 1.0 for i in range(20)})
        rounds = store.rounds(run)
        assert all("metric 19" in row for row in rounds[1:])  # a round has all of its metrics, or is not there
        store._db.execute("PRAGMA max_page_count = 100000")
        note(store, run, len(rounds))


def test_a_damaged_database_is_said(tmp_path: Path) -> None:
    filled(tmp_path)
    file = tmp_path / "runs" / "runs.sqlite"
    file.write_bytes(b"no database" * 1000)
    with pytest.raises(DataError, match=r"runs.sqlite: the store is damaged: file is not a database; move it away"):
        Store(tmp_path)


def test_a_second_daemon_is_refused_and_a_reader_is_not(tmp_path: Path) -> None:
    with Store(tmp_path, write=True) as store:
        run = store.begin("psl", "", {})
        note(store, run, 0)
        with pytest.raises(ConfigError, match=rf"another daemon \(process {os.getpid()}\) writes to this store"):
            Store(tmp_path, write=True)
        with Store(tmp_path) as reader:
            assert reader.run().status == "running" and len(reader.rounds(run)) == 1
    with Store(tmp_path, write=True) as store:
        assert store.run().status == "interrupted"


# ---- tlc runs ------------------------------------------------------------------------------------------------------------


def test_runs_are_listed_and_shown(tmp_path: Path) -> None:
    filled(tmp_path)
    assert "psl" in succeeds("runs", tmp_path).out
    (listed,) = succeeds("runs", "list", tmp_path, "--json").json
    assert (listed["id"], listed["status"], listed["rounds"]) == (1, "done", 3)
    text = succeeds("runs", "show", tmp_path).out
    assert "run 1: psl, done" in text and "lr = 0.05" in text and "twin #2: no answer" in text and "0.3333" in text
    shown: dict[str, Any] = succeeds("runs", "show", tmp_path, "1", "--json").json
    assert len(shown["rounds"]) == 3 and shown["devices"][0]["board"] == "qemu-m4"


def test_runs_are_exported_as_csv(tmp_path: Path) -> None:
    filled(tmp_path)
    out = tmp_path / "rounds.csv"
    succeeds("runs", "export", tmp_path, "--out", out)
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [float(row["loss"]) for row in rows] == [1.0, 0.5, 1 / 3]
    assert [row["clusters"] for row in rows] == ["2.0"] * 3


def test_runs_are_exported_for_tensorboard(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    filled(tmp_path)
    succeeds("runs", "export", tmp_path, "1", "--format", "tensorboard", "--out", tmp_path / "logs")
    (file,) = (tmp_path / "logs").iterdir()
    found = {}
    for event in tf.compat.v1.train.summary_iterator(str(file)):
        for value in event.summary.value:
            found[value.tag, event.step] = value.simple_value
    assert found["accuracy", 2] == 0.75 and found["loss", 1] == 0.5 and found["clusters", 0] == 2.0
