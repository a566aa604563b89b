# SPDX-License-Identifier: Apache-2.0
"""A twin of tests/conformance/small_model.h for the session's tests, and ways to disturb it."""

from __future__ import annotations

import asyncio
import ctypes
import random
import subprocess
from pathlib import Path
from typing import Any

from tlc.errors import LinkError
from tlc_host.link.frame import Frame, FrameType, encode, parse
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


class Forgetful:
    """A transport on which the device's word that it does not know the session can be made up.

    Attributes:
        hides: a message type of the host's: the first such message is lost, and with it the session.
        held: what the device says is kept back.
        told: frames with the host's messages, also the one that was lost.
    """

    name = "forgetful"

    def __init__(self, inner: Any, hides: int = 0) -> None:
        self.inner = inner
        self.hides = hides
        self.held = asyncio.Event()
        self.held.set()
        self.told: list[Frame] = []
        self.session = 0
        self.made_up: asyncio.Queue[bytes] = asyncio.Queue()

    def forget(self) -> None:
        """END, reason UNKNOWN."""
        self.made_up.put_nowait(encode(Frame(FrameType.END, session=self.session, payload=bytes([0, 1, 1]))))

    async def read(self) -> bytes:
        said, heard = asyncio.create_task(self.made_up.get()), asyncio.create_task(self._hear())
        done, waiting = await asyncio.wait({said, heard}, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        return b"".join(task.result() for task in done)

    async def _hear(self) -> bytes:
        await self.held.wait()
        return await self.inner.read()

    def write(self, data: bytes) -> None:
        for wire in data.split(b"\0")[:-1]:
            frame = parse(wire)
            assert frame is not None
            self.session = frame.session or self.session
            self.told += [frame] * (frame.type >= FrameType.MESSAGE)
            if frame.type == self.hides:
                self.hides = 0
                self.forget()
                continue
            self.inner.write(wire + b"\0")

    def backlog(self) -> int:
        return self.inner.backlog()

    async def close(self) -> None:
        await self.inner.close()
