# SPDX-License-Identifier: Apache-2.0
"""A port on which devices call: ``listen://HOST:PORT``, for boards on Wi-Fi that connect by themselves.

Each session that names the port has a *seat* at it. A device that comes again gets its own seat back: by the session
number in its first frame, else by its address. Who says nothing that is a frame, or finds no seat, is hung up on.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import re
import socket
import weakref
from collections.abc import Callable
from typing import Any

from tlc.errors import ConfigError, LinkError
from tlc_host.link.frame import HEADER_BYTES, MAX_FRAGMENT, Decoder
from tlc_host.transports.streams import StreamTransport

__all__ = ["DEFAULT_PORT", "SERVICE", "Seat", "take_seat"]

DEFAULT_PORT = 7777
SERVICE = "_tlc._tcp.local."
FIRST_FRAME_S = 5.0
"""A device says something every second."""
MOST_STRANGERS = 32
"""Connections that have not said a frame yet."""
MOST_SAID = 1 << 16

log = logging.getLogger("tlc.link")


class _Caller(StreamTransport):
    """A connection whose first bytes were looked at."""

    def __init__(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(name, reader, writer)
        self.said = b""

    async def read(self) -> bytes:
        """At least one byte."""
        if self.said:
            said, self.said = self.said, b""
            return said
        return await super().read()

    async def look(self) -> int:
        """The session number of the first frame; its bytes, and all before them, are read again by ``read``.

        Raises:
            LinkError: the connection broke, or so many bytes hold no frame.
        """
        decoder = Decoder(2 * (HEADER_BYTES + MAX_FRAGMENT))
        said = b""
        while len(said) < MOST_SAID:
            data = await super().read()
            said += data
            frames = decoder.feed(data)
            if frames:
                self.said = said
                return frames[0].session
        raise LinkError("sent no frame", where=self.name)


class Seat:
    """One device's place at a port.

    Attributes:
        number: gives the link's session number, by which the device is known again.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._next: asyncio.Queue[_Caller] = asyncio.Queue()
        self._held: _Caller | None = None
        self.peer = ""
        self.number: Callable[[], int] = lambda: 0

    @property
    def vacant(self) -> bool:
        """Whether no device sits there."""
        return self._held is None and self._next.empty()

    async def open(self) -> StreamTransport:
        """The device's connection: waits for as long as it takes the first time, later for a second.

        Raises:
            LinkError: it has not come again yet.
        """
        if self._held is not None:
            await self._held.close()
            self._held = None
        if self.peer:
            try:
                caller = await asyncio.wait_for(self._next.get(), 1.0)
            except TimeoutError as error:
                raise LinkError(
                    "the device has not come again", where=self._listener.name, remedy="is it on, and on the network?"
                ) from error
        else:
            if self._next.empty():
                log.warning("%s: waiting for a device to connect", self._listener.name)
            caller = await self._next.get()
        self._held = caller
        return caller

    async def seat(self, caller: _Caller, peer: str) -> None:
        """Gives it a connection; one that it had is of no use any more."""
        self.peer = peer
        while not self._next.empty():
            await self._next.get_nowait().close()
        self._next.put_nowait(caller)
        if self._held is not None:
            await self._held.close()

    def left(self, caller: _Caller) -> bool:
        """Whether this connection is the one that the seat has."""
        return self._held is caller

    async def close(self) -> None:
        """Gives the seat up; with the last one the port is closed."""
        while not self._next.empty():
            await self._next.get_nowait().close()
        await self._listener.give_up(self)


