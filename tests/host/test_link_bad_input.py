# SPDX-License-Identifier: Apache-2.0
"""What a peer, a port or a person may do wrong: bounded memory, one clear line, other devices undisturbed."""

from __future__ import annotations

import asyncio
import os
import random
import tracemalloc
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from link_twin import HASH, N, SmallTwin, build_twin

from tlc.errors import DeviceTimeout, LinkError, ProtocolError
from tlc_host.link import EndReason, Frame, FrameType, Link, Offer, State
from tlc_host.link.frame import Decoder, encode
from tlc_host.session import Session
from tlc_host.transports.memory import MemoryTransport
from tlc_host.transports.serial import open_serial

SESSION = 77


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return build_twin(tmp_path_factory.mktemp("twin"))


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 60))


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text and "; " in text, f"one line, with a remedy: {text!r}"
    return text


class Scripted:
    """A device that answers frames by a function, and counts what it is sent."""

    name = "scripted"

    def __init__(self, answer: Callable[[Frame], list[bytes]]) -> None:
        self._answer = answer
        self._decoder = Decoder(1 << 14)
        self._said: asyncio.Queue[bytes] = asyncio.Queue()
        self.heard = 0

    async def read(self) -> bytes:
        return await self._said.get()

    def say(self, data: bytes) -> None:
        self._said.put_nowait(data)

    def write(self, data: bytes) -> None:
        self.heard += len(data)
        for frame in self._decoder.feed(data):
            for said in self._answer(frame):
                self.say(said)

    def backlog(self) -> int:
        return 0

    async def close(self) -> None:
        pass

    async def open(self) -> Scripted:
        return self


def accept(offer: bytes) -> bytes:
    opened = Offer.unpack(offer)
    assert opened is not None
    mine = Offer(opened.nonce, boot=1, fragment=1024, max_message=4096, unit=4096, control=64)
    return encode(Frame(FrameType.ACCEPT, session=SESSION, payload=mine.pack()))


class Littered:
    """A line with garbage before, between and after what a twin and its host say."""

    name = "littered"

    def __init__(self, inner: MemoryTransport, rng: random.Random) -> None:
        self._inner, self._rng = inner, rng

    def _litter(self, data: bytes) -> bytes:
        kinds = (
            lambda: self._rng.randbytes(self._rng.randrange(300)),
            lambda: bytes(self._rng.randrange(50)),
            lambda: b"\xff" * self._rng.randrange(5000) + b"\0",
            lambda: encode(Frame(self._rng.randrange(256), session=self._rng.getrandbits(32), payload=b"lost")),
            lambda: encode(Frame(FrameType.ACK, version=self._rng.randrange(2, 256))),
        )
        return b"".join((self._rng.choice(kinds)(), b"\0", data, self._rng.choice(kinds)(), b"\0"))

    async def read(self) -> bytes:
        return self._litter(await self._inner.read())

    def write(self, data: bytes) -> None:
        self._inner.write(self._litter(data))

    def backlog(self) -> int:
        return self._inner.backlog()

    async def close(self) -> None:
        await self._inner.close()


def test_garbage_at_any_moment(library: Any) -> None:
    """Every frame has garbage around it, both ways, from the first to the last; a second device notices nothing."""

    async def work() -> None:
        bad, good = SmallTwin(library, 1), SmallTwin(library, 2)

        async def opener() -> Any:
            return Littered(await bad.open(), random.Random(5))

        async with await Session.connect(opener, HASH) as session, await Session.connect(good.open, HASH) as other:
            x = np.arange(N).astype(np.int8)
            replies = await asyncio.gather(
                *(session.infer(x) for _ in range(100)), *(other.infer(x) for _ in range(100))
            )
            assert len({reply.outputs[0].tobytes() for reply in replies}) == 1
            assert session.counters.bad > 20 and session.counters.sessions == 1
            assert other.counters.bad == other.counters.resent == 0
            assert (await other.stats()).bad == 0 < (await session.stats()).bad

    run(work)


def test_a_device_of_another_link_version_is_named() -> None:
    async def work() -> None:
        end = encode(Frame(FrameType.END, version=3, payload=bytes([EndReason.VERSION, 2, 3])))
        device = Scripted(lambda frame: [end] if frame.type == FrameType.OPEN else [])
        with pytest.raises(ProtocolError) as caught:
            await Session.connect(device.open, HASH, timeout_s=5)
        assert "device speaks link versions 2 to 3, this host version 1" in one_line(caught.value)

    run(work)


