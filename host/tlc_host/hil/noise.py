# SPDX-License-Identifier: Apache-2.0
"""A transport over a bad line."""

from __future__ import annotations

import random

from tlc_host.transports import Transport

__all__ = ["Noisy"]


class Noisy:
    """A ``Transport`` that flips bits, loses bytes and adds some, both ways.

    Args:
        inner: the good line.
        seed: of what happens.
        rate: the probability with which something happens to a byte.
    """

    def __init__(self, inner: Transport, seed: int, rate: float) -> None:
        self._inner = inner
        self._random = random.Random(seed)
        self._rate = rate
        self.damaged = 0

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self._inner.name

    async def read(self) -> bytes:
        """At least one byte."""
        while not (data := self._spoil(await self._inner.read())):
            pass
        return data

    def write(self, data: bytes) -> None:
        """Hands over bytes."""
        self._inner.write(self._spoil(data))

    def backlog(self) -> int:
        """Bytes handed over that have not left."""
        return self._inner.backlog()

    async def close(self) -> None:
        """Lets go."""
        await self._inner.close()

    def _spoil(self, data: bytes) -> bytes:
        out = bytearray()
        at = 0
        while True:
            good = int(self._random.expovariate(self._rate))
            out += data[at : at + good]
            at += good
            if at >= len(data):
                return bytes(out)
            self.damaged += 1
            what = self._random.randrange(3)
            if what == 0:
                out.append(data[at] ^ 1 << self._random.randrange(8))
            elif what == 1:
                out += bytes([data[at], self._random.randrange(256)])
            at += 1
