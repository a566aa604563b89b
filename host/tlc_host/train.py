# SPDX-License-Identifier: Apache-2.0
"""``tlc train``: a device learns from samples of a file, and both halves are kept."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tlc.errors import ConfigError, DeviceError, OutputError
from tlc_host import messages as m
from tlc_host import weights
from tlc_host.algorithms.base import BatchDone, Event, RoundDone
from tlc_host.devices import open_device
from tlc_host.recorder import recorded
from tlc_host.serve import Training, assemble, fitting, identity, link_devices, prepare_shards
from tlc_host.server_model import ServerModel
from tlc_host.server_worker import ServerWorker
from tlc_host.session import Session
from tlc_host.store import Store

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
    cut: str | None = None,
    say: Callable[[str], None] = lambda text: None,
    on_event: Callable[[Event], None] | None = None,
) -> TrainResult:
    """Trains a device and the host segment on a labelled file.

    Rounds and checkpoints are kept in the project, as ``tlc serve`` does: when the same is asked again after an interruption, the
    run goes on from the last round, and the result tells of the rounds since.

    Args:
        directory: the project that ``tlc compile`` wrote.
        device: a name that :func:`tlc_host.devices.open_device` knows.
        training: the file, and how.
        save: write what the device has learned into its journal at the end.
        resume: the host segment goes on from where the last training left it.
        max_norm: a step on the device whose mean gradient has a larger norm counts as divergence.
        cut: of several cuts the one at which the device's part ends; None: the bundle's own.
        say: called with what a person should know.
        on_event: called after each step and each round.

    Raises:
        UsageError: the project has no such cut.
        DataError: the file does not fit the network, or there is nothing to resume.
        ConfigError: nothing learns in this project, or a setting breaks a rule; the device keeps nothing, and ``save``; another
            daemon trains in this project.
        DeviceError: training diverged: the device is back at its journal's last entry, or the values in flash.
        OutputError: the host segment cannot be written, or the disk is full; what was kept before stays.
    """
    if not 0 < max_norm < math.inf:
        raise ConfigError(f"the bound must be positive, but is {max_norm}", where="--max-norm", remedy="try 1000")
    server = ServerModel(directory, trained=resume, cut=cut)
    training = replace(training, plan=fitting(training.plan, server.bundle))
    shards = prepare_shards(training, server, 1)
    batches: list[BatchDone] = []
    rounds: list[RoundDone] = []
    async with AsyncExitStack() as stack:
        worker = await stack.enter_async_context(ServerWorker(server))
        session = await stack.enter_async_context(open_device(directory, device, cut=cut))
        if save:
            weights.require_journal(session)
        store = stack.enter_context(Store(directory, write=True, say=say))
        first = held = session.hello.last_step
        if held and not resume and server.bundle.split:
            say(f"{device} has learned up to step {held}; the host segment begins anew (--resume goes on with both)")
        before = await weights.pull(session, server.bundle, directory)
        (link,) = link_devices([session], directory, training.plan, server.bundle, max_norm=max_norm)
        loop = assemble(training.plan, worker, [link], shards)
        same = {
            **identity(training, [device], server.bundle),
            "command": "train",
            "host": server.fingerprint,
            "max_norm": max_norm,
        }

        def begun() -> None:
            nonlocal first
            first = link.steps

        boards = {link.name: session.hello.board.decode(errors="replace")}
        try:
            async with aclosing(recorded(loop, store, same, boards, begun=begun)) as events:
                async for event in events:
                    if on_event:
                        on_event(event)
                    if isinstance(event, BatchDone):
                        batches.append(event)
                    else:
                        rounds.append(event)
        except DeviceError as error:
            if error.status != m.Status.NUMERIC:
                raise
            if batches and not math.isfinite(batches[-1].loss):  # the device's part goes back to where it was, too
                await weights.push(session, server.bundle, directory, before, step=held)
                raise _diverged(f"the loss is {batches[-1].loss} at step {batches[-1].step}", session) from None
            raise _diverged(error.rule, session) from None
        learned = weights.differences(server.bundle, await weights.pull(session, server.bundle, directory), before)
        host = _keep_host(server) if server.bundle.split else None
        saved = await session.save() if save else False
        journal = asdict(await session.journal())
        last = link.steps
    for name in ("request", "round", "step", "batch"):
        del journal[name]
    name = training.plan.algorithm.name
    losses, accuracies = tuple(done.loss for done in batches), tuple(done.accuracy for done in batches)
    return TrainResult(
        device, name, first, last, losses, accuracies, tuple(rounds), tuple(learned), saved, host, journal
    )  # fmt: skip


def _diverged(how: str, session: Session) -> DeviceError:
    error = DeviceError(
        f"training diverged: {how}", where=session.name, remedy="lower --lr; host.trained.onnx is as it was"
    )
    error.status = m.Status.NUMERIC
    return error


def _keep_host(server: ServerModel) -> Path:
    """Writes the trained host segment beside the one that it began as."""
    path = server.trained_file
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
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
