# SPDX-License-Identifier: Apache-2.0
"""A session's life, and which part of it a message is for."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from tlc.errors import LinkError, ProtocolError
from tlc_host import messages as m
from tlc_host.capture import captured
from tlc_host.link import EndReason, Link, LinkEvent, State
from tlc_host.link.endpoint import Counters
from tlc_host.session.asking import Asking
from tlc_host.session.enquiries import Enquiries
from tlc_host.session.greeting import Greeting
from tlc_host.session.learning import Learning
from tlc_host.session.parameters import Parameters
from tlc_host.session.passes import Passes
from tlc_host.session.reply import Float32
from tlc_host.session.samples import SampleHook, Samples
from tlc_host.session.wire import Wire, now_ms
from tlc_host.transports import Transport, open_transport
from tlc_host.transports.listen import Seat, take_seat

__all__ = ["Session"]

COMES_AGAIN_S = 120.0
"""For how long a device that connects to us is waited for: its own waits grow to 30 s."""

_log = logging.getLogger("tlc.device")


class Session(Passes, Learning, Parameters, Enquiries):
    """One device. Make it with ``connect``.

    Attributes:
        name: the device, for messages.
        sensor: of a twin: gives its application the next sample, reals in the device's layout, and its label, beside the link.
    """

    def __init__(
        self,
        opener: Callable[[], Awaitable[Transport]],
        bundle_hash: bytes,
        *,
        name: str,
        link: Link,
        timeout_s: float,
        reconnect_s: float,
        on_sample: SampleHook | None,
        on_log: Callable[[int, str], None] | None,
        cut: int | None = None,
        seat: Seat | None = None,
    ) -> None:
        self._on_log = on_log or (lambda level, text: _log.log(level, "%s: %s", name, text))
        wire = Wire(
            link,
            opener,
            reconnect_s,
            heard=self._look,
            refused=lambda message, error: self._asking.refuse(message, error),
            lost=lambda error: self._asking.end(error),
        )
        asking = Asking(wire, name, timeout_s)
        super().__init__(wire, asking, Greeting(wire, asking, bundle_hash, cut, self._on_log))
        self._samples = Samples(wire, on_sample, self._on_log)
        self._seat = seat
        self._closed = False
        self.sensor: Callable[[Float32, int], None] | None = None

    @classmethod
    async def connect(
        cls,
        device: str | Callable[[], Awaitable[Transport]],
        bundle_hash: bytes,
        *,
        name: str = "",
        baud: int = 115200,
        timeout_s: float = 10.0,
        reconnect_s: float = 10.0,
        link: Link | None = None,
        on_sample: SampleHook | None = None,
        on_log: Callable[[int, str], None] | None = None,
        cut: int | None = None,
    ) -> Session:
        """Opens a device, begins a session and greets.

        Args:
            device: a name for ``transports.open_transport``, or a function that opens a transport anew.
            bundle_hash: 32 bytes; the device must hold the same.
            baud: of a serial line.
            timeout_s: longest wait for an answer.
            reconnect_s: for how long a broken transport is opened again; 0: never.
            link: settings of the link.
            on_sample: called with the smashed data of the device's own sample; gives the network's output, (count,)
                float32, which goes to the application's result hook. May be a coroutine function.
            on_log: called with level and text of the device's log lines; else they go to the logger ``tlc.device``.
            cut: which of the bundle's cuts, where it has several; also after the device's resets.

        Raises:
            LinkError: the transport cannot be opened.
            DeviceTimeout: nobody answers.
            BundleMismatch: the device holds another bundle.
            ProtocolError: the device speaks another version.
        """
        seat: Seat | None = None
        if isinstance(device, str):
            spec = device
            if device.startswith("listen://"):
                seat = await take_seat(device)
                reconnect_s = max(reconnect_s, COMES_AGAIN_S) if reconnect_s else 0

            async def opener() -> Transport:
                return await (seat.open() if seat is not None else open_transport(spec, baud=baud))

            name = name or spec
        else:
            opener = device  # type: ignore[assignment]
        link = link or Link()
        if seat is not None:
            seat.number = lambda: link.session
        session = cls(
            captured(opener, name or "device"),
            bundle_hash,
            name=name or "device",
            link=link,
            timeout_s=timeout_s,
            reconnect_s=reconnect_s,
            on_sample=on_sample,
            on_log=on_log,
            cut=cut,
            seat=seat,
        )
        try:
            await session._wire.open(session.name)
            await session._greeting.wait()
        except BaseException:
            await session.close()
            raise
        return session

    async def greet(self) -> m.Hello:
        """Takes note of a device's restart: waits until it has said hello, and lets calls through again."""
        self._asking.check(reset=False)
        await self._greeting.wait()
        self._asking.reset = None
        return self.hello

    async def close(self) -> None:
        """Says goodbye and lets go of the transport."""
        if self._closed:
            return
        self._closed = True
        self._asking.end(LinkError("the session was closed", where=self.name))
        await self._wire.close()
        await self._samples.close()
        if self._seat is not None:
            await self._seat.close()

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def counters(self) -> Counters:
        """What the host's end of the link has seen."""
        return self._wire.link.counters

    @property
    def waiting(self) -> tuple[int, int]:
        """What has not left or not arrived: bytes before the line, and messages that are not acknowledged."""
        return self._wire.backlog, self._wire.link.unacknowledged

    def _look(self) -> None:
        """At what the link has heard."""
        link = self._wire.link
        while link.faults:
            self._greeting.take_fault(link.faults.popleft())
        while link.events and self._asking.ended is None:
            self._take_event(link.events.popleft())
        while link.messages and self._asking.ended is None:
            raw = link.messages.popleft()
            try:
                message = m.parse(raw.type, raw.payload)
            except ProtocolError as error:
                self._on_log(logging.WARNING, str(error))
                continue
            self._take(message)

    def _take_event(self, event: LinkEvent) -> None:
        """The link's session is a new one, or it ended: it is begun again, where that can help."""
        self._asking.interrupt()
        self._samples.clear()
        link = self._wire.link
        if event.opened:
            return
        if event.reason is EndReason.SUPERSEDED:
            remedy = "end one of them"
            self._asking.end(LinkError("another host took this device over", where=self.name, remedy=remedy))
        elif event.reason is EndReason.VERSION:
            remedy = "build the firmware and the host from the same release"
            self._asking.end(ProtocolError(event.detail, where=self.name, remedy=remedy))
        elif link.state is not State.OPENING:
            link.open(now_ms())

    def _take(self, message: m.Message) -> None:
        if self._greeting.take(message):
            return
        if isinstance(message, m.Log):
            self._on_log(message.level, message.text.decode("utf-8", "replace"))
        elif isinstance(message, m.Smashed) and message.flags & m.SmashedFlag.SAMPLE:
            self._samples.take(message)
        else:
            self._asking.take(message)
