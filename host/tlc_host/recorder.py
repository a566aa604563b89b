# SPDX-License-Identifier: Apache-2.0
"""A training that loses nothing: every round goes into the store with a checkpoint, and an interrupted run goes on."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from typing import Any

from tlc.errors import DeviceError, OutputError
from tlc_host import messages as m
from tlc_host.algorithms.base import BatchDone, Event, RoundDone
from tlc_host.cohort import diverged
from tlc_host.loop import Loop
from tlc_host.store import Checkpoint, Store

__all__ = ["recorded"]


async def recorded(
    loop: Loop,
    store: Store,
    settings: Mapping[str, Any],
    boards: Mapping[str, str] | None = None,
    *,
    begun: Callable[[], None] = lambda: None,
) -> AsyncGenerator[Event, None]:
    """The events of a loop, each round kept before its event is given on.

    Where the store holds an interrupted run of the same algorithm, bundle and settings, that one goes on from its last whole
    checkpoint, and on twins its trajectory is that of a run that was not interrupted.

    Args:
        loop: fresh.
        store: open for writing.
        settings: what must be the same for a run to be the same.
        boards: by the device's name.
        begun: called before the first round, when everything is as it was after the last one.

    Raises:
        OutputError: the disk is full; started again, the run goes on.
        DeviceError: the loss of what the host segment, or the only device, learns is no number any more: a run that has failed.
    """
    algorithm, model = loop.algorithm, loop.algorithm.server.model
    identity = (algorithm.name, model.bundle.hash, json.loads(json.dumps(dict(settings), default=str)))
    run, checkpoint = await asyncio.to_thread(_interrupted, store, identity)
    if run is None:
        run = await asyncio.to_thread(store.begin, *identity)
    elif checkpoint is not None:
        await algorithm.server.call(model.load, checkpoint.parts["server"])
        await loop.restore(json.loads(checkpoint.parts["loop"]))
    if loop.done:
        store.resume(run, loop.done)
    begun()
    try:
        async for event in loop.events():
            if isinstance(event, RoundDone):
                kept = Checkpoint(
                    loop.done,
                    {"server": await algorithm.server.call(model.save), "loop": json.dumps(loop.state()).encode()},
                )
                await asyncio.to_thread(_keep, store, run, event, kept, boards or {})
            yield event
            # With federated learning of several, one device's loss is its own matter.
            common = loop.algorithm.host_steps(loop.algorithm.settings, 1) > 0 or len(loop.cohort.members) == 1
            if isinstance(event, BatchDone) and common and not math.isfinite(event.loss):
                raise _no_number(event)
    except Exception as error:
        # Where it diverged it would do so again; else the same command goes on with it.
        with suppress(OutputError):
            store.event(run, loop.done, "error", str(error))
            store.end(run, "failed" if diverged(error) else "interrupted")
        raise
    store.end(run)


def _no_number(event: BatchDone) -> DeviceError:
    error = DeviceError(f"training diverged: the loss is {event.loss} at step {event.step}", remedy="lower --lr")
    error.status = m.Status.NUMERIC
    return error


def _interrupted(store: Store, identity: tuple[str, str, dict[str, Any]]) -> tuple[int | None, Checkpoint | None]:
    found = store.find(*identity)
    if found is None:
        return None, None
    checkpoint = store.load_checkpoint(found.id)
    if checkpoint is None:
        store.resume(found.id, 0)
    else:
        store.say(f"run {found.id} goes on after {checkpoint.rounds} rounds")
    return found.id, checkpoint


def _keep(store: Store, run: int, done: RoundDone, checkpoint: Checkpoint, boards: Mapping[str, str]) -> None:
    for name in done.devices:
        store.device(run, name, boards.get(name, ""))
    for left in done.left_out:
        store.event(run, done.round, "left", f"{left.name}: {left.reason}")
    store.round(
        run,
        done.round,
        loss=done.loss,
        accuracy=done.accuracy,
        samples=done.samples,
        seconds=done.seconds,
        bytes_up=done.bytes_up,
        bytes_down=done.bytes_down,
        metrics=done.metrics,
    )
    store.save_checkpoint(run, checkpoint)
