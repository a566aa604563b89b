# SPDX-License-Identifier: Apache-2.0
"""HELLO and WELCOME: whether it is the right device, whether it has restarted, and what it said before it crashed."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import replace

from tlc.errors import BundleMismatch, DeviceError, DeviceFault, DeviceReset, DeviceTimeout, ProtocolError
from tlc_host import messages as m
from tlc_host.link.frame import FAULT
from tlc_host.session.asking import Asking
from tlc_host.session.wire import Wire

__all__ = ["Greeting"]


class Greeting:
    """How a session with one device begins, each time.

    Args:
        bundle_hash: 32 bytes; the device must hold the same.
        cut: which of the bundle's cuts, where it has several.
        log: takes level and text of the device's last words.

    Attributes:
        hello: what the device last said of itself.
        most_bytes: largest bulk message that it then took; 0: it has said nothing yet.
    """

    def __init__(
        self, wire: Wire, asking: Asking, bundle_hash: bytes, cut: int | None, log: Callable[[int, str], None]
    ) -> None:
        self.hello = m.Hello()
        self.most_bytes = 0
        self.cut = cut
        self._wire = wire
        self._asking = asking
        self._hash = bundle_hash
        self._log = log
        self._token = 0
        self._welcome = 0
        self._selects = 0
        self._crash: asyncio.Future[DeviceFault] | None = None

    async def wait(self) -> None:
        """Until the device is greeted.

        Raises:
            DeviceTimeout: nobody answers.
            DeviceFault: it crashed meanwhile.
            BundleMismatch, ProtocolError: it is another device than the host thinks.
            DeviceError: it refuses.
        """
        asking, reader = self._asking, self._wire.reader
        waiter = asyncio.ensure_future(asking.ready.wait())
        crash = self._crash = asyncio.get_running_loop().create_future()
        assert reader is not None
        try:
            await asyncio.wait({waiter, reader, crash}, timeout=asking.timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
            crash.cancel()
        if not crash.cancelled():
            raise crash.result()
        asking.check(reset=False)
        if not asking.ready.is_set():
            raise DeviceTimeout(
                f"no greeting within {asking.timeout:g} s",
                where=asking.name,
                remedy="is the device running this project's firmware, and the line's speed right?",
            )

    def take(self, message: m.Message) -> bool:
        """Whether a message is one of the greeting's."""
        if isinstance(message, m.Hello):
            self._take_hello(message)
        elif isinstance(message, m.Done) and (message.request, message.of) == (self._welcome, m.Welcome.TYPE):
            self.hello = replace(self.hello, token=self._token)
            self._asking.resume()
        elif isinstance(message, m.Error) and (message.request, message.of) in (
            (self._welcome, m.Welcome.TYPE),
            (self._selects, m.Cut.TYPE),
        ):
            what = "welcome" if message.of == m.Welcome.TYPE else "cut"
            text = message.text.decode("utf-8", "replace")
            self._asking.end(DeviceError(f"refuses the {what}: {text}", where=self._asking.name))
        else:
            return False
        return True

    def _take_hello(self, hello: m.Hello) -> None:
        asking = self._asking
        if hello.version != m.VERSION:
            self._wire.say_last(m.Refuse(reason=m.Status.VERSION, bundle_hash=self._hash))
            asking.end(
                ProtocolError(
                    f"the device speaks message version {hello.version}, this host version {m.VERSION}",
                    where=asking.name,
                    remedy="build the firmware and the host from the same release",
                )
            )
            return
        if hello.bundle_hash != self._hash:
            self._wire.say_last(m.Refuse(reason=m.Status.BUNDLE, bundle_hash=self._hash))
            asking.end(
                BundleMismatch(
                    f"the device holds bundle {hello.bundle_hash.hex()}, this host {self._hash.hex()}",
                    where=asking.name,
                    remedy="upload the project that this bundle came with (pio run -t upload)",
                )
            )
            return
        crashed = isinstance(asking.reset, DeviceFault)
        # Our last WELCOME may not have arrived: then it still has the token of the one before.
        ours = hello.token in (self._token, self.hello.token)
        if not crashed and self._token and (hello.boot != self.hello.boot or not ours):
            reason = (
                m.ResetReason(hello.reset).name.lower()
                if hello.reset in m.ResetReason._value2member_map_
                else "unknown"
            )
            asking.forget(
                DeviceReset(
                    f"the device restarted (cause: {reason}); its forward pass and unsaved learned tensors are gone",
                    where=asking.name,
                    remedy="greet it again and restore its tensors",
                )
            )
        self.hello = hello
        self.most_bytes = self._wire.link.peer_max_message
        self._token = secrets.randbelow(0xFFFFFFFF) + 1
        if self.cut is not None:
            self._selects = asking.number()
            self._wire.say(m.Cut(request=self._selects, index=self.cut))
        self._welcome = asking.number()
        self._wire.say(m.Welcome(request=self._welcome, token=self._token, bundle_hash=self._hash))

    def take_fault(self, wire: bytes) -> None:
        """The last words of a device; one that restarts after them is greeted as after any restart."""
        dump = "".join(c for c in wire.decode("ascii", "replace") if c.isprintable())
        dump = dump[dump.find(FAULT.decode()) :]
        error = DeviceFault(
            f"the device crashed ({dump})",
            where=self._asking.name,
            remedy="tlc symbolize DIR with this line names the source line",
        )
        error.dump = dump
        self._log(logging.ERROR, dump)
        self._asking.ready.clear()
        self._asking.forget(error)
        if self._crash is not None and not self._crash.done():  # who waits for a greeting waits in vain
            self._crash.set_result(error)
