# SPDX-License-Identifier: Apache-2.0
"""The session against a twin: every call, and everything that goes wrong between them."""

from __future__ import annotations

import asyncio
import ctypes
import random
import struct
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from link_twin import HASH, Forgetful, N, Noisy, SmallTwin, build_twin

from tlc.errors import (
    BundleMismatch,
    ConfigError,
    DeviceError,
    DeviceReset,
    DeviceTimeout,
    LinkError,
    ProtocolError,
)
from tlc_host import messages as m
from tlc_host.link import Flag, Link, Stream
from tlc_host.link.frame import parse
from tlc_host.session import Session, SmashedReply
from tlc_host.session.wire import now_ms
from tlc_host.transports import open_transport


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return build_twin(tmp_path_factory.mktemp("twin"))


@pytest.fixture
def twin(library: ctypes.CDLL) -> SmallTwin:
    return SmallTwin(library)


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 60))


def reference(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    return np.clip(x.astype(int) + w, -128, 127).astype(np.int8)


W0 = (np.arange(N) % 7).astype(np.int8)


def test_every_call(twin: SmallTwin) -> None:
    async def work() -> None:
        async with await Session.connect(twin.open, HASH) as session:
            assert session.hello.board == b"twin"
            assert session.hello.capabilities & m.Capability.TRAIN
            x = np.arange(-50, 50).astype(np.int8)
            reply = await session.forward(x, batch=5)
            assert np.array_equal(reply.outputs[0], reference(x, W0))
            assert reply.batch == 5
            done = await session.backward(reply, np.full(N, 0.5, np.float32))
            assert done.samples == 1
            again = await session.backward(reply, np.full(N, 0.5, np.float32))
            assert again.flags & m.DoneFlag.REPEATED and again.samples == 1
            reply = await session.forward(x, batch=6)
            q = (np.arange(N) - 50).astype(np.int8)
            await session.backward(reply, q, scale=0.01)
            done = await session.step(1, 0.25, 3)
            gradient = (0.5 * x + q.astype(np.float32) * 0.01 * x) / 2
            w = W0 - np.float32(0.25) * gradient
            expected = np.trunc(np.clip(w, -100, 100) + np.where(w < 0, -0.5, 0.5)).astype(np.int8)
            params = np.frombuffer(await session.get_params(), np.int8)
            assert np.array_equal(params, expected)
            assert (await session.step(1, 0.25, 3)).flags & m.DoneFlag.REPEATED
            assert np.array_equal(np.frombuffer(await session.get_params(), np.int8), expected)
            new = np.arange(N).astype(np.int8)
            await session.set_params(new.tobytes(), step=1)
            assert np.array_equal((await session.infer(x)).outputs[0], reference(x, new))
            stats = await session.stats()
            assert (stats.forwards, stats.backwards, stats.last_step, stats.samples) == (3, 2, 1, 0)
            assert stats.bad == 0 and stats.sessions == 1
            await session.reset_state()
            assert await session.get_params() == W0.tobytes()
            with pytest.raises(DeviceError, match="no gradient is accumulated"):
                await session.step(2, 0.1)

    run(work)


def test_many_calls_at_once(twin: SmallTwin) -> None:
    async def work() -> None:
        rng = np.random.default_rng(1)
        async with await Session.connect(twin.open, HASH) as session:
            xs = rng.integers(-128, 128, (300, N)).astype(np.int8)
            replies = await asyncio.gather(*(session.infer(x) for x in xs))
            for x, reply in zip(xs, replies, strict=True):
                assert np.array_equal(reply.outputs[0], reference(x, W0))
            stats = await session.stats()
            assert stats.refused == 0  # credit kept the host from sending what has no room

    run(work)


def test_gradient_of_another_pass_is_refused(twin: SmallTwin) -> None:
    async def work() -> None:
        async with await Session.connect(twin.open, HASH) as session:
            x = np.zeros(N, np.int8)
            g = np.ones(N, np.float32)
            first = await session.forward(x, batch=1)
            second = await session.forward(x, batch=2)
            with pytest.raises(DeviceError, match="does not hold") as caught:
                await session.backward(first, g)
            assert caught.value.status == m.Status.STATE
            with pytest.raises(DeviceError, match="does not hold"):
                await session.backward(second, g, batch=7)
            with pytest.raises(DeviceError, match="not finite"):
                await session.backward(second, np.full(N, np.nan, np.float32))
            with pytest.raises(DeviceError, match="no gradient of this size"):
                await session.backward(second, np.ones(N - 1, np.float32))
            assert (await session.backward(second, g)).samples == 1
            with pytest.raises(DeviceError, match="not a finite number"):
                await session.step(1, float("nan"))
            with pytest.raises(DeviceError, match="count from 1"):
                await session.step(0, 0.1)
            with pytest.raises(DeviceError, match="of this index and size"):
                await session.forward(np.zeros(N + 1, np.int8))
            with pytest.raises(ProtocolError, match="int8"):
                await session.forward(np.zeros(N, np.float32))  # type: ignore[arg-type]
            with pytest.raises(ProtocolError, match=r"1 to \d+ bytes"):
                await session.forward(np.zeros(100_000, np.int8))
            with pytest.raises(ProtocolError, match="have 100 bytes, not 3"):
                await session.set_params(b"abc")
            with pytest.raises(DeviceError, match="without a profile"):
                await session.layers()

    run(work)


def test_wrong_bundle_names_both_hashes(twin: SmallTwin) -> None:
    async def work() -> None:
        with pytest.raises(BundleMismatch) as caught:
            await Session.connect(twin.open, bytes(32))
        assert HASH.hex() in str(caught.value) and bytes(32).hex() in str(caught.value)

    run(work)


def test_dead_device_gives_one_line(twin: SmallTwin) -> None:
    async def work() -> None:
        session = await Session.connect(twin.open, HASH, timeout_s=0.2)
        twin.dead = True
        with pytest.raises(DeviceTimeout, match=r"no answer to FORWARD within 0\.2 s; is the device running"):
            await session.forward(np.zeros(N, np.int8))
        await session.close()
        with pytest.raises(DeviceTimeout, match=r"no greeting within 0\.2 s"):
            await Session.connect(twin.open, HASH, timeout_s=0.2)
        with pytest.raises(LinkError, match="cannot connect"):
            await Session.connect("tcp://127.0.0.1:1", HASH)
        with pytest.raises(ConfigError, match="no such device"):
            await open_transport("twni")
        with pytest.raises(ConfigError, match="tcp://HOST:PORT"):
            await open_transport("tcp://127.0.0.1:99999")
        with pytest.raises(LinkError, match="cannot open the serial port"):
            await open_transport("/dev/ttyNONE0")

    run(work)


def test_device_reset_asks_for_a_new_greeting(twin: SmallTwin) -> None:
    async def work() -> None:
        async with await Session.connect(twin.open, HASH) as session:
            x = np.zeros(N, np.int8)
            reply = await session.forward(x)
            await session.backward(reply, np.ones(N, np.float32))
            twin.reset(boot=1)  # even when the board has no entropy
            with pytest.raises(DeviceReset, match="greet it again"):
                await session.step(1, 0.1)
            with pytest.raises(DeviceReset):
                await session.forward(x)
            hello = await session.greet()
            assert hello.last_step == 0 and hello.samples == 0
            assert np.array_equal((await session.forward(x)).outputs[0], W0)

    run(work)


def test_what_a_device_takes_is_known_between_sessions(twin: SmallTwin) -> None:
    async def work() -> None:
        line = Forgetful(await twin.open())

        async def opener() -> Any:
            return line

        async with await Session.connect(opener, HASH) as session:
            line.held.clear()
            line.forget()
            while session._wire.link.session:
                await asyncio.sleep(0)
            writes = asyncio.create_task(session.set_params(W0.tobytes(), step=3))
            await asyncio.sleep(0)
            line.held.set()
            await writes
            assert [frame.type for frame in line.told].count(m.SetParams.TYPE) == 1

    run(work)


def test_second_host_takes_over_and_the_first_is_told(twin: SmallTwin) -> None:
    async def work() -> None:
        pipe = await twin.open()

        class Shared:
            """A line on which two hosts hear the same bytes."""

            name = "shared"

            def __init__(self) -> None:
                self.queue: asyncio.Queue[bytes] = asyncio.Queue()

            async def read(self) -> bytes:
                return await self.queue.get()

            def write(self, data: bytes) -> None:
                pipe.write(data)

            def backlog(self) -> int:
                return pipe.backlog()

            async def close(self) -> None:
                pass

        lines = [Shared(), Shared()]

        async def pump() -> None:
            while True:
                data = await pipe.read()
                for line in lines:
                    line.queue.put_nowait(data)

        task = asyncio.create_task(pump())

        async def opener(i: int) -> Any:
            return lines[i]

        first = await Session.connect(lambda: opener(0), HASH)
        second = await Session.connect(lambda: opener(1), HASH)
        with pytest.raises(LinkError, match="another host took this device over"):
            await first.infer(np.zeros(N, np.int8))
        await second.infer(np.zeros(N, np.int8))
        await first.close()
        await second.close()
        task.cancel()

    run(work)


def test_own_samples_are_answered(twin: SmallTwin) -> None:
    async def work() -> None:
        seen: list[SmashedReply] = []

        async def answer(reply: SmashedReply) -> np.ndarray:
            seen.append(reply)
            return reply.outputs[0][:10].astype(np.float32) / 2

        async with await Session.connect(twin.open, HASH, on_sample=answer):
            values = np.linspace(-10, 10, N, dtype=np.float32)
            twin.c.tlc_twin_sample(twin.at, values.ctypes.data_as(ctypes.c_void_p))
            out = np.zeros(64, np.float32)
            for _ in range(500):
                count = twin.c.tlc_twin_result(twin.at, out.ctypes.data_as(ctypes.c_void_p), 64)
                if count >= 0:
                    break
                await asyncio.sleep(0.002)
            quantized = np.clip(np.trunc(values / 0.5 + np.copysign(0.5, values)) + 3, -128, 127)
            expected = reference(quantized, W0)
            assert np.array_equal(seen[0].outputs[0], expected)
            assert count == 10 and np.array_equal(out[:10], expected[:10].astype(np.float32) / 2)

    run(work)


async def train(session: Session, steps: int, rng: np.random.Generator) -> bytes:
    """Two samples a step; asks again after every error that allows it."""
    for number in range(1, steps + 1):
        for batch in range(2):
            x = rng.integers(-20, 20, N).astype(np.int8)
            reply = await session.forward(x, step=number, batch=batch)
            g = (reply.outputs[0].astype(np.float32) - 5) * np.float32(0.01)
            await session.backward(reply, g)
        assert (await session.step(number, 0.3)).flags == 0
    return await session.get_params()


@pytest.mark.parametrize(("loss", "breaks"), [(0.1, 0.0), (0.0, 0.02), (0.05, 0.01)])
def test_training_over_a_bad_line_is_the_same_training(library: ctypes.CDLL, loss: float, breaks: float) -> None:
    async def work() -> None:
        quiet = SmallTwin(library)
        async with await Session.connect(quiet.open, HASH) as session:
            expected = await train(session, 10, np.random.default_rng(5))
        assert expected != W0.tobytes()
        noisy = SmallTwin(library)
        rng = random.Random(9)

        async def opener() -> Any:
            return Noisy(await noisy.open(), rng, loss=loss, breaks=breaks)

        async with await Session.connect(opener, HASH, timeout_s=20) as session:
            got = await train(session, 10, np.random.default_rng(5))
            counters = session.counters
        assert got == expected
        if loss:
            assert counters.resent > 0

    run(work)


def test_session_resumes_in_the_middle_of_a_request(library: ctypes.CDLL) -> None:
    """The device forgets the session at any moment, not its state: what waits is asked again and done once."""

    async def work() -> None:
        quiet = SmallTwin(library)
        async with await Session.connect(quiet.open, HASH) as session:
            expected = await train(session, 12, np.random.default_rng(5))
        twin = SmallTwin(library)
        rng = random.Random(3)
        async with await Session.connect(twin.open, HASH) as session:

            async def disturb() -> None:
                while True:
                    await asyncio.sleep(rng.uniform(0.001, 0.006))
                    session._wire.link.open(now_ms())
                    session._asking.interrupt()
                    session._wire.flush()

            task = asyncio.create_task(disturb())
            got = await train_tolerant(session, 12, np.random.default_rng(5))
            task.cancel()
            assert session.counters.sessions > 3
            assert got == expected

    run(work)


def test_a_welcome_that_was_lost_is_no_reset(library: ctypes.CDLL) -> None:
    """The session ends between HELLO and WELCOME: the device still has the token of the welcome before."""

    async def work() -> None:
        twin = SmallTwin(library)
        async with await Session.connect(twin.open, HASH) as session:
            reply = await session.forward(np.ones(N, np.int8), step=1)
            real, lost = session._greeting.take, 0

            def take(message: m.Message) -> bool:
                nonlocal lost
                taken = real(message)
                if isinstance(message, m.Hello) and lost < 3:
                    lost += 1
                    session._wire.link.open(now_ms())  # before anything of this turn is said
                return taken

            session._greeting.take = take  # type: ignore[method-assign]
            session._wire.link.open(now_ms())
            session._asking.interrupt()
            session._wire.flush()
            done = await session.backward(reply, np.full(N, 0.01, np.float32))
            assert done.samples == 1 and lost == 3

    run(work)


async def train_tolerant(session: Session, steps: int, rng: np.random.Generator) -> bytes:
    for number in range(1, steps + 1):
        for batch in range(2):
            x = rng.integers(-20, 20, N).astype(np.int8)
            reply = await session.forward(x, step=number, batch=batch)
            g = (reply.outputs[0].astype(np.float32) - 5) * np.float32(0.01)
            done = await session.backward(reply, g)
            assert done.samples == batch + 1
        await session.step(number, 0.3)
    return await session.get_params()


def test_a_thousand_twins(library: ctypes.CDLL) -> None:
    twins = [SmallTwin(library, boot=i) for i in range(1000)]
    x = np.arange(N).astype(np.int8)
    out = np.zeros(N, np.int8)
    for twin in twins:
        assert (
            twin.c.tlc_twin_forward(twin.at, x.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p))
            == 0
        )
        assert np.array_equal(out, reference(x, W0))


