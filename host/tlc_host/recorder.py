# SPDX-License-Identifier: Apache-2.0
"""A training that loses nothing: every round goes into the store with a checkpoint, and an interrupted run goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

from tlc.errors import OutputError
from tlc_host.algorithms.base import Event, RoundDone
from tlc_host.cohort import diverged
from tlc_host.loop import Loop
from tlc_host.store import Checkpoint, Store

__all__ = ["recorded"]


async def recorded(
    loop: Loop, store: Store, settings: Mapping[str, Any], boards: Mapping[str, str] | None = None
) -> AsyncIterator[Event]:
    """The events of a loop, each round kept before its event is given on.

    Where the store holds an interrupted run of the same algorithm, bundle and settings, that one goes on from its last whole
    checkpoint, and on twins its trajectory is that of a run that was not interrupted.

    Args:
        loop: fresh.
        store: open for writing.
        settings: what must be the same for a run to be the same.
        boards: by the device's name.

    Raises:
        OutputError: the disk is full; started again, the run goes on.
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
    try:
        async for event in loop.events():
            if isinstance(event, RoundDone):
                kept = Checkpoint(
                    loop.done,
                    {"server": await algorithm.server.call(model.save), "loop": json.dumps(loop.state()).encode()},
                )
                await asyncio.to_thread(_keep, store, run, event, kept, boards or {})
            yield event
    except Exception as error:
        # Where it diverged it would do so again; else the same command goes on with it.
        with suppress(OutputError):
            store.event(run, loop.done, "error", str(error))
            store.end(run, "failed" if diverged(error) else "interrupted")
        raise
    store.end(run)


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
