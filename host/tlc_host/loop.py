# SPDX-License-Identifier: Apache-2.0
"""Rounds of an algorithm, as a stream of events."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import Any

from tlc.errors import DeviceError, LinkError
from tlc_host import messages as m
from tlc_host.algorithms.base import Algorithm, Event, RoundDone, Tally

__all__ = ["Loop"]

PATIENCE = 3
"""Rounds in a row in which nobody did a batch, before the run is given up."""


class Loop:
    """Runs an algorithm round by round.

    Between rounds :meth:`state` is all that the rest of the run depends on: with it and the host segment's own state a run
    goes on elsewhere, and on twins its trajectory is that of one that was not interrupted.

    Args:
        algorithm: with its cohort and its host segment.
    """

    def __init__(self, algorithm: Algorithm) -> None:
        self.algorithm = algorithm
        self.cohort = algorithm.cohort
        self.done = 0
        """Rounds done."""
        self._idle = 0

    async def events(self) -> AsyncGenerator[Event, None]:
        """Rounds until the settings' number is done; yields after every batch and every round. The algorithm goes on when
        the next event is asked for.

        Raises:
            DeviceError: training diverged on every device that was there.
            LinkError: no device has done a batch for some rounds, or the only one fails.
        """
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        settled = False

        async def emit(event: Event) -> None:
            nonlocal settled
            if not settled:
                # TensorFlow is there, with a million objects that stay. A full pass of Python's collector through them stops
                # every thread for 0.3 s; so it leaves them out until the run ends.
                settled = True
                gc.freeze()
            await queue.put(event)
            await queue.join()

        self.algorithm.emit = emit
        runner = asyncio.ensure_future(self._rounds(emit))
        runner.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (event := await queue.get()) is not None:
                yield event
                queue.task_done()
            await runner
        finally:
            gc.unfreeze()
            runner.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await runner
            await self.algorithm.close()

    async def _rounds(self, emit: Any) -> None:
        algorithm = self.algorithm
        while self.done < algorithm.settings.rounds:
            algorithm.number, algorithm.tally, algorithm.metrics = self.done, Tally(), {}
            began, before = time.monotonic(), self._traffic()
            await self.cohort.muster()
            if self.done == 0 and not self._idle:
                await algorithm.begin()
            await algorithm.round()
            if algorithm.keeps:
                await self.cohort.keep()
            if self.done + 1 == algorithm.settings.rounds:
                await algorithm.end()
            after = self._traffic()
            self._give_up()
            self.done += 1
            present = self.cohort.present
            slowest = max(present, key=lambda member: member.busy_s, default=None) if len(present) > 1 else None
            await emit(
                RoundDone(
                    self.done - 1,
                    algorithm.tally.mean_loss,
                    algorithm.tally.accuracy,
                    algorithm.tally.samples,
                    time.monotonic() - began,
                    after[0] - before[0],
                    after[1] - before[1],
                    tuple(member.name for member in present),
                    tuple(self.cohort.left_out),
                    slowest.name if slowest else "",
                    slowest.busy_s if slowest else 0.0,
                    dict(algorithm.metrics),
                )
            )

    def _give_up(self) -> None:
        """Where nobody is left."""
        self._idle = 0 if self.cohort.present else self._idle + 1
        if self.cohort.present:
            return
        errors = [member.left for member in self.cohort.members if member.left is not None]
        for error in errors:
            if isinstance(error, DeviceError) and error.status == m.Status.NUMERIC:
                raise error
        if not errors:
            raise LinkError("no device is there", remedy="connect one")
        if self._idle >= PATIENCE:
            raise LinkError(f"no device has got through {PATIENCE} rounds; the last error: {errors[0]}")

    def _traffic(self) -> tuple[int, int]:
        each = [member.device.traffic() for member in self.cohort.members]
        return sum(up for up, _ in each), sum(down for _, down in each)

    # ---- state ----

    def state(self) -> dict[str, Any]:
        """For JSON, between rounds: all but the host segment's (``ServerModel.save``)."""
        return {"done": self.done, "algorithm": self.algorithm.state(), "cohort": self.cohort.state()}

    async def restore(self, state: Mapping[str, Any]) -> None:
        """Back to a :meth:`state`.

        Raises:
            DataError: it is of another cohort.
        """
        self.done = state["done"]
        self.algorithm.restore(state["algorithm"])
        await self.cohort.restore(state["cohort"])
