# SPDX-License-Identifier: Apache-2.0
"""The device's own samples: their smashed data go to a hook, what it gives goes to the application on the device."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Awaitable, Callable

import numpy as np

from tlc.errors import TlcError
from tlc_host import messages as m
from tlc_host.session.reply import Float32, SmashedReply, reply_of
from tlc_host.session.wire import Wire

__all__ = ["SampleHook", "Samples"]

SampleHook = Callable[[SmashedReply], "Float32 | Awaitable[Float32] | None"]


class Samples:
    """Answers one device's own samples.

    Args:
        hook: gives the network's output; None: nobody answers.
        log: takes level and text of what the hook raised.
    """

    def __init__(self, wire: Wire, hook: SampleHook | None, log: Callable[[int, str], None]) -> None:
        self._wire = wire
        self._hook = hook
        self._log = log
        self._parts: dict[int, m.Smashed] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, part: m.Smashed) -> None:
        """One output of a sample."""
        self._parts[part.index] = part
        if len(self._parts) < part.count:
            return
        reply = reply_of(self._parts)
        self._parts = {}
        if self._hook is not None:
            task = asyncio.get_running_loop().create_task(self._answer(reply, self._hook))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def clear(self) -> None:
        """Half a sample is none."""
        self._parts.clear()

    async def close(self) -> None:
        """Ends the hooks that run."""
        for task in [*self._tasks]:
            if task is not asyncio.current_task():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, TlcError):
                    await task

    async def _answer(self, reply: SmashedReply, hook: SampleHook) -> None:
        try:
            given = hook(reply)
            values = await given if inspect.isawaitable(given) else given
        except TlcError as error:
            self._log(logging.ERROR, str(error))
            return
        if values is None:
            return
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        self._wire.say(m.Result(request=reply.request, count=flat.size, values=flat.tobytes()))