def test_messages_without_a_welcome_are_refused(twin: SmallTwin) -> None:
    link = Link()
    link.open(0)
    replies: list[m.Message] = []
    sent = False
    for now in range(1, 400):
        data = link.output(now)
        while data:
            data = data[twin.receive(data) :]
        twin.poll(now)
        link.receive(twin.send(65536), now)
        if link.session and not sent:
            sent = link.send(m.GetStats.TYPE, Stream.CONTROL, m.GetStats(request=4).pack())
            link.send(0x77, Stream.CONTROL, struct.pack("<4I", 5, 0, 0, 0))
            link.send(0x78, Stream.BULK, b"short")
        replies += [m.parse(r.type, r.payload) for r in link.messages]
        link.messages.clear()
    assert isinstance(replies[0], m.Hello)
    errors = [r for r in replies if isinstance(r, m.Error)]
    assert [(e.request, e.status) for e in errors] == [(4, m.Status.STATE), (5, m.Status.STATE)]
    assert b"not welcomed" in errors[0].text


def test_half_a_set_of_parameters_is_never_used(twin: SmallTwin) -> None:
    """A host that ends between two pieces leaves no mixture of old and new to compute with."""

    async def work() -> None:
        async with await Session.connect(twin.open, HASH) as session:
            new = np.arange(N).astype(np.int8)
            x = np.zeros(N, np.int8)

            async def piece(offset: int, end: int) -> m.Done:
                data = new.tobytes()[offset:end]
                return await session._asking.done(
                    m.SetParams(request=session._asking.number(), offset=offset, total=N, data=data)
                )

            with pytest.raises(DeviceError, match="piece of the learned tensors before this one is missing"):
                await piece(0, 30)
                await piece(60, N)
            for call in (session.infer(x), session.get_params(), session.step(1, 0.1)):
                with pytest.raises(DeviceError, match="half written: send the other pieces, or RESET_STATE") as caught:
                    await call
                assert caught.value.status == m.Status.STATE
            twin.c.tlc_twin_sample(twin.at, np.zeros(N, np.float32).ctypes.data_as(ctypes.c_void_p))
            await session.reset_state()
            assert await session.get_params() == W0.tobytes()
            await piece(0, 30)
            await piece(30, 60)
            await piece(30, 60)  # a piece that was asked again
            await piece(60, N)
            await piece(60, N)  # ... and the last one, when the set is whole
            assert np.array_equal((await session.infer(x)).outputs[0], new)
            await piece(0, 30)  # a set begun anew
            await session.set_params(W0.tobytes())
            assert np.array_equal((await session.infer(x)).outputs[0], W0)

    run(work)