class Listener:
    """A bound port and its seats."""

    def __init__(self, host: str, port: int, mdns: bool | None) -> None:
        self.host, self.port = host, port
        self._mdns = mdns
        self._seats: list[Seat] = []
        self._strangers = 0
        self._server: asyncio.Server | None = None
        self._announced: Any = None

    @property
    def name(self) -> str:
        """What a person calls it."""
        return f"listen://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    async def start(self) -> None:
        """Binds the port; says, each time, when others than this machine can reach it.

        Raises:
            LinkError: it is in use, or not ours to bind.
        """
        try:
            self._server = await asyncio.start_server(self._called, self.host, self.port)
        except OSError as error:
            reason = error.strerror or str(error)
            if error.errno is not None and "address already in use" in str(error).lower():
                reason = "the port is already in use"
            raise LinkError(
                f"cannot listen ({reason})", where=self.name, remedy="end the other program, or choose another port"
            ) from error
        self.port = self._server.sockets[0].getsockname()[1]
        public = not _is_loopback(self.host)
        if public:
            log.warning(
                "%s: anyone who reaches this address can speak to it, and the link is not encrypted: "
                "use it in a network that you trust",
                self.name,
            )
        if self._mdns if self._mdns is not None else public:
            await self._announce()

    async def _announce(self) -> None:
        try:
            from zeroconf import IPVersion
            from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf
        except ImportError:
            log.warning('%s: not announced by mDNS: pip install "tlc[host]"', self.name)
            return
        addresses = [self.host] if _is_address(self.host) and self.host not in ("0.0.0.0", "::") else _own_addresses()
        machine = socket.gethostname().split(".")[0][:40] or "host"
        info = AsyncServiceInfo(
            SERVICE,
            f"tlc {self.port} on {machine}.{SERVICE}",
            parsed_addresses=addresses,
            port=self.port,
            properties={"version": "1"},
            server=f"{machine}.local.",
        )
        try:
            announced = AsyncZeroconf(interfaces=addresses, ip_version=IPVersion.V4Only)
            await announced.async_register_service(info, allow_name_change=True)
        except OSError as error:
            log.warning("%s: not announced by mDNS (%s)", self.name, error.strerror or error)
            return
        self._announced = announced

    def take_seat(self) -> Seat:
        """One more device."""
        seat = Seat(self)
        self._seats.append(seat)
        return seat

    async def give_up(self, seat: Seat) -> None:
        """One device less."""
        if seat in self._seats:
            self._seats.remove(seat)
        if not self._seats and self._server is not None:
            server, self._server = self._server, None
            server.close()
            _of_this_loop().pop((self.host, self.port), None)
            if self._announced is not None:
                with contextlib.suppress(Exception):
                    await self._announced.async_close()

    async def _called(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = (writer.get_extra_info("peername") or ("?", 0))[:2]
        caller = _Caller(f"{self.name} from {address[0]}:{address[1]}", reader, writer)
        if self._strangers >= MOST_STRANGERS:
            writer.transport.abort()
            return
        self._strangers += 1
        try:
            connection = writer.get_extra_info("socket")
            if connection is not None:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            number = await asyncio.wait_for(caller.look(), FIRST_FRAME_S)
        except (LinkError, TimeoutError):
            log.warning("%s: says nothing that is a frame: hung up", caller.name)
            writer.transport.abort()
            return
        finally:
            self._strangers -= 1
        seat = self._seat_for(number, address[0])
        if seat is None:
            log.warning("%s: every device of this port is connected already: hung up", caller.name)
            await caller.close()
            return
        await seat.seat(caller, address[0])

    def _seat_for(self, number: int, peer: str) -> Seat | None:
        known = [seat for seat in self._seats if number and seat.number() == number]
        vacant = [seat for seat in self._seats if seat.vacant]
        for group in (
            known,
            [seat for seat in vacant if seat.peer == peer],
            [seat for seat in vacant if not seat.peer],
            vacant,
            # its connection broke and nobody told us: on a network of its own an address is one device
            [seat for seat in self._seats if seat.peer == peer and not _is_loopback(peer)],
        ):
            if group:
                return group[0]
        return None


_listeners: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, int], Listener]] = (
    weakref.WeakKeyDictionary()
)


def _of_this_loop() -> dict[tuple[str, int], Listener]:
    return _listeners.setdefault(asyncio.get_running_loop(), {})


async def take_seat(device: str) -> Seat:
    """A seat at ``listen://[HOST][:PORT][?mdns=yes|no]``; the port is bound with the first one.

    Without a host: loopback, so nobody outside this machine. mDNS (service ``_tlc._tcp``) announces a port that others
    can reach, unless told otherwise.

    Raises:
        ConfigError: the name is not of this form.
        LinkError: the port cannot be bound.
    """
    match = re.fullmatch(r"listen://(\[[^\]]+\]|[^:/?\[\]]*)(?::(\d{1,5}))?/?(?:\?mdns=(yes|no))?", device)
    if match is None or int(match[2] or 0) > 65535:
        raise ConfigError(
            "a port on which devices call is written listen://HOST:PORT",
            where=device,
            remedy="e.g. listen://127.0.0.1:7777, or listen://0.0.0.0:7777 for all interfaces",
        )
    host = match[1].strip("[]") or "127.0.0.1"
    port = int(match[2]) if match[2] else DEFAULT_PORT
    known = _of_this_loop()
    listener = known.get((host, port))
    if listener is None:
        listener = Listener(host, port, None if match[3] is None else match[3] == "yes")
        await listener.start()
        known[(host, listener.port)] = listener
    return listener.take_seat()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _own_addresses() -> list[str]:
    """IPv4 addresses at which others reach this machine."""
    import ifaddr

    found = [
        ip.ip
        for adapter in ifaddr.get_adapters()
        for ip in adapter.ips
        if isinstance(ip.ip, str) and not _is_loopback(ip.ip)
    ]
    return found or ["127.0.0.1"]
