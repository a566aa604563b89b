# SPDX-License-Identifier: Apache-2.0
"""A device in this process: the twin's byte pipes.

A twin computes in the event loop's thread. However many have something to do, a few of them do it in a turn of the loop
(:class:`Turns`): the loop is never held up for longer than these take for a message.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import ClassVar
from weakref import WeakKeyDictionary

from tlc.errors import LinkError

__all__ = ["TOGETHER", "MemoryTransport", "Turns"]

TOGETHER = 4
"""Twins that compute in one turn of the event loop: a turn costs as much as a fifth of a small twin's message."""


class Turns:
    """Who waits is let through in order, :data:`TOGETHER` at a time, and then the event loop gets round."""

    _of: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, Turns]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._soon = False

    @classmethod
    def here(cls) -> Turns:
        """Those of the running loop."""
        return cls._of.setdefault(asyncio.get_running_loop(), cls())

    async def mine(self) -> None:
        """Until it is the caller's turn."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.append(turn)
        if not self._soon:
            self._soon = True
            loop.call_soon(self._next, loop)
        await turn

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        through = 0
        while self._waiting and through < TOGETHER:
            turn = self._waiting.popleft()
            if not turn.done():  # its caller was cancelled
                turn.set_result(None)
                through += 1
        self._soon = bool(self._waiting)
        if self._soon:
            loop.call_soon(self._next, loop)


class MemoryTransport:
    """A ``Transport`` over a twin's functions.

    Args:
        receive: host -> device: takes bytes, returns how many it took (``tlc_twin_receive``).
        send: device -> host: bytes that are waiting, at most so many (``tlc_twin_send``).
        poll: runs the device's main loop once, at a time in milliseconds; True: something was done
            (``tlc_twin_poll``).
        name: what a person calls it.
        idle_ms: how often the device's timers are looked after when nothing happens.
    """

    def __init__(
        self,
        receive: Callable[[bytes], int],
        send: Callable[[int], bytes],
        poll: Callable[[int], bool],
        *,
        name: str = "twin",
        idle_ms: float = 5.0,
    ) -> None:
        self._receive = receive
        self._send = send
        self._poll = poll
        self._name = name
        self._idle = idle_ms / 1000
        self._waiting = b""
        self._written = asyncio.Event()
        self._closed = False

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self._name

    def _turn(self) -> bytes:
        """Runs the device until it has nothing more to do, or enough to say."""
        out: list[bytes] = []
        size = 0
        while size < 1 << 16:
            if self._waiting:
                self._waiting = self._waiting[self._receive(self._waiting) :]
            active = self._poll(int(time.monotonic() * 1000) & 0xFFFFFFFF)
            said = self._send(1 << 16)
            if said:
                out.append(said)
                size += len(said)
            elif not active:
                break
        return b"".join(out)

    async def read(self) -> bytes:
        """At least one byte."""
        while not self._closed:
            await Turns.here().mine()
            if self._closed:
                break
            self._written.clear()
            said = self._turn()
            if said:
                return said
            timer = asyncio.get_running_loop().call_later(self._idle, self._written.set)
            try:
                await self._written.wait()
            finally:
                timer.cancel()
        raise LinkError("the twin was closed", where=self._name)

    def write(self, data: bytes) -> None:
        """Hands over bytes."""
        if self._closed:
            raise LinkError("the twin was closed", where=self._name)
        self._waiting += data
        self._written.set()

    def backlog(self) -> int:
        """Bytes handed over that the device has not taken."""
        return len(self._waiting)

    async def close(self) -> None:
        """Lets go."""
        self._closed = True
        self._written.set()
