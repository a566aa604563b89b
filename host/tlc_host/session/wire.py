# SPDX-License-Identifier: Apache-2.0
"""Bytes between a link and a transport, at the right times; a transport that breaks is opened again."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable

from tlc.errors import LinkError, TlcError
from tlc_host import messages as m
from tlc_host.link import Link
from tlc_host.transports import Transport

__all__ = ["Wire", "now_ms"]

BACKLOG = 8192
RETRY_S = 0.002


def now_ms() -> float:
    """The link's clock."""
    return time.monotonic() * 1000


class Wire:
    """A link over a transport.

    Args:
        link: its settings and its state; it stays the same over many transports.
        opener: opens a transport anew.
        reconnect_s: for how long a broken transport is opened again; 0: never.
        heard: called when the link may have messages, events or faults.
        refused: called with a message that the link does not take, and why.
        lost: called when the transport is broken and cannot be opened again.

    Attributes:
        outbox: messages that the link has not taken yet.
        over: nothing is read or written any more.
        reader: runs for as long as bytes can come.
    """

    def __init__(
        self,
        link: Link,
        opener: Callable[[], Awaitable[Transport]],
        reconnect_s: float,
        *,
        heard: Callable[[], None],
        refused: Callable[[m.Message, ValueError], None],
        lost: Callable[[LinkError], None],
    ) -> None:
        self.link = link
        self.transport: Transport | None = None
        self.outbox: deque[m.Message] = deque()
        self.over = False
        self.reader: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self._opener = opener
        self._reconnect = reconnect_s
        self._heard = heard
        self._refused = refused
        self._lost = lost
        self._soon: asyncio.Handle | None = None
        self._due = 0.0

    async def open(self, name: str) -> None:
        """Opens the transport and begins a session.

        Raises:
            LinkError: it cannot be opened.
        """
        self.transport = await self._opener()
        self.link.open(now_ms())
        self.reader = asyncio.create_task(self._read(), name=f"tlc {name}")
        self.flush()

    async def close(self) -> None:
        """Says goodbye and lets go of the transport."""
        self.over = True
        if self.timer is not None:
            self.timer.cancel()
        self.link.close()
        if self.transport is not None:
            with contextlib.suppress(LinkError):
                self.transport.write(self.link.output(now_ms()))
        if self.reader is not None and self.reader is not asyncio.current_task():
            self.reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, TlcError):
                await self.reader
        if self.transport is not None:
            await self.transport.close()

    def say(self, *messages: m.Message) -> None:
        """Sends them, together with what else is said in this turn of the event loop."""
        self.outbox.extend(messages)
        self._flush_soon()

    def say_last(self, message: m.Message) -> None:
        """A last word before the session breaks."""
        self.outbox.append(message)
        self._feed()
        if self.transport is not None:
            with contextlib.suppress(LinkError):
                self.transport.write(self.link.output(now_ms(), BACKLOG))

    @property
    def backlog(self) -> int:
        """Bytes that wait before the line."""
        return self.transport.backlog() if self.transport is not None else 0

    async def _read(self) -> None:
        while not self.over:
            assert self.transport is not None
            try:
                data = await self.transport.read()
            except LinkError as error:
                await self._again(error)
                continue
            self.link.receive(data, now_ms())
            self._heard()
            self._flush_soon()

    async def _again(self, error: LinkError) -> None:
        """Opens a broken transport again; the link's session goes on where it was."""
        end = time.monotonic() + self._reconnect
        wait = 0.05
        assert self.transport is not None
        await self.transport.close()
        self.transport = None
        while time.monotonic() < end:
            try:
                self.transport = await self._opener()
            except LinkError as again:
                error = again
                await asyncio.sleep(wait)
                wait = min(2 * wait, 1.0)
                continue
            self.link.transport_changed()
            self.flush()
            return
        self._lost(error)

    def _flush_soon(self) -> None:
        """After what is to run now: those who were just answered may have more to say, and it goes out together."""
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Gives the transport what it can take and looks again when the link wants to."""
        self._soon = None
        if self.over:
            return
        self._feed()
        wait = RETRY_S
        if self.transport is not None:
            try:
                most = getattr(self.transport, "high_water", BACKLOG)
                while (room := most - self.transport.backlog()) > 0:
                    now = now_ms()
                    data = self.link.output(now, room)
                    if data:
                        self.transport.write(data)
                    if not self._feed() and len(data) < room:  # the link has no more to say
                        wait = max(self.link.deadline(now) / 1000, 0.001)
                        break
            except LinkError:
                wait = 0.05  # the reader sees it, too, and opens it again
        if self.link.events:
            self._heard()
        self._look_again(wait)

    def _look_again(self, wait: float) -> None:
        """Flushes after so many seconds. A timer that ends before is left to run, and then set anew: most are put off again and
        again, and never come to anything."""
        loop = asyncio.get_running_loop()
        self._due = loop.time() + wait
        if self.timer is not None:
            if self.timer.when() <= self._due:
                return
            self.timer.cancel()
        self.timer = loop.call_at(self._due, self._on_timer)

    def _on_timer(self) -> None:
        self.timer = None
        loop = asyncio.get_running_loop()
        if loop.time() < self._due:
            self.timer = loop.call_at(self._due, self._on_timer)
        else:
            self.flush()

    def _feed(self) -> bool:
        """Gives the link what it takes; whether that was anything."""
        waiting = len(self.outbox)
        while self.outbox:
            message = self.outbox[0]
            try:
                if not self.link.send(message.TYPE, message.STREAM, message.pack()):
                    break
            except ValueError as error:
                self._refused(message, error)
            self.outbox.popleft()
        return len(self.outbox) < waiting