def test_a_device_of_another_message_version_is_named() -> None:
    """HELLO, whose first field after the 16 common bytes is the version of the messages."""

    async def work() -> None:
        hello = bytes(16) + (9).to_bytes(2, "little") + bytes(86)

        def answer(frame: Frame) -> list[bytes]:
            said = Frame(0x10, session=SESSION, length=len(hello), payload=hello)
            return [accept(frame.payload), encode(said)] if frame.type == FrameType.OPEN else []

        with pytest.raises(ProtocolError) as caught:
            await Session.connect(Scripted(answer).open, HASH, timeout_s=5)
        assert "the device speaks message version 9, this host version 1" in one_line(caught.value)

    run(work)


def open_link() -> Link:
    link = Link(random32=lambda: 5)
    link.open(0)
    (opened,) = Decoder(1 << 14).feed(link.output(0))
    link.receive(accept(opened.payload), 1)
    assert link.state is State.OPEN and link.session == SESSION
    return link


def test_oversized_lengths_and_floods_take_bounded_memory() -> None:
    """Messages that claim 4 MB and never end, messages that claim 16 MB, log lines, runs without a zero."""
    link = open_link()
    rng = random.Random(3)
    tracemalloc.start()
    for i in range(20_000):
        kind = rng.randrange(4)
        stream = 2 if kind == 2 else 1
        length = (4 << 20, (1 << 24) - 1, 1, rng.randrange(1 << 24))[kind]
        frame = Frame(
            0x21,
            stream,
            counter=i & 0xFFFF,
            session=SESSION,
            sequence=rng.getrandbits(16) if kind else i & 31,
            message=rng.getrandbits(16) if kind else i & 31,
            offset=0 if kind < 3 else rng.randrange(1 << 24),
            length=length,
            payload=b"x",
        )
        link.receive(encode(frame), 2)
        if i % 100 == 0:
            link.receive(b"\xff" * 50_000, 2)
            link.output(2)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 40 << 20, f"{most:,} bytes"
    assert link.state is State.OPEN


def test_a_peer_that_never_acknowledges_is_not_flooded_and_given_up() -> None:
    """It greets, keeps talking, and acknowledges nothing: within the window, ever more slowly, then one clear line."""
    link = open_link()
    assert link.send(0x2F, 1, bytes(4096))
    for number in range(40):
        assert link.send(0x24, 0, bytes(60)), number
    sent = 0
    for now in range(10, 60_000, 10):
        if now % 500 == 0:
            talk = Frame(FrameType.ACK, counter=now // 500, session=SESSION)
            link.receive(encode(talk), now)
        sent += len(link.output(now))
    frames = link.counters.frames_out
    # 32 frames at most on their way, two probes a time-out of 250 ms and more, acknowledgements and keep-alives
    assert frames < 32 + 2 * 240 + 120 + 60, frames
    assert sent < 200_000 and link.unacknowledged == 41

    async def work() -> None:
        def answer(frame: Frame) -> list[bytes]:
            return [accept(frame.payload)] if frame.type == FrameType.OPEN else []

        with pytest.raises(DeviceTimeout) as caught:
            await Session.connect(Scripted(answer).open, HASH, timeout_s=0.3)
        assert "no greeting within 0.3 s" in one_line(caught.value)

    run(work)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no pseudo-terminals here")
def test_a_serial_port_without_permission_or_in_use(tmp_path: Path) -> None:
    master, slave = os.openpty()
    port = os.ttyname(slave)
    os.fchmod(slave, 0)

    async def work() -> None:
        if os.geteuid() == 0:  # root may open everything
            import serial  # noqa: F401  # before it cannot be read

            os.seteuid(65534)
            try:
                with pytest.raises(LinkError) as caught:
                    await open_serial(port)
            finally:
                os.seteuid(0)
        else:
            with pytest.raises(LinkError) as caught:
                await open_serial(port)
        assert "Permission denied" in one_line(caught.value) and "dialout" in str(caught.value)
        os.fchmod(slave, 0o600)
        first = await open_serial(port)
        with pytest.raises(LinkError) as caught:
            await open_serial(port)
        assert "another program holds it" in one_line(caught.value)
        await first.close()
        with pytest.raises(LinkError) as caught:
            await open_serial(str(tmp_path / "ttyUSB0"))
        assert "ls /dev/tty*" in one_line(caught.value)

    try:
        run(work)
    finally:
        os.close(master)
        os.close(slave)
