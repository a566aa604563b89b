# SPDX-License-Identifier: Apache-2.0
"""What a daemon must not lose: runs, rounds, metrics, devices and events in SQLite, and checkpoints in files beside it.

::

    DIR/runs/
        runs.sqlite         write-ahead log; readable while a daemon writes
        lock                held by the daemon that writes
        checkpoints/RUN-ROUND.tlc

A checkpoint is written to another name, brought to the disk and renamed, so that it is there whole or not at all; it
carries its SHA-256. The last ``KEEP`` are kept: where the newest is damaged, the one before it is used.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tlc.errors import ConfigError, DataError, OutputError, UsageError

__all__ = ["KEEP", "STORE_DIR", "Checkpoint", "Run", "Store"]

STORE_DIR = "runs"
"""In a project."""
KEEP = 2
"""Checkpoints of a run that stay."""
VERSION = 1
MAGIC = b"tlc checkpoint 1\n"
DIGEST = hashlib.sha256().digest_size

SCHEMA = """
CREATE TABLE runs (
    id INTEGER PRIMARY KEY, started REAL NOT NULL, ended REAL, status TEXT NOT NULL, algorithm TEXT NOT NULL,
    bundle TEXT NOT NULL, settings TEXT NOT NULL);
CREATE TABLE rounds (
    run INTEGER NOT NULL REFERENCES runs(id), round INTEGER NOT NULL, time REAL NOT NULL, loss REAL, accuracy REAL,
    samples INTEGER NOT NULL, seconds REAL NOT NULL, bytes_up INTEGER NOT NULL, bytes_down INTEGER NOT NULL,
    PRIMARY KEY (run, round));
CREATE TABLE metrics (
    run INTEGER NOT NULL REFERENCES runs(id), round INTEGER NOT NULL, name TEXT NOT NULL, value REAL,
    PRIMARY KEY (run, round, name));
CREATE TABLE devices (
    run INTEGER NOT NULL REFERENCES runs(id), name TEXT NOT NULL, board TEXT NOT NULL, first REAL NOT NULL,
    last REAL NOT NULL, PRIMARY KEY (run, name));
CREATE TABLE events (
    id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs(id), time REAL NOT NULL, round INTEGER NOT NULL,
    kind TEXT NOT NULL, text TEXT NOT NULL);
"""

COLUMNS = ("round", "time", "loss", "accuracy", "samples", "seconds", "bytes_up", "bytes_down")


@dataclass(frozen=True)
class Run:
    """A row of ``runs``; times are seconds since 1970."""

    id: int
    started: float
    ended: float | None
    status: str
    """``running``, ``done``, ``failed``; ``interrupted`` where its daemon is gone."""
    algorithm: str
    bundle: str
    settings: Mapping[str, Any]
    rounds: int


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run goes on from after ``rounds`` rounds: named parts, as bytes."""

    rounds: int
    parts: Mapping[str, bytes]


