# SPDX-License-Identifier: Apache-2.0
"""TCP: the native board, emulators' UARTs, devices on Wi-Fi."""

from __future__ import annotations

import asyncio
import socket

from tlc.errors import LinkError
from tlc_host.transports.streams import StreamTransport

__all__ = ["open_tcp"]


async def open_tcp(host: str, port: int, *, connect_s: float = 5.0) -> StreamTransport:
    """Connects to a device that listens.

    Raises:
        LinkError: nobody listens there, or does not answer within ``connect_s`` seconds.
    """
    name = f"tcp://{host}:{port}"
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), connect_s)
    except TimeoutError as error:
        raise LinkError(
            f"no answer within {connect_s:g} s", where=name, remedy="is the device on, and is the address right?"
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise LinkError(
            f"cannot connect ({reason})", where=name, remedy="is the device running, and the port right?"
        ) from error
    connection = writer.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return StreamTransport(name, reader, writer)
