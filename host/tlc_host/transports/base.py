# SPDX-License-Identifier: Apache-2.0
"""What the session needs of a transport."""

from __future__ import annotations

import re
from typing import Protocol

from tlc.errors import ConfigError

__all__ = ["Transport", "open_transport"]


class Transport(Protocol):
    """Bytes in, bytes out.

    ``read`` waits for bytes and gives at least one; ``write`` takes all it is given; both raise ``LinkError`` when
    the way is gone. ``backlog`` is how many bytes written have not left yet, so that the link can wait with more; a
    transport may say in ``high_water`` how many of them are enough.
    """

    @property
    def name(self) -> str:
        """What a person calls it."""

    async def read(self) -> bytes:
        """At least one byte."""

    def write(self, data: bytes) -> None:
        """Hands over bytes."""

    def backlog(self) -> int:
        """Bytes handed over that have not left."""

    async def close(self) -> None:
        """Lets go."""


async def open_transport(device: str, *, baud: int = 115200, connect_s: float = 5.0) -> Transport:
    """Opens ``tcp://HOST:PORT``, ``/dev/tty...``, ``COM3`` or ``serial:///dev/tty...?baud=921600``.

    Raises:
        ConfigError: the name is none of these.
        LinkError: it cannot be opened.
    """
    if device.startswith("tcp://"):
        from tlc_host.transports.tcp import open_tcp

        match = re.fullmatch(r"tcp://(\[[^\]]+\]|[^:/]+):(\d{1,5})/?", device)
        if match is None or not 0 < int(match[2]) < 65536:
            raise ConfigError(
                "a TCP device is written tcp://HOST:PORT", where=device, remedy="e.g. tcp://127.0.0.1:7000"
            )
        return await open_tcp(match[1].strip("[]"), int(match[2]), connect_s=connect_s)
    serial = re.fullmatch(r"serial://(.+?)(?:\?baud=(\d+))?", device)
    if serial is not None or device.startswith("/dev/") or re.fullmatch(r"COM\d+", device):
        from tlc_host.transports.serial import open_serial

        port = serial[1] if serial is not None else device
        return await open_serial(port, int(serial[2]) if serial is not None and serial[2] else baud)
    raise ConfigError(
        f"no such device: {device!r}",
        remedy="twin, native, emulator, /dev/tty..., COM3, tcp://HOST:PORT or listen://HOST:PORT",
    )
