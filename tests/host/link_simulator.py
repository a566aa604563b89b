# SPDX-License-Identifier: Apache-2.0
"""The device's end of the link in C, and a channel between it and the host's end that does all that channels do."""

from __future__ import annotations

import ctypes
import heapq
import random
import subprocess
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from tlc_host.link import Link, State, Stream

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    ROOT / "tests/conformance/link_peer.c",
    *sorted((ROOT / "firmware/src/link").glob("*.c")),
]


def build_peer(directory: Path, *flags: str) -> ctypes.CDLL:
    """Compiles the C endpoint."""
    library = directory / "link_peer.so"
    command = ["gcc", "-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(library), *flags]
    subprocess.run([*command, "-I", str(ROOT / "firmware/include"), *map(str, SOURCES)], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.peer_bytes.restype = ctypes.c_size_t
    loaded.peer_link_bytes.restype = ctypes.c_size_t
    loaded.peer_output.restype = ctypes.c_size_t
    loaded.peer_encode.restype = ctypes.c_size_t
    loaded.peer_session.restype = ctypes.c_uint32
    loaded.peer_crc32.restype = ctypes.c_uint32
    loaded.peer_rtt_ms.restype = ctypes.c_uint32
    return loaded


class Device:
    """The C endpoint as an object with the methods of the Python one."""

    def __init__(
        self,
        library: ctypes.CDLL,
        *,
        window: int = 8,
        fragment: int = 256,
        messages: int = 2,
        max_message: int = 8192,
        boot: int = 1,
        refuse: int = 0,
    ) -> None:
        self._c = library
        self._memory = ctypes.create_string_buffer(library.peer_bytes() + 16)
        self._at = ctypes.c_void_p((ctypes.addressof(self._memory) + 15) // 16 * 16)
        self._buffer = ctypes.create_string_buffer(1 << 17)
        self._settings = (window, fragment, messages, max_message)
        self._refuse = refuse
        self.reset(boot)

    def reset(self, boot: int) -> None:
        assert self._c.peer_init(self._at, *self._settings, boot, self._refuse) == 0

    def receive(self, data: bytes, now: float) -> None:
        self._c.peer_receive(self._at, ctypes.c_uint32(int(now)), data, ctypes.c_size_t(len(data)))

    def output(self, now: float) -> bytes:
        count = self._c.peer_output(self._at, ctypes.c_uint32(int(now)), self._buffer, ctypes.c_size_t(1 << 17))
        return ctypes.string_at(self._buffer, count)

    def send(self, kind: int, stream: int, payload: bytes) -> bool:
        status = self._c.peer_send(self._at, int(stream), kind, payload, len(payload))
        assert status in (0, 8), status
        return bool(status == 0)

    def next(self) -> tuple[int, int, bytes] | None:
        count = ctypes.c_uint32()
        found = self._c.peer_next(self._at, self._buffer, ctypes.byref(count))
        return None if found < 0 else (found & 255, found >> 8, ctypes.string_at(self._buffer, count.value))

    def busy(self, on: bool, *, announce: bool = False) -> None:
        self._c.peer_busy(self._at, int(on), int(announce))

    @property
    def session(self) -> int:
        return int(self._c.peer_session(self._at))

    @property
    def counters(self) -> dict[str, int]:
        names = ["frames_in", "frames_out", "bytes_in", "bytes_out", "bad", "repeated", "refused", "resent", "sessions"]
        values = (ctypes.c_uint32 * 9)()
        self._c.peer_counters(self._at, values)
        return dict(zip(names, values, strict=True))


@dataclass
class Channel:
    """One direction. Rates are per frame, ``bit_error`` per bit; ``byte_ms`` is the line's time for a byte, ``buffer``
    the bytes that a driver takes before the line."""

    rng: random.Random
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    truncate: float = 0.0
    garbage: float = 0.0
    bit_error: float = 0.0
    delay_ms: float = 5.0
    byte_ms: float = 0.01
    buffer: int = 0
    free_at: float = 0.0
    frames: int = 0
    queue: list[tuple[float, int, bytes]] = field(default_factory=list)
    _count: int = 0

    def put(self, wire: bytes, now: float) -> None:
        self.frames += 1
        rng = self.rng
        start = max(now, self.free_at)
        self.free_at = start + self.byte_ms * len(wire)
        if rng.random() < self.loss:
            return
        for _ in range(2 if rng.random() < self.duplicate else 1):
            data = bytearray(wire)
            if self.bit_error:
                at = -1
                while True:
                    at += 1 + int(rng.expovariate(self.bit_error))
                    if at >= 8 * len(data):
                        break
                    data[at // 8] ^= 1 << at % 8
            if rng.random() < self.truncate:
                del data[rng.randrange(len(data)) :]
            if rng.random() < self.garbage:
                data = bytearray(rng.randbytes(rng.randrange(1, 600))) + data
            late = rng.uniform(0, 4 * self.delay_ms) if rng.random() < self.reorder else 0.0
            self._count += 1
            heapq.heappush(self.queue, (self.free_at + self.delay_ms + late, self._count, bytes(data)))

    def get(self, now: float) -> list[bytes]:
        out = []
        while self.queue and self.queue[0][0] <= now:
            out.append(heapq.heappop(self.queue)[2])
        return out

    @property
    def idle_at(self) -> float:
        return self.free_at - self.buffer * self.byte_ms


@dataclass
class World:
    """Host, device and the channels between them, in simulated time."""

    host: Link
    device: Device
    down: Channel
    up: Channel
    now: float = 0.0
    tick_ms: float = 1.0
    to_device: dict[int, deque[tuple[int, bytes]]] = field(default_factory=dict)
    to_host: dict[int, deque[tuple[int, bytes]]] = field(default_factory=dict)
    at_device: list[tuple[int, int, bytes]] = field(default_factory=list)
    at_host: list[tuple[int, int, bytes]] = field(default_factory=list)

    def step(self) -> None:
        """One tick."""
        self.now += self.tick_ms
        now = self.now
        for data in self.down.get(now):
            self.device.receive(data, now)
        for data in self.up.get(now):
            self.host.receive(data, now)
        while (found := self.device.next()) is not None:
            self.at_device.append(found)
        while self.host.messages:
            message = self.host.messages.popleft()
            self.at_host.append((message.type, int(message.stream), message.payload))
        if self.host.state is State.OPEN and self.host.session == self.device.session:
            for stream, queue in self.to_device.items():
                while queue and self.host.send(queue[0][0], Stream(stream), queue[0][1]):
                    queue.popleft()
            for stream, queue in self.to_host.items():
                while queue and self.device.send(queue[0][0], stream, queue[0][1]):
                    queue.popleft()
        # as on a real line: nothing is handed over before the line has taken what was
        while self.down.idle_at <= now and (wire := self.host.output(now, 1)):
            self.down.put(wire, now)
        while self.up.idle_at <= now and (wire := self.device.output(now)):
            self.up.put(wire, now)

    def connect(self, limit: float = 60000) -> None:
        self.host.open(self.now)
        end = self.now + limit
        while not (self.host.session and self.host.session == self.device.session):
            assert self.now < end, "no session"
            self.step()

    def run(self, to_device: int, to_host: int, limit: float) -> None:
        end = self.now + limit
        while len(self.at_device) < to_device or len(self.at_host) < to_host:
            assert self.now < end, (len(self.at_device), to_device, len(self.at_host), to_host)
            self.step()