class Store:
    """The store of a project.

    Args:
        directory: of the project.
        write: as a daemon: makes the store where there is none, and holds it alone until :meth:`close`.
        say: told of what a person should know, such as a damaged checkpoint.

    Raises:
        ConfigError: another daemon holds it.
        DataError: there is none to read, or it is damaged.
        OutputError: it cannot be written.
    """

    def __init__(self, directory: Path, *, write: bool = False, say: Callable[[str], None] = lambda text: None) -> None:
        self.path = Path(directory) / STORE_DIR
        self.write = write
        self.say = say
        self._lock: int | None = None
        file = self.path / "runs.sqlite"
        if write:
            with self._writing(self.path):
                (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
                self._lock = self._take_lock()
        elif not file.is_file():
            raise DataError("holds no runs", where=str(directory), remedy="tlc serve --train keeps them there")
        with self._reading(file):
            self._db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA foreign_keys = ON")
            if write:
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0 and write:
                self._db.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
            elif version != VERSION:
                raise DataError(f"is of version {version}, not {VERSION}", where=str(file), remedy="move it away")
        if write:  # whoever ran before us is gone: the lock is ours
            self._do("UPDATE runs SET status = 'interrupted' WHERE status = 'running'")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of it."""
        self._db.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # ---- writing -----------------------------------------------------------------------------------------------------

    def begin(self, algorithm: str, bundle: str, settings: Mapping[str, Any]) -> int:
        """A new run; gives its number."""
        cursor = self._do(
            "INSERT INTO runs (started, status, algorithm, bundle, settings) VALUES (?, 'running', ?, ?, ?)",
            (time.time(), algorithm, bundle, json.dumps(dict(settings), sort_keys=True)),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def find(self, algorithm: str, bundle: str, settings: Mapping[str, Any]) -> Run | None:
        """The newest run of the same bundle and settings that was interrupted: the one that the same command goes on with."""
        for run in self.runs():
            same = (run.algorithm, run.bundle, dict(run.settings)) == (algorithm, bundle, dict(settings))
            if same and run.status == "interrupted":
                return run
        return None

    def resume(self, run: int, rounds: int) -> None:
        """Goes on with a run from a checkpoint after ``rounds`` rounds: what was noted since is forgotten."""
        with self._transaction():
            self._do("UPDATE runs SET status = 'running', ended = NULL WHERE id = ?", (run,))
            for table in ("rounds", "metrics"):
                self._do(f"DELETE FROM {table} WHERE run = ? AND round >= ?", (run, rounds))
            self.event(run, rounds, "resumed", f"goes on after {rounds} rounds")

    def end(self, run: int, status: str = "done") -> None:
        """The run is over: ``done`` or ``failed``."""
        self._do("UPDATE runs SET status = ?, ended = ? WHERE id = ?", (status, time.time(), run))

    def round(
        self,
        run: int,
        number: int,
        *,
        loss: float,
        accuracy: float,
        samples: int,
        seconds: float,
        bytes_up: int,
        bytes_down: int,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Notes a round, counted from 0, and what the algorithm tells beside."""
        with self._transaction():
            values = (_real(loss), _real(accuracy), samples, seconds, bytes_up, bytes_down)
            self._do(
                "INSERT OR REPLACE INTO rounds VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (run, number, time.time(), *values)
            )
            for name, value in (metrics or {}).items():
                self._do("INSERT OR REPLACE INTO metrics VALUES (?, ?, ?, ?)", (run, number, name, _real(value)))

    def device(self, run: int, name: str, board: str = "") -> None:
        """A device was there."""
        now = time.time()
        self._do(
            "INSERT INTO devices VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET last = excluded.last",
            (run, name, board, now, now),
        )

    def event(self, run: int, number: int, kind: str, text: str) -> None:
        """Something happened in a round: a device left, a checkpoint was damaged."""
        self._do(
            "INSERT INTO events (run, time, round, kind, text) VALUES (?, ?, ?, ?, ?)",
            (run, time.time(), number, kind, text),
        )

    def save_checkpoint(self, run: int, checkpoint: Checkpoint) -> Path:
        """Writes a checkpoint whole or not at all, then removes those before the last ``KEEP``.

        Raises:
            OutputError: the disk is full, or the file cannot be written; the checkpoints before it stay.
        """
        path = self._checkpoint(run, checkpoint.rounds)
        scratch = path.with_suffix(".part")
        index = {name: len(part) for name, part in checkpoint.parts.items()}
        head = json.dumps({"run": run, "rounds": checkpoint.rounds, "parts": index}).encode() + b"\n"
        content = head + b"".join(checkpoint.parts.values())
        with self._writing(path):
            try:
                with scratch.open("wb") as file:
                    file.write(MAGIC + hashlib.sha256(content).digest() + content)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(scratch, path)
                _sync_directory(path.parent)
            finally:
                scratch.unlink(missing_ok=True)
            for _, old in self._checkpoints(run)[KEEP:]:
                old.unlink(missing_ok=True)
        return path

    # ---- reading -----------------------------------------------------------------------------------------------------

    def load_checkpoint(self, run: int) -> Checkpoint | None:
        """The newest checkpoint that is whole; says which ones are not. None: there is none."""
        for rounds, path in self._checkpoints(run):
            try:
                return _parse(path.read_bytes(), run, rounds)
            except (OSError, ValueError) as error:
                text = f"{path}: the checkpoint is damaged ({error}); the one before it is used"
                self.say(text)
                if self.write:
                    self.event(run, rounds, "damaged", text)
        return None

    def runs(self) -> list[Run]:
        """Newest first."""
        rows = self._rows(
            "SELECT id, started, ended, status, algorithm, bundle, settings, "
            "(SELECT COUNT(*) FROM rounds WHERE run = id) FROM runs ORDER BY id DESC"
        )
        return [
            Run(number, started, ended, status, algorithm, bundle, json.loads(settings), rounds)
            for number, started, ended, status, algorithm, bundle, settings, rounds in rows
        ]

    def run(self, number: int | None = None) -> Run:
        """A run; the newest one where no number is given.

        Raises:
            UsageError: no such run.
        """
        found = self.runs()
        for run in found:
            if number in (None, run.id):
                return run
        known = ", ".join(str(run.id) for run in found[:12])
        raise UsageError(
            f"no run {number}" if number is not None else "no run yet",
            where=str(self.path),
            remedy=f"there are {known}" if known else "tlc serve --train makes one",
        )

    def rounds(self, run: int) -> list[dict[str, Any]]:
        """Every round with its metrics, in order."""
        metrics: dict[int, dict[str, float]] = {}
        for number, name, value in self._rows(
            "SELECT round, name, value FROM metrics WHERE run = ? ORDER BY name", (run,)
        ):
            metrics.setdefault(number, {})[name] = value
        rows = self._rows(f"SELECT {', '.join(COLUMNS)} FROM rounds WHERE run = ? ORDER BY round", (run,))
        return [dict(zip(COLUMNS, row, strict=True)) | metrics.get(row[0], {}) for row in rows]

    def devices(self, run: int) -> list[dict[str, Any]]:
        """Every device that was there."""
        rows = self._rows("SELECT name, board, first, last FROM devices WHERE run = ? ORDER BY first, name", (run,))
        return [dict(zip(("name", "board", "first", "last"), row, strict=True)) for row in rows]

    def events(self, run: int) -> list[dict[str, Any]]:
        """What happened, in order."""
        rows = self._rows("SELECT time, round, kind, text FROM events WHERE run = ? ORDER BY id", (run,))
        return [dict(zip(("time", "round", "kind", "text"), row, strict=True)) for row in rows]

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _take_lock(self) -> int:
        handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(handle, 32).decode(errors="replace").strip() or "unknown"
            os.close(handle)
            raise ConfigError(
                f"another daemon (process {owner}) writes to this store",
                where=str(self.path),
                remedy="stop it, or serve a copy of the project",
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        return handle

    def _checkpoint(self, run: int, rounds: int) -> Path:
        return self.path / "checkpoints" / f"{run}-{rounds:08d}.tlc"

    def _checkpoints(self, run: int) -> list[tuple[int, Path]]:
        """Newest first."""
        found = (self.path / "checkpoints").glob(f"{run}-*.tlc")
        return sorted(((int(path.stem.split("-")[1]), path) for path in found), reverse=True)

    def _do(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        with self._reading(self.path / "runs.sqlite"):
            return self._db.execute(statement, values)

    def _rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._reading(self.path / "runs.sqlite"):
            return self._db.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._do("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # a full disk has ended it already
                self._db.execute("ROLLBACK")
            raise
        self._do("COMMIT")

    @contextlib.contextmanager
    def _reading(self, file: Path) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            full = "full" in str(error)
            remedy = "free space, then start the same command again" if full else "check the disk and its permissions"
            raise OutputError(f"the store cannot be used: {error}", where=str(file), remedy=remedy) from None
        except sqlite3.DatabaseError as error:
            raise DataError(
                f"the store is damaged: {error}",
                where=str(file),
                remedy="move it away; checkpoints are files beside it",
            ) from None

    @contextlib.contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            rule = "the disk is full; what was there before stays" if full else f"cannot be written ({error.strerror})"
            remedy = "free space, then start the same command again" if full else "check the disk and its permissions"
            raise OutputError(rule, where=str(path), remedy=remedy) from None


def _real(value: float) -> float | None:
    """SQLite has no NaN."""
    return float(value) if math.isfinite(value) else None


def _parse(content: bytes, run: int, rounds: int) -> Checkpoint:
    body = content[len(MAGIC) + DIGEST :]
    if content[: len(MAGIC)] != MAGIC or len(content) < len(MAGIC) + DIGEST:
        raise ValueError("it does not begin like one")
    if hashlib.sha256(body).digest() != content[len(MAGIC) : len(MAGIC) + DIGEST]:
        raise ValueError("its checksum is wrong")
    line, _, rest = body.partition(b"\n")
    head = json.loads(line)
    if (head["run"], head["rounds"]) != (run, rounds):
        raise ValueError(f"it is of run {head['run']}, round {head['rounds']}")
    parts, place = {}, 0
    for name, size in head["parts"].items():
        parts[name] = rest[place : place + size]
        place += size
    return Checkpoint(rounds, parts)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
