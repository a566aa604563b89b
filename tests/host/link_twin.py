# SPDX-License-Identifier: Apache-2.0
"""A twin of tests/conformance/small_model.h for the session's tests, and ways to disturb it."""

from __future__ import annotations

import asyncio
import ctypes
import random
import subprocess
from pathlib import Path

from tlc.errors import LinkError
from tlc_host.transports.memory import MemoryTransport

ROOT = Path(__file__).resolve().parents[2]
HASH = bytes([1, 2, 3, 4, 5]) + bytes(27)
N = 100


def build_twin(directory: Path, *flags: str) -> ctypes.CDLL:
    """The small model as a shared library."""
    firmware = ROOT / "firmware"
    sources = [
        ROOT / "tests/conformance/small_model.c",
        firmware / "ports/twin/twin.c",
        firmware / "src/ctx.c",
        *sorted((firmware / "src/device").glob("*.c")),
        *sorted((firmware / "src/link").glob("*.c")),
        *sorted((firmware / "src/journal").glob("*.c")),
        *sorted((firmware / "src/train").glob("*.c")),
        *sorted((firmware / "src/pack").glob("*.c")),
    ]
    library = directory / "small_twin.so"
    command = ["gcc", "-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(library), *flags]
    subprocess.run([*command, "-I", str(firmware / "include"), *map(str, sources)], check=True)
    loaded = ctypes.CDLL(str(library))
    for name in ("bytes", "receive", "send"):
        getattr(loaded, f"tlc_twin_{name}").restype = ctypes.c_size_t
    return loaded


class SmallTwin:
    """One device."""

    def __init__(self, library: ctypes.CDLL, boot: int = 1) -> None:
        self.c = library
        self._memory = ctypes.create_string_buffer(library.tlc_twin_bytes() + 16)
        self.at = ctypes.c_void_p((ctypes.addressof(self._memory) + 15) // 16 * 16)
        self._buffer = ctypes.create_string_buffer(1 << 16)
        self.dead = False
        self.reset(boot)

    def reset(self, boot: int) -> None:
        assert self.c.tlc_twin_init(self.at, ctypes.c_uint32(boot), 0) == 0

    def receive(self, data: bytes) -> int:
        return len(data) if self.dead else int(self.c.tlc_twin_receive(self.at, data, ctypes.c_size_t(len(data))))

    def send(self, capacity: int) -> bytes:
        capacity = min(capacity, 1 << 16)
        count = self.c.tlc_twin_send(self.at, self._buffer, ctypes.c_size_t(capacity))
        return self._buffer.raw[:count]

    def poll(self, now: int) -> bool:
        return not self.dead and bool(self.c.tlc_twin_poll(self.at, ctypes.c_uint32(now)))

    async def open(self) -> MemoryTransport:
        return MemoryTransport(self.receive, self.send, self.poll, idle_ms=1.0)


class Noisy:
    """A transport that loses, damages and breaks off."""

    def __init__(self, inner: MemoryTransport, rng: random.Random, *, loss: float = 0.0, breaks: float = 0.0) -> None:
        self._inner = inner
        self._rng = rng
        self._loss = loss
        self._breaks = breaks
        self.name = "noisy"

    def _spoil(self, data: bytes) -> bytes:
        out = bytearray(data)
        for _ in range(3):
            if out and self._rng.random() < self._loss:
                at = self._rng.randrange(len(out))
                if self._rng.random() < 0.5:
                    out[at] ^= 1 << self._rng.randrange(8)
                else:
                    del out[at : at + self._rng.randrange(1, 80)]
        return bytes(out)

    async def read(self) -> bytes:
        while True:
            data = await self._inner.read()
            if self._rng.random() < self._breaks:
                await asyncio.sleep(0)
                raise LinkError("pulled out", where=self.name)
            data = self._spoil(data)
            if data:
                return data

    def write(self, data: bytes) -> None:
        self._inner.write(self._spoil(data))

    def backlog(self) -> int:
        return self._inner.backlog()

    async def close(self) -> None:
        await self._inner.close()
