# SPDX-License-Identifier: Apache-2.0
"""``tlc link`` and ``tlc monitor``: what a line carries, and what a device says."""

from __future__ import annotations

import asyncio
import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tlc.errors import DeviceReset
from tlc_host import messages as m
from tlc_host.devices import open_device
from tlc_host.session import Session

__all__ = ["LineReport", "measure_line", "monitor"]

LOOK_S = 0.05
SHOW_S = 0.25
WATCH_S = 1.0
TEST_HEAD = 20


@dataclass(frozen=True)
class LineReport:
    """What a line carried. Down is to the device, up from it; bytes are those of messages, headers of messages included.

    Attributes:
        loss_down, loss_up: frames sent again, of all frames.
        bad_down, bad_up: frames that came damaged.
        rtt_ms: the link's smoothed round-trip time of a frame.
        trip_ms, trip_95_ms: median and 95th percentile from asking to the whole answer.
        deepest_bytes: the most that stood before the line on the host.
        deepest_messages: the most messages of the host's that were not acknowledged.
        refused: frames for which the device had no buffer.
    """

    device: str
    board: str
    seconds: float
    messages: int
    message_bytes: int
    down_bytes_per_second: float
    up_bytes_per_second: float
    frames_down: int
    frames_up: int
    resent_down: int
    resent_up: int
    loss_down: float
    loss_up: float
    bad_down: int
    bad_up: int
    refused: int
    rtt_ms: float
    trip_ms: float
    trip_95_ms: float
    deepest_bytes: int
    deepest_messages: int
    sessions: int

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


class _Meter:
    """Counts while messages go to and fro."""

    def __init__(self, session: Session, name: str, size: int, before: m.Stats) -> None:
        self._session = session
        self._name = name
        self._size = size
        self._before = self._now = before
        counters = session.counters
        self._frames = counters.frames_in, counters.frames_out
        self._bad, self._resent, self._sessions = counters.bad, counters.resent, counters.sessions
        self._began = time.monotonic()
        self.trips: list[float] = []
        self.deepest = (0, 0)

    def look(self) -> None:
        """Takes note of how much waits."""
        waiting = self._session.waiting
        self.deepest = max(self.deepest[0], waiting[0]), max(self.deepest[1], waiting[1])

    def device_said(self, stats: m.Stats) -> None:
        """The device's own counters."""
        self._now = stats

    def report(self) -> LineReport:
        """What there is so far."""
        counters, seconds = self._session.counters, max(time.monotonic() - self._began, 1e-9)
        down = counters.frames_out - self._frames[1]
        up = counters.frames_in - self._frames[0]
        device_sent = self._now.frames_out - self._before.frames_out
        resent_up = self._now.resent - self._before.resent
        trips = sorted(self.trips)
        rate = len(trips) * self._size / seconds
        return LineReport(
            device=self._name,
            board=self._session.hello.board.decode(errors="replace"),
            seconds=round(seconds, 3),
            messages=len(trips),
            message_bytes=self._size,
            down_bytes_per_second=round(rate, 1),
            up_bytes_per_second=round(rate, 1),
            frames_down=down,
            frames_up=up,
            resent_down=counters.resent - self._resent,
            resent_up=resent_up,
            loss_down=round((counters.resent - self._resent) / max(down, 1), 6),
            loss_up=round(resent_up / max(device_sent, 1), 6),
            bad_down=self._now.bad - self._before.bad,
            bad_up=counters.bad - self._bad,
            refused=self._now.refused - self._before.refused,
            rtt_ms=round(counters.rtt_ms, 3),
            trip_ms=round(1000 * statistics.median(trips), 3) if trips else 0.0,
            trip_95_ms=round(1000 * trips[int(0.95 * (len(trips) - 1))], 3) if trips else 0.0,
            deepest_bytes=self.deepest[0],
            deepest_messages=self.deepest[1],
            sessions=1 + counters.sessions - self._sessions,
        )


async def measure_line(
    directory: Path,
    device: str,
    *,
    seconds: float = 10.0,
    size: int = 1024,
    parallel: int = 8,
    on_report: Callable[[LineReport], None] | None = None,
) -> LineReport:
    """Sends TEST messages both ways at once, as fast as they go; the model does not run.

    Args:
        directory: the project that ``tlc compile`` wrote.
        device: a name that :func:`tlc_host.devices.open_device` knows.
        seconds: for how long.
        size: bytes of a message each way, its header included; no more than the device takes and has are used.
        parallel: messages under way at once.
        on_report: called four times a second.

    Raises:
        LinkError: the device cannot be opened, or the line broke.
    """
    async with open_device(directory, device) as session:
        before = await session.stats()
        size = max(TEST_HEAD + 1, min(size, session.most_bytes, before.arena_bytes))
        meter = _Meter(session, device, size, before)
        end = time.monotonic() + seconds

        async def load() -> None:
            while time.monotonic() < end:
                began = time.monotonic()
                await session.test(size - TEST_HEAD, size - TEST_HEAD)
                meter.trips.append(time.monotonic() - began)

        async def look() -> None:
            shown = time.monotonic()
            while True:
                await asyncio.sleep(LOOK_S)
                meter.look()
                if on_report is not None and time.monotonic() - shown >= SHOW_S:
                    shown = time.monotonic()
                    meter.device_said(await session.stats())
                    on_report(meter.report())

        watching = asyncio.create_task(look())
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(parallel):
                    tasks.create_task(load())
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        meter.look()
        meter.device_said(await session.stats())
        return meter.report()


async def monitor(
    directory: Path,
    device: str,
    *,
    on_line: Callable[[float, int, str], None],
    seconds: float | None = None,
    level: int = logging.DEBUG,
) -> None:
    """A device's log lines until it is cancelled, or for some seconds.

    Args:
        directory: the project that ``tlc compile`` wrote.
        device: a name that :func:`tlc_host.devices.open_device` knows.
        on_line: called with seconds since the beginning, level and text of each line; a restart of the device is one.
        level: of the least line that is shown.

    Raises:
        LinkError: the device cannot be opened, or another host took it over.
    """
    began = time.monotonic()

    def say(of: int, text: str) -> None:
        if of >= level:
            # A device's bytes are not to move the cursor of the person who reads them.
            clean = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
            on_line(time.monotonic() - began, of, clean)

    async with open_device(directory, device, on_log=say) as session:
        say(logging.INFO, f"connected to {session.hello.board.decode(errors='replace')}")
        while seconds is None or time.monotonic() - began < seconds:
            left = WATCH_S if seconds is None else min(WATCH_S, seconds - (time.monotonic() - began))
            await asyncio.sleep(max(left, 0))
            try:
                await session.stats()
            except DeviceReset as reset:
                say(logging.WARNING, str(reset))
                await session.greet()
