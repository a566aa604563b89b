# SPDX-License-Identifier: Apache-2.0
"""A serial line, by pyserial; imported only when it is used."""

from __future__ import annotations

from tlc.errors import LinkError
from tlc_host.transports.streams import StreamTransport

__all__ = ["open_serial"]


async def open_serial(port: str, baud: int = 115200) -> StreamTransport:
    """Opens a serial port: 8 data bits, no parity, one stop bit, no flow control, for us alone.

    Raises:
        LinkError: pyserial-asyncio-fast is not installed, or the port is missing, in use or not permitted.
    """
    try:
        import serial_asyncio_fast
    except ImportError as error:
        raise LinkError(
            "serial lines need pyserial-asyncio-fast", where=port, remedy='pip install "tlc[host]"'
        ) from error
    try:
        reader, writer = await serial_asyncio_fast.open_serial_connection(url=port, baudrate=baud, exclusive=True)
    except (OSError, ValueError) as error:
        raise LinkError(f"cannot open the serial port ({_reason(error)})", where=port, remedy=_remedy(error)) from error
    return StreamTransport(port, reader, writer)


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).split("\n")[0]


def _remedy(error: Exception) -> str:
    text = str(error).lower()
    if "permission" in text or "errno 13" in text:
        return "add yourself to the group that owns it (dialout or uucp), then log in again"
    if "lock" in text or "busy" in text or "errno 11" in text or "errno 16" in text:
        return "another program holds it: close that monitor or daemon"
    if "no such file" in text or "errno 2" in text:
        return "plug the board in and look for its name (ls /dev/tty*)"
    return "is the board plugged in?"
