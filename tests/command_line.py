# SPDX-License-Identifier: Apache-2.0
"""``tlc`` as a script sees it, in this process: exit code, stdout, stderr; and a run that must be refused."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlc.cli import main


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What stands on stdout, which must be one JSON value and nothing else."""
        return json.loads(self.out)


def tlc(*arguments: object) -> Done:
    """Runs a command. What C libraries and Python's warnings say on stdout and stderr is caught as well."""
    code = 0
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with _streams(out.fileno(), err.fileno()), _warnings():
            try:
                main([str(argument) for argument in arguments])
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        return Done(code, _content(out), _content(err))


def succeeds(*arguments: object) -> Done:
    done = tlc(*arguments)
    assert done.code == 0, done.err
    return done


def refused(place: Path, code: int, *arguments: object, says: tuple[str, ...]) -> str:
    """A command that must fail with one line on stderr, and leave a directory as it was. Returns that line."""
    before = snapshot(place)
    done = tlc(*arguments)
    assert done.code == code, f"exit code {done.code}: {done.err}"
    assert done.out == ""
    assert done.err.startswith("tlc: ") and done.err.endswith("\n") and done.err.count("\n") == 1, done.err
    assert "; " in done.err, f"no remedy: {done.err}"
    assert "internal error" not in done.err
    for part in says:
        assert part in done.err, f"{part!r} is missing: {done.err}"
    assert snapshot(place) == before, "something was left behind"
    return done.err


def snapshot(directory: Path) -> dict[str, bytes]:
    """Every file's content and every directory below a place, hidden ones included."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else b"(directory)"
        for path in sorted(directory.rglob("*"))
    }


def _content(file: Any) -> str:
    file.seek(0)
    return str(file.read().decode())


@contextlib.contextmanager
def _streams(out: int, err: int) -> Iterator[None]:
    saved = {number: os.dup(number) for number in (1, 2)}
    python = sys.stdout, sys.stderr
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(io.FileIO(number, "w", closefd=False), "utf-8", write_through=True) for number in (1, 2)
        )
        yield
    finally:
        sys.stdout, sys.stderr = python
        for number, former in saved.items():
            os.dup2(former, number)
            os.close(former)


@contextlib.contextmanager
def _warnings() -> Iterator[None]:
    """Shown as an interpreter without options shows them, not collected by pytest."""

    def show(message: Any, category: Any, filename: str, line: int, *_: object, **__: object) -> None:
        sys.stderr.write(warnings.formatwarning(message, category, filename, line))

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        for hidden in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", hidden)
        warnings.showwarning = show
        yield
