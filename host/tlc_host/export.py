# SPDX-License-Identifier: Apache-2.0
"""A run's rounds as CSV, or as event files for TensorBoard."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tlc.errors import OutputError
from tlc.extras import require

__all__ = ["as_csv", "write_csv", "write_tensorboard"]

Rows = Sequence[Mapping[str, Any]]


def as_csv(rounds: Rows) -> str:
    """One line a round; a metric that a round does not have is empty."""
    columns = list(dict.fromkeys(name for row in rounds for name in row))
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rounds)
    return stream.getvalue()


def write_csv(path: Path, rounds: Rows) -> None:
    """:func:`as_csv` into a file, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_text(as_csv(rounds), encoding="utf-8")
        os.replace(scratch, path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise OutputError(
            f"cannot be written ({error.strerror})", where=str(path), remedy="name another file"
        ) from None


def write_tensorboard(directory: Path, rounds: Rows) -> None:
    """A scalar a column, at each round: ``tensorboard --logdir DIR`` shows them. Needs TensorFlow, not TensorBoard.

    An event file is a TFRecord of ``Event`` messages, the first of which names its version.

    Raises:
        ToolchainError: TensorFlow is not installed.
        OutputError: it cannot be written.
    """
    require("tensorflow")
    from tlc.learn import quiet_tensorflow

    quiet_tensorflow()
    import tensorflow as tf

    v1 = tf.compat.v1
    began = rounds[0]["time"] if rounds else 0.0
    path = directory / f"events.out.tfevents.{int(began)}.tlc"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tf.io.TFRecordWriter(str(path)) as writer:
            writer.write(v1.Event(wall_time=began, file_version="brain.Event:2").SerializeToString())
            for row in rounds:
                values = [
                    v1.Summary.Value(tag=name, simple_value=float(value))
                    for name, value in row.items()
                    if name not in ("round", "time") and value is not None
                ]
                event = v1.Event(wall_time=row["time"], step=row["round"], summary=v1.Summary(value=values))
                writer.write(event.SerializeToString())
    except (OSError, tf.errors.OpError) as error:
        text = error.strerror if isinstance(error, OSError) else error.message
        raise OutputError(f"cannot be written ({text})", where=str(path), remedy="name another directory") from None
