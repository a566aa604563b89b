# SPDX-License-Identifier: Apache-2.0
"""An asyncio reader and writer as a transport; TCP and serial lines are both."""

from __future__ import annotations

import asyncio
import contextlib

from tlc.errors import LinkError

__all__ = ["StreamTransport"]


class StreamTransport:
    """A ``Transport`` over asyncio streams."""

    def __init__(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._name = name
        self._reader = reader
        self._writer = writer

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self._name

    async def read(self) -> bytes:
        """At least one byte."""
        try:
            data = await self._reader.read(65536)
        except (OSError, EOFError) as error:
            raise LinkError(f"the connection broke ({error})", where=self._name) from error
        if not data:
            raise LinkError("the device closed the connection", where=self._name)
        return data

    def write(self, data: bytes) -> None:
        """Hands over bytes."""
        if self._writer.is_closing():
            raise LinkError("the connection is closed", where=self._name)
        self._writer.write(data)

    def backlog(self) -> int:
        """Bytes handed over that have not left."""
        return self._writer.transport.get_write_buffer_size()

    async def close(self) -> None:
        """Lets go; what was written goes out first, where it can within a moment."""
        self._writer.close()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._writer.wait_closed(), 1.0)