def test_a_long_computation_is_waited_for(library: ctypes.CDLL) -> None:
    """The device says that it is busy and then nothing for longer than the time-out: the answer is still taken."""

    async def work() -> None:
        twin = SmallTwin(library)

        class Slow:
            """Holds back what comes after the word that the device is busy."""

            name = "slow"

            def __init__(self, inner: Any) -> None:
                self._inner = inner
                self.write, self.backlog, self.close = inner.write, inner.backlog, inner.close
                self._rest = b""

            async def read(self) -> bytes:
                if self._rest:
                    await asyncio.sleep(0.35)
                data, self._rest = self._rest or await self._inner.read(), b""
                for wire in data.split(b"\0")[:-1]:
                    frame = parse(wire)
                    if frame and frame.flags & Flag.BUSY and len(data) > len(wire) + 1:
                        at = data.index(wire) + len(wire) + 1
                        data, self._rest = data[:at], data[at:]
                        break
                return data

        async def opener() -> Any:
            return Slow(await twin.open())

        async with await Session.connect(opener, HASH, timeout_s=1.0) as session:
            session._asking.timeout = 0.1
            begin = asyncio.get_running_loop().time()
            assert np.array_equal((await session.infer(np.zeros(N, np.int8))).outputs[0], W0)
            assert asyncio.get_running_loop().time() - begin > 0.3
            twin.dead = True  # not busy: the time-out is the time-out
            with pytest.raises(DeviceTimeout, match=r"no answer to FORWARD within 0\.1 s"):
                await session.infer(np.zeros(N, np.int8))

    run(work)


def test_the_line_can_be_tested(twin: SmallTwin) -> None:
    async def work() -> None:
        async with await Session.connect(twin.open, HASH) as session:
            x = np.arange(N).astype(np.int8)
            reply = await session.forward(x)
            before = session.counters.bytes_in, session.counters.bytes_out
            await asyncio.gather(*(session.test(2000, 600) for _ in range(20)))
            assert session.counters.bytes_in - before[0] > 20 * 600
            assert session.counters.bytes_out - before[1] > 20 * 2000
            before = session.counters.frames_in
            for _ in range(10):
                await session.test(100, 100)
            assert session.counters.frames_in - before <= 12  # the answer is the acknowledgement
            with pytest.raises(DeviceError, match="more than the arena has"):
                await session.test(10, 1 << 20)
            await session.backward(reply, np.ones(N, np.float32))  # the forward pass is still there

    run(work)
