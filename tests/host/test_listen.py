# SPDX-License-Identifier: Apache-2.0
"""A port on which devices call: who gets which seat, what is refused, how others find it; with the native board."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from link_twin import HASH, N, SmallTwin, build_twin

from tlc.errors import ConfigError, DeviceReset, LinkError
from tlc_host.session import Session
from tlc_host.transports.listen import MOST_STRANGERS, SERVICE, take_seat


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 60))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return build_twin(tmp_path_factory.mktemp("twin"))


class Caller:
    """A twin that calls a port, as a board on Wi-Fi does."""

    def __init__(self, twin: SmallTwin, port: int) -> None:
        self.twin, self.port = twin, port
        self.calls = 0
        self.writer: asyncio.StreamWriter | None = None

    async def live(self) -> None:
        while True:
            try:
                reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            self.calls += 1
            pipe = await self.twin.open()

            async def up(writer: asyncio.StreamWriter = self.writer, pipe: Any = pipe) -> None:
                while True:
                    writer.write(await pipe.read())

            task = asyncio.create_task(up())
            try:
                while data := await reader.read(4096):
                    pipe.write(data)
            except OSError:
                pass
            finally:
                task.cancel()
                self.writer.close()

    def hang_up(self) -> None:
        assert self.writer is not None
        self.writer.transport.abort()


@asynccontextmanager
async def calling(*callers: Caller) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(caller.live()) for caller in callers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_devices_keep_their_seats(library: Any) -> None:
    """Three devices at one port hang up in turn; each comes back to its own session, which knows nothing of it."""

    async def work() -> None:
        port = free_port()
        callers = [Caller(SmallTwin(library, boot), port) for boot in (1, 2, 3)]
        async with calling(*callers):
            sessions = [await Session.connect(f"listen://127.0.0.1:{port}", HASH) for _ in callers]
            boots = [session.hello.boot for session in sessions]
            assert len(set(boots)) == 3
            for number in range(6):
                before = [caller.calls for caller in callers]
                callers[number % 3].hang_up()
                x = np.full(N, number, np.int8)
                replies = await asyncio.gather(*(session.infer(x) for session in sessions))
                assert len({reply.outputs[0].tobytes() for reply in replies}) == 1
                assert sum(caller.calls for caller in callers) <= sum(before) + 1
            assert [session.hello.boot for session in sessions] == boots
            assert [session.counters.sessions for session in sessions] == [1, 1, 1]
            for session in sessions:
                await session.close()
        with pytest.raises(ConnectionRefusedError):  # with the last seat the port is closed
            await asyncio.open_connection("127.0.0.1", port)

    run(work)


def test_a_device_that_was_reset_takes_the_seat_that_is_free(library: Any) -> None:
    async def work() -> None:
        port = free_port()
        caller = Caller(SmallTwin(library, 1), port)
        async with calling(caller):
            async with await Session.connect(f"listen://127.0.0.1:{port}", HASH) as session:
                caller.twin.reset(2)
                caller.hang_up()
                with pytest.raises(DeviceReset):
                    while True:
                        await session.infer(np.zeros(N, np.int8))
                assert (await session.greet()).boot != 0
                await session.infer(np.zeros(N, np.int8))

    run(work)


def test_strangers_are_hung_up_on(
    library: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Garbage, floods, silence, too many at once, one device too many: the device that is there notices nothing."""
    monkeypatch.setattr("tlc_host.transports.listen.FIRST_FRAME_S", 0.2)

    async def stranger(port: int, data: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for _ in range(20):
                writer.write(data)
                await writer.drain()
            await reader.read()
        except OSError:
            pass
        finally:
            writer.close()

    async def work() -> None:
        port = free_port()
        caller, extra = Caller(SmallTwin(library, 1), port), Caller(SmallTwin(library, 2), port)
        async with calling(caller):
            async with await Session.connect(f"listen://127.0.0.1:{port}", HASH) as session:
                said = [b"", b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 40, bytes(10000), b"\xff" * 10000]
                crowd = [stranger(port, said[i % len(said)]) for i in range(2 * MOST_STRANGERS)]
                async with calling(extra):
                    (_, *replies) = await asyncio.gather(
                        asyncio.gather(*crowd), *(session.infer(np.zeros(N, np.int8)) for _ in range(50))
                    )
                    while extra.calls < 2:
                        await session.stats()
                assert len(replies) == 50
                assert session.counters.sessions == 1 and session.counters.bad == 0
        assert "says nothing that is a frame: hung up" in caplog.text
        assert "every device of this port is connected already: hung up" in caplog.text

    run(work)


def test_names_and_ports_that_cannot_be() -> None:
    async def work() -> None:
        for name in ("listen://127.0.0.1:99999", "listen://a b:c", "listen://x:1?mdns=perhaps"):
            with pytest.raises(ConfigError, match="listen://HOST:PORT"):
                await take_seat(name)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(LinkError, match=r"the port is already in use.*choose another port"):
                await Session.connect(f"listen://127.0.0.1:{port}", HASH)
        seat = await take_seat("listen://:0")
        assert seat._listener.name.startswith("listen://127.0.0.1:"), "nobody outside, unless told otherwise"
        await seat.close()

    run(work)


def test_a_public_bind_warns_every_time(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        for _ in range(2):
            seat = await take_seat("listen://0.0.0.0:0?mdns=no")
            await seat.close()
        for host in ("127.0.0.1", "localhost", "[::1]"):
            try:
                seat = await take_seat(f"listen://{host}:0")
            except LinkError:  # no IPv6 here
                continue
            await seat.close()

    with caplog.at_level(logging.WARNING, "tlc.link"):
        run(work)
    assert caplog.text.count("the link is not encrypted") == 2


def test_mdns_announces_the_port() -> None:
    zeroconf = pytest.importorskip("zeroconf")

    async def work() -> None:
        from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

        seat = await take_seat("listen://127.0.0.1:0?mdns=yes")
        found: asyncio.Queue[str] = asyncio.Queue()

        def changed(zeroconf: Any, service_type: str, name: str, state_change: Any) -> None:
            found.put_nowait(name)

        async with AsyncZeroconf(interfaces=["127.0.0.1"], ip_version=zeroconf.IPVersion.V4Only) as looking:
            browser = AsyncServiceBrowser(looking.zeroconf, SERVICE, handlers=[changed])
            port = seat._listener.port
            try:
                while True:
                    name = await asyncio.wait_for(found.get(), 20)
                    if name.startswith(f"tlc {port} on "):
                        break
                info = AsyncServiceInfo(SERVICE, name)
                assert await info.async_request(looking.zeroconf, 3000)
                assert info.port == port and info.parsed_addresses() == ["127.0.0.1"]
            finally:
                await browser.async_cancel()
        await seat.close()

    run(work)


@pytest.mark.hil
def test_the_native_board_calls_and_calls_again(project: Path) -> None:
    """The firmware as a TCP client: before the host listens, and after it hung up."""
    from tlc import bundle as bundles
    from tlc.hostbuild import build_native

    program, bundle = build_native(project), bundles.load(project)
    port = free_port()
    process = subprocess.Popen(
        [program, "--connect", str(port), "--seed", "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    async def work() -> None:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == f"calling 127.0.0.1:{port}\n"
        x = np.zeros(bundle.inputs[0].shape[1:], np.int8)
        boots = set()
        for _ in range(2):  # a host that is started again is another session of the same device
            async with await Session.connect(f"listen://127.0.0.1:{port}", bytes.fromhex(bundle.hash)) as session:
                first = (await session.infer(x)).outputs[0]
                number = session._wire.link.session
                assert session._wire.transport is not None
                await session._wire.transport.close()  # the host's Wi-Fi goes; the device calls again
                assert np.array_equal((await session.infer(x)).outputs[0], first)
                assert session._wire.link.session == number, "the session is the same"
                boots.add(session.hello.boot)
        assert len(boots) == 1

    try:
        run(work)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 0
        assert process.stdout is not None
        process.stdout.close()
