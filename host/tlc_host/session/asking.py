# SPDX-License-Identifier: Apache-2.0
"""Requests and their answers: who asks waits; what was not answered when a session ended is asked again, with the same
number, so that the device does nothing twice."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from typing import TypeVar

from tlc.errors import DeviceError, DeviceReset, DeviceTimeout, ProtocolError, TlcError
from tlc_host import messages as m
from tlc_host.session.reply import SmashedReply, reply_of
from tlc_host.session.wire import Wire

__all__ = ["Asking"]

A = TypeVar("A", bound=m.Message)

MOST_REQUEST = 0x7FFFFFFE


@dataclass(slots=True)
class _Pending:
    messages: list[m.Message]
    future: asyncio.Future[m.Message | SmashedReply]
    answer: type[m.Message]
    parts: dict[int, m.Smashed] = field(default_factory=dict)

    def fail(self, error: TlcError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Asking:
    """What is asked of one device.

    Args:
        wire: to it.
        name: the device, for messages.
        timeout_s: longest wait for an answer.

    Attributes:
        ready: the device is greeted; what is asked before goes out with the greeting.
        reset: the device has restarted, and nobody has taken note of it: calls raise this.
        ended: the session is over: calls raise this.
    """

    def __init__(self, wire: Wire, name: str, timeout_s: float) -> None:
        self.ready = asyncio.Event()
        self.reset: DeviceReset | None = None
        self.ended: TlcError | None = None
        self.name = name
        self.timeout = timeout_s
        self._wire = wire
        self._next = secrets.randbelow(MOST_REQUEST // 2) + 1
        self._pending: dict[int, _Pending] = {}

    # ---- who asks ----

    def number(self) -> int:
        """That of a new request."""
        number = self._next
        self._next = number % MOST_REQUEST + 1
        return number

    def check(self, *, reset: bool = True) -> None:
        """Raises what stands in the way of asking; ``reset``: the device's restart does."""
        if self.ended is not None:
            raise self.ended
        if reset and self.reset is not None:
            raise self.reset

    async def ask(self, parts: list[m.Message], answer: type[m.Message]) -> m.Message | SmashedReply:
        """Sends a request's messages, which bear its number; waits for an answer of that type.

        Raises:
            DeviceError, DeviceTimeout, DeviceReset, LinkError, ProtocolError
        """
        self.check()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[m.Message | SmashedReply] = loop.create_future()
        request = parts[0].request
        self._pending[request] = _Pending(parts, future, answer)
        if self.ready.is_set():
            self._wire.say(*parts)
        timer = loop.call_later(self.timeout, self._expire, request)
        try:
            return await future
        finally:
            timer.cancel()
            self._pending.pop(request, None)

    async def answer(self, message: m.Message, kind: type[A]) -> A:
        """:meth:`ask` with one message, whose answer is one."""
        reply = await self.ask([message], kind)
        assert isinstance(reply, kind)
        return reply

    async def done(self, message: m.Message) -> m.Done:
        """:meth:`ask` for what is answered by DONE."""
        return await self.answer(message, m.Done)

    async def smashed(self, *parts: m.Message) -> SmashedReply:
        """:meth:`ask` for what is answered by the outputs of the device's part."""
        reply = await self.ask(list(parts), m.Smashed)
        assert isinstance(reply, SmashedReply)
        return reply

    def _expire(self, request: int) -> None:
        pending = self._pending.get(request)
        if pending is None or pending.future.done():
            return
        if self._wire.link.peer_busy:  # one that computes says so; the link gives up one that does so for ever
            asyncio.get_running_loop().call_later(self.timeout, self._expire, request)
            return
        pending.fail(
            DeviceTimeout(
                f"no answer to {pending.messages[-1].name} within {self.timeout:g} s",
                where=self.name,
                remedy="is the device running, and the line connected?",
            )
        )

    # ---- who answers ----

    def take(self, message: m.Message) -> None:
        """An answer; one of a request that was given up is passed over."""
        pending = self._pending.get(message.request)
        if pending is None or pending.future.done():
            return
        if isinstance(message, m.Error):
            name = (
                m.Status(message.status).name if message.status in m.Status._value2member_map_ else str(message.status)
            )
            text = message.text.decode("utf-8", "replace")
            error = DeviceError(f"{m.message_name(message.of)} failed: {text} ({name})", where=self.name)
            error.status = message.status
            pending.fail(error)
        elif isinstance(message, m.Smashed) and pending.answer is m.Smashed:
            pending.parts[message.index] = message
            if len(pending.parts) == message.count:
                pending.future.set_result(reply_of(pending.parts))
        elif type(message) is pending.answer:
            if isinstance(message, m.Done) and message.of != pending.messages[-1].TYPE:
                return
            pending.future.set_result(message)

    def refuse(self, message: m.Message, error: ValueError) -> None:
        """The link does not take it."""
        pending = self._pending.get(message.request)
        if pending is not None:
            pending.fail(ProtocolError(f"{message.name}: {error}", where=self.name))

    # ---- the session's life ----

    def interrupt(self) -> None:
        """The link's session ended, or is a new one: who asked goes on waiting."""
        self.ready.clear()
        self._wire.outbox.clear()
        for pending in self._pending.values():
            pending.parts.clear()

    def resume(self) -> None:
        """The device is greeted: what was asked before and not yet answered is asked again."""
        self.ready.set()
        for pending in self._pending.values():
            if not pending.future.done():
                self._wire.say(*pending.messages)

    def fail(self, error: TlcError) -> None:
        """Nothing that was asked will be answered."""
        for pending in self._pending.values():
            pending.fail(error)
        self._wire.outbox.clear()

    def forget(self, reset: DeviceReset) -> None:
        """The device has restarted: what was asked is lost, and nothing is asked before that was noted."""
        self.reset = reset
        self.fail(reset)

    def end(self, error: TlcError) -> None:
        """Nothing will be asked any more."""
        if self.ended is None:
            self.ended = error
        self._wire.over = True
        self.ready.clear()
        self.fail(error)
