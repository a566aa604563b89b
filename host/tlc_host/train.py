# SPDX-License-Identifier: Apache-2.0
"""``tlc train``: a device learns from samples of a file, and both halves are kept."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tlc.errors import ConfigError, DeviceError, OutputError
from tlc_host import messages as m
from tlc_host import weights
from tlc_host.algorithms.base import Event, RoundDone
from tlc_host.devices import open_device
from tlc_host.serve import Training, assemble, fitting, link_devices, prepare_shards
from tlc_host.server_model import TRAINED_FILE, ServerModel
from tlc_host.server_worker import ServerWorker
from tlc_host.session import Session

__all__ = ["MAX_NORM", "TrainResult", "train"]

MAX_NORM = 1000.0
"""A norm of the mean gradient that no sound training comes near."""


@dataclass(frozen=True)
class TrainResult:
    """What ``tlc train`` tells."""

    device: str
    algorithm: str
    first_step: int
    last_step: int
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    rounds: tuple[RoundDone, ...]
    learned: tuple[weights.Difference, ...]
    """Each tensor against what it was before."""
    saved: bool
    """In the device's journal."""
    host: Path | None
    """The host segment with its new weights."""
    journal: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            **asdict(self),
            "losses": list(self.losses),
            "accuracies": list(self.accuracies),
            "learned": [row.to_json() for row in self.learned],
            "host": str(self.host) if self.host else None,
        }


async def train(
    directory: Path,
    device: str,
    training: Training,
    *,
    save: bool = False,
    resume: bool = False,
    max_norm: float = MAX_NORM,
    say: Callable[[str], None] = lambda text: None,
    on_event: Callable[[Event], None] | None = None,
) -> TrainResult:
    """Trains a device and the host segment on a labelled file.

    Args:
        directory: the project that ``tlc compile`` wrote.
        device: a name that :func:`tlc_host.devices.open_device` knows.
        training: the file, and how.
        save: write what the device has learned into its journal at the end.
        resume: the host segment goes on from where the last training left it.
        max_norm: a step on the device whose mean gradient has a larger norm counts as divergence.
        say: called with what a person should know.
        on_event: called after each step and each round.

    Raises:
        DataError: the file does not fit the network, or there is nothing to resume.
        ConfigError: nothing learns in this project, or a setting breaks a rule; the device keeps nothing, and ``save``.
        DeviceError: training diverged: the device is back at its journal's last entry, or the values in flash.
        OutputError: the host segment cannot be written.
    """
    if not 0 < max_norm < math.inf:
        raise ConfigError(f"the bound must be positive, but is {max_norm}", where="--max-norm", remedy="try 1000")
    server = ServerModel(directory, trained=resume)
    training = replace(training, plan=fitting(training.plan, server.bundle))
    shards = prepare_shards(training, server, 1)
    losses: list[float] = []
    accuracies: list[float] = []
    rounds: list[RoundDone] = []
    async with ServerWorker(server) as worker, open_device(directory, device) as session:
        if save:
            weights.require_journal(session)
        first = session.hello.last_step
        if first and not resume and server.bundle.split:
            say(f"{device} has learned up to step {first}; the host segment begins anew (--resume goes on with both)")
        before = await weights.pull(session, server.bundle, directory)
        (link,) = link_devices([session], directory, training.plan, max_norm=max_norm)
        loop = assemble(training.plan, worker, [link], shards)
        try:
            async with aclosing(loop.events()) as events:
                async for event in events:
                    if on_event:
                        on_event(event)
                    if isinstance(event, RoundDone):
                        rounds.append(event)
                        continue
                    losses.append(event.loss)
                    accuracies.append(event.accuracy)
                    if not np.isfinite(event.loss):  # the host's half: the device's goes back to where it was, too
                        await weights.push(session, server.bundle, directory, before, step=first)
                        raise _diverged(f"the loss is {event.loss} at step {event.step}", session)
        except DeviceError as error:
            if error.status != m.Status.NUMERIC:
                raise
            raise _diverged(error.rule, session) from None
        learned = weights.differences(server.bundle, await weights.pull(session, server.bundle, directory), before)
        host = _keep_host(directory, server) if server.bundle.split else None
        saved = await session.save() if save else False
        journal = asdict(await session.journal())
        last = link.steps
    for name in ("request", "round", "step", "batch"):
        del journal[name]
    name = training.plan.algorithm.name
    return TrainResult(
        device, name, first, last, tuple(losses), tuple(accuracies), tuple(rounds), tuple(learned), saved, host, journal
    )  # fmt: skip


def _diverged(how: str, session: Session) -> DeviceError:
    error = DeviceError(
        f"training diverged: {how}", where=session.name, remedy="lower --lr; host.trained.onnx is as it was"
    )
    error.status = m.Status.NUMERIC
    return error


def _keep_host(directory: Path, server: ServerModel) -> Path:
    """Writes the trained host segment beside the one that it began as."""
    path = Path(directory) / TRAINED_FILE
    scratch = path.with_name(f".{TRAINED_FILE}.{os.getpid()}")
    try:
        scratch.write_bytes(server.onnx())
        os.replace(scratch, path)
    except OSError as error:
        raise OutputError(
            f"cannot be written ({error.strerror})", where=str(path), remedy="free space, or copy the project"
        ) from None
    finally:
        scratch.unlink(missing_ok=True)
    return path
