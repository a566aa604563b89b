# SPDX-License-Identifier: Apache-2.0
"""What passes over the links, into a file for Wireshark: ``--capture FILE``.

pcapng (draft-ietf-opsawg-pcapng): a section header, for each device an interface of link type USER0 (147), and one
packet for each piece of bytes between two zeros, as it was on the wire: COBS, damaged ones too. The dissector is
``firmware/wireshark/tlc.lua``.
"""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import IO

from tlc.errors import OutputError
from tlc_host.transports.base import Transport

__all__ = ["Capture", "captured", "capturing", "is_capturing"]

LINKTYPE_USER0 = 147
INBOUND, OUTBOUND = 1, 2
MOST_PIECE = 1 << 14
"""A longer run without a zero is cut: it is no frame."""

_current: ContextVar[Capture | None] = ContextVar("capture", default=None)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _block(kind: int, body: bytes) -> bytes:
    size = 12 + len(body)
    return struct.pack("<II", kind, size) + body + struct.pack("<I", size)


class Capture:
    """A pcapng file that is being written.

    Args:
        path: where; a file that is there is replaced.

    Raises:
        OutputError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file: IO[bytes] = open(path, "wb")  # noqa: SIM115  # closed by `close`
        except OSError as error:
            raise OutputError(
                f"cannot be written ({error.strerror})", where=str(path), remedy="choose another --capture"
            ) from error
        self._interfaces = 0
        self._write(
            _block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1) + _option(4, b"tlc") + _option(0, b""))
        )

    def _write(self, block: bytes) -> None:
        try:
            self._file.write(block)
        except OSError as error:
            raise OutputError(
                f"cannot be written ({error.strerror})",
                where=str(self._path),
                remedy="make room, or leave --capture out",
            ) from error

    def interface(self, name: str) -> int:
        """One more device; gives its number. Times are in microseconds, pcapng's own resolution."""
        number, self._interfaces = self._interfaces, self._interfaces + 1
        options = _option(2, name.encode()[:200]) + _option(0, b"")
        self._write(_block(1, struct.pack("<HHI", LINKTYPE_USER0, 0, 0) + options))
        return number

    def packet(self, interface: int, data: bytes, direction: int) -> None:
        """Bytes between two zeros, ``INBOUND`` from the device or ``OUTBOUND`` to it."""
        stamp = time.time_ns() // 1000
        head = struct.pack("<IIIII", interface, stamp >> 32, stamp & 0xFFFFFFFF, len(data), len(data))
        options = _option(2, struct.pack("<I", direction)) + _option(0, b"")
        self._write(_block(6, head + data + bytes(-len(data) % 4) + options))

    def close(self) -> None:
        """Ends the file."""
        self._file.close()


class _Pieces:
    """Cuts one direction at its zeros."""

    def __init__(self, capture: Capture, interface: int, direction: int) -> None:
        self._capture, self._interface, self._direction = capture, interface, direction
        self._rest = b""

    def _say(self, piece: bytes) -> None:
        self._capture.packet(self._interface, piece, self._direction)

    def feed(self, data: bytes) -> None:
        *whole, self._rest = (self._rest + data).split(b"\0")
        for piece in whole:
            if piece:
                self._say(piece)
        while len(self._rest) > MOST_PIECE:
            self._say(self._rest[:MOST_PIECE])
            self._rest = self._rest[MOST_PIECE:]


class _Tapped:
    """A transport that is listened to."""

    def __init__(self, inner: Transport, up: _Pieces, down: _Pieces) -> None:
        self._inner = inner
        self._up, self._down = up, down
        if hasattr(inner, "high_water"):
            self.high_water: int = inner.high_water

    @property
    def name(self) -> str:
        return self._inner.name

    async def read(self) -> bytes:
        data = await self._inner.read()
        self._up.feed(data)
        return data

    def write(self, data: bytes) -> None:
        self._inner.write(data)
        self._down.feed(data)

    def backlog(self) -> int:
        return self._inner.backlog()

    async def close(self) -> None:
        await self._inner.close()


def captured(opener: Callable[[], Awaitable[Transport]], name: str) -> Callable[[], Awaitable[Transport]]:
    """The same opener, or, within ``capturing``, one whose transports' bytes also go to the file."""
    capture = _current.get()
    if capture is None:
        return opener
    interface = capture.interface(name)

    async def tapped() -> Transport:
        inner = await opener()
        return _Tapped(inner, _Pieces(capture, interface, INBOUND), _Pieces(capture, interface, OUTBOUND))

    return tapped


def is_capturing() -> bool:
    """Whether what passes over links is to be written down."""
    return _current.get() is not None


@contextlib.contextmanager
def capturing(path: Path | None) -> Iterator[None]:
    """Sessions that begin within it are captured; None: they are not.

    Raises:
        OutputError: the file cannot be written.
    """
    if path is None:
        yield
        return
    capture = Capture(path)
    token = _current.set(capture)
    try:
        yield
    finally:
        _current.reset(token)
        capture.close()
