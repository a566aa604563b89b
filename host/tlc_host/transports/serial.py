# SPDX-License-Identifier: Apache-2.0
"""A serial line: pyserial opens and sets it, and the event loop reads and writes it; imported only when it is used.

pyserial-asyncio and its kin are not used: their transports block the loop when the line's buffer is full, and spin when
what they kept back has left (pyserial-asyncio-fast issue 36).
"""

from __future__ import annotations

import asyncio
import errno
import os
from typing import Any

from tlc.errors import LinkError

__all__ = ["SerialTransport", "open_serial"]

READ = 65536
QUEUE_S = 0.05
"""How long what waits in front of the line may take to leave: what is urgent stands behind it."""
LEAST_QUEUE = 1024


class SerialTransport:
    """A ``Transport`` over an open serial port.

    Args:
        name: what a person calls it.
        port: a ``serial.Serial`` with time-out 0; it is closed with the transport.
    """

    def __init__(self, name: str, port: Any) -> None:
        self._name = name
        self._port = port
        self._fd: int = port.fileno()
        self._loop = asyncio.get_running_loop()
        self._came: list[bytes] = []
        self._wake = asyncio.Event()
        self._left = bytearray()
        self._error: LinkError | None = None
        self.high_water = max(LEAST_QUEUE, int(port.baudrate / 10 * QUEUE_S))
        os.set_blocking(self._fd, False)
        self._loop.add_reader(self._fd, self._readable)

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self._name

    async def read(self) -> bytes:
        """At least one byte."""
        while not self._came:
            if self._error is not None:
                raise self._error
            self._wake.clear()
            await self._wake.wait()
        data = b"".join(self._came)
        self._came.clear()
        return data

    def write(self, data: bytes) -> None:
        """Hands over bytes."""
        if self._error is not None:
            raise self._error
        waiting = bool(self._left)
        self._left += data
        if not waiting:
            self._writable()
            if self._left:
                self._loop.add_writer(self._fd, self._writable)

    def backlog(self) -> int:
        """Bytes handed over that have not left, the driver's included where it tells."""
        if self._error is not None:
            return 0
        try:
            return len(self._left) + int(self._port.out_waiting)
        except OSError:
            return len(self._left)

    async def close(self) -> None:
        """Lets go; what waits is lost, as on a line that is pulled out."""
        self._break(LinkError("the serial port is closed", where=self._name))
        self._port.close()

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._break(LinkError(f"the serial port is gone ({error.strerror})", where=self._name))
            return
        if not data:
            self._break(LinkError("the serial port hung up", where=self._name))
            return
        self._came.append(data)
        self._wake.set()

    def _writable(self) -> None:
        try:
            while self._left:
                del self._left[: os.write(self._fd, self._left)]
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._break(LinkError(f"the serial port is gone ({error.strerror})", where=self._name))
            return
        self._loop.remove_writer(self._fd)

    def _break(self, error: LinkError) -> None:
        if self._error is None:
            self._error = error
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            self._left.clear()
            self._wake.set()


async def open_serial(port: str, baud: int = 115200) -> SerialTransport:
    """Opens a serial port: 8 data bits, no parity, one stop bit, no flow control, for us alone.

    Raises:
        LinkError: pyserial is not installed, or the port is missing, in use or not permitted.
    """
    try:
        import serial
    except ImportError as error:
        raise LinkError("serial lines need pyserial", where=port, remedy='pip install "tlc[host]"') from error
    if os.name != "posix":
        raise LinkError("serial lines are served on Linux and macOS", where=port, remedy="run the host in WSL")
    try:
        opened = serial.Serial(port, baud, timeout=0, exclusive=True)
    except (OSError, ValueError) as error:
        raise LinkError(f"cannot open the serial port ({_reason(error)})", where=port, remedy=_remedy(error)) from error
    return SerialTransport(port, opened)


def _number(error: Exception) -> int:
    """What the system said: pyserial's own errors hide it in one that they were raised from, or in their words."""
    for seen in (error, error.__context__):
        if isinstance(seen, OSError) and seen.errno:
            return int(seen.errno)
    return errno.EAGAIN if "lock" in str(error).lower() else 0


def _reason(error: Exception) -> str:
    number = _number(error)
    return os.strerror(number) if number else str(error).split("\n")[0]


def _remedy(error: Exception) -> str:
    number = _number(error)
    if number in (errno.EACCES, errno.EPERM):
        return "add yourself to the group that owns it (dialout or uucp), then log in again"
    if number in (errno.EAGAIN, errno.EBUSY):
        return "another program holds it: close that monitor or daemon"
    if number == errno.ENOENT:
        return "plug the board in and look for its name (ls /dev/tty*)"
    return "is the board plugged in?"
