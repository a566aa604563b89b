# SPDX-License-Identifier: Apache-2.0
"""The Arduino port, compiled against a shim of an Arduino core and run here: a serial line, TCP, and what goes wrong."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import socket
import struct
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import arduino_host
import jinja2
import numpy as np
import pytest

from tlc import boards, toolchain
from tlc.fault import find_fault, parse_dump
from tlc_host.link import Link, Message, State, Stream
from tlc_host.messages import ResetReason as Reset

SHIM = arduino_host.SHIM
PORT = arduino_host.FIRMWARE / "ports" / "arduino"
TEMPLATES = arduino_host.ROOT / "compiler" / "tlc" / "codegen" / "templates"
ELEMENTS = 1000
DEADLINE_S = 20.0
HELLO, WELCOME, FORWARD, SMASHED, DONE = 0x10, 0x11, 0x20, 0x21, 0x2C
RUN = 1


# ---- programs ----


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("arduino")


def project(out: Path, board_id: str, transport: str, *, arena_bytes: int = 2048) -> Path:
    """The plus-one project with the files that templates make for a board."""
    board = boards.load(board_id)
    directory = out / f"{board_id}-{transport}-{arena_bytes}"
    if directory.exists():
        return directory
    shutil.copytree(SHIM / "plus_one", directory)
    loader = jinja2.FileSystemLoader(TEMPLATES)
    env = jinja2.Environment(
        loader=loader,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    values = 4 * ELEMENTS if arena_bytes < 4 * ELEMENTS else 0
    promise = SimpleNamespace(
        arena_bytes=arena_bytes, state_bytes=0, values_bytes=values, link_bytes=2000, packed_bytes=0, table_bytes=0
    )
    context = {
        "board": board,
        "transport": transport,
        "bundle": SimpleNamespace(split=False, certificate=promise),
        "model_name": "plus_one",
        "model_file": "none",
        "model_hash": "0" * 64,
        "tlc_version": "0",
        "cut": "none",
        "pack": "none",
        "train": "none",
        "seed": 0,
        "journal_slot": 0,
        "partition_bytes": 0,
        "program_flash_bytes": 0,
    }
    for name, template in {
        "src/main.cpp": "arduino_main.cpp.jinja",
        "include/tlc_config.h": "tlc_config.h.jinja",
        "platformio.ini": "platformio_arduino.ini.jinja",
    }.items():
        (directory / name).write_text(env.get_template(template).render(context))
    return directory


def secrets(out: Path, port: int, *, host: str = "127.0.0.1", password: str = "sesame") -> Path:
    """A directory with a ``tlc_secrets.h``, made from the template by filling it in."""
    directory = out / f"secrets-{port}"
    directory.mkdir(exist_ok=True)
    text = (TEMPLATES / "tlc_secrets.example.h.jinja").read_text()
    for name, value in {
        "TLC_WIFI_SSID": '"lab"',
        "TLC_WIFI_PASSWORD": f'"{password}"',
        "TLC_HOST": f'"{host}"',
    }.items():
        text = re.sub(rf'#define {name} ""', f"#define {name} {value}", text)
    text = re.sub(r"#define TLC_HOST_PORT \d+", f"#define TLC_HOST_PORT {port}", text)
    (directory / "tlc_secrets.h").write_text(text)
    return directory


def probe(out: Path, *flags: str) -> Path:
    """The port without the device: echoes, waits, counts."""
    wifi = "-DPROBE_WIFI" in flags
    sources = [path for path in sorted(PORT.glob("*.cpp")) if path.stem not in ("tlc_arduino_app", "tlc_arduino_wifi")]
    sources += [PORT / "tlc_arduino_wifi.cpp"] if wifi else []
    include = [f"-I{PORT}", f"-I{arduino_host.FIRMWARE / 'include'}"]
    return arduino_host.compile_program([*sources, SHIM / "programs" / "probe.cpp"], flags=[*flags, *include], out=out)


# ---- running one ----


class Board:
    """A running program, its settings and its log."""

    def __init__(self, directory: Path, process: subprocess.Popen[bytes]) -> None:
        self.directory = directory
        self.process = process

    def events(self, name: str) -> list[tuple[int, str]]:
        """(the board's ms, detail) of each event of that name."""
        path = self.directory / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        entries = [json.loads(line) for line in lines if line.endswith("}")]
        return [(entry["ms"], entry["detail"]) for entry in entries if entry["event"] == name]

    def until(self, ready: Callable[[], Any], what: str) -> Any:
        """Waits for something to be true."""
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            value = ready()
            if value:
                return value
            assert self.process.poll() is None, f"the program ended while waiting for {what}"
            select.select([], [], [], 0.002)
        raise AssertionError(f"no {what} in {DEADLINE_S} s")

    def console(self) -> str:
        """What it printed on Serial, where that is stdout."""
        return (self.directory / "console").read_text(errors="replace")

    @property
    def line(self) -> Path:
        return self.directory / "tty"


@contextmanager
def running(program: Path, directory: Path, *, serial: bool = False, **settings: str | int) -> Iterator[Board]:
    directory.mkdir(parents=True, exist_ok=True)
    values = {f"TLC_SHIM_{name.upper()}": str(value) for name, value in settings.items()}
    values["TLC_SHIM_LOG"] = str(directory / "log")
    if serial:
        values["TLC_SHIM_SERIAL"] = str(directory / "tty")
    with (directory / "console").open("wb") as console:
        process = subprocess.Popen([program], env={**os.environ, **values}, stdout=console, stdin=subprocess.DEVNULL)
    try:
        yield Board(directory, process)
    finally:
        process.kill()
        process.wait()


class Wire:
    """The host's end: bytes to and from a file descriptor, and the link over it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.link = Link(dead_ms=20000)
        self.seen: list[Message] = []

    def now(self) -> float:
        return time.monotonic() * 1000.0

    def greet(self) -> Message:
        """Opens a session and welcomes the device; returns its HELLO."""
        self.link.open(self.now())
        self.run(lambda: self.link.state is State.OPEN)
        hello = self.take(HELLO)
        assert self.link.send(WELCOME, Stream.CONTROL, struct.pack("<IIIII", 0, 0, 0, 0, 7) + hello.payload[56:88])
        assert self.take(DONE).payload[16] == WELCOME
        return hello

    def forward(
        self, values: np.ndarray[Any, np.dtype[np.int8]], request: int = 1
    ) -> np.ndarray[Any, np.dtype[np.int8]]:
        head = struct.pack("<IIIIBBH", request, 0, 0, 1, 0, RUN, 0)
        assert self.link.send(FORWARD, Stream.BULK, head + values.tobytes())
        answer = self.take(SMASHED)
        assert struct.unpack_from("<I", answer.payload)[0] == request
        return np.frombuffer(answer.payload, np.int8)[28:]

    def take(self, kind: int) -> Message:
        """The next message of that type."""
        found: list[Message] = []

        def look() -> bool:
            while self.link.messages:
                self.seen.append(self.link.messages.popleft())
            found[:] = [message for message in self.seen if message.type == kind]
            return bool(found)

        self.run(look)
        self.seen.remove(found[0])
        return found[0]

    def run(self, done: Callable[[], bool]) -> None:
        end = time.monotonic() + DEADLINE_S
        pending = b""
        while not done():
            assert time.monotonic() < end, f"no answer in {DEADLINE_S} s: {self.link.state}, {self.link.counters}"
            pending = pending or self.link.output(self.now(), 4096)
            readable, writable, _ = select.select([self.fd], [self.fd] if pending else [], [], 0.005)
            if writable:
                pending = pending[os.write(self.fd, pending) :]
            if readable:
                data = os.read(self.fd, 4096)
                assert data, "the device closed the connection"
                self.link.receive(data, self.now())


@contextmanager
def serial_wire(board: Board) -> Iterator[Wire]:
    board.until(board.line.exists, "serial line")
    fd = os.open(board.line, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    tty.setraw(fd)
    try:
        yield Wire(fd)
    finally:
        os.close(fd)


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE_S)
        yield listener


@contextmanager
def tcp_wire(listener: socket.socket) -> Iterator[Wire]:
    connection, _ = listener.accept()
    connection.setblocking(False)
    with connection:
        yield Wire(connection.fileno())


def sample(seed: int) -> np.ndarray[Any, np.dtype[np.int8]]:
    return np.random.default_rng(seed).integers(-128, 128, ELEMENTS).astype(np.int8)


def plus_one(x: np.ndarray[Any, np.dtype[np.int8]]) -> np.ndarray[Any, np.dtype[np.int8]]:
    y: np.ndarray[Any, np.dtype[np.int8]] = np.minimum(x.astype(np.int16) + 1, 127).astype(np.int8)
    return y


# ---- the serial line ----


@pytest.mark.parametrize(
    ("board_id", "setting", "reason"),
    [
        ("esp32", 6, Reset.WATCHDOG),
        ("esp32-c3", 4, Reset.FAULT),
        ("esp32-s3", 3, Reset.SOFTWARE),
        ("esp32-s3-psram", 9, Reset.BROWNOUT),
        ("esp8266", 3, Reset.WATCHDOG),
        ("nano33ble", 0b0101, Reset.SOFTWARE),  # and the pin, some time before
        ("nucleo-f446re", 0, Reset.POWER),
        ("pico", 1 << 16, Reset.PIN),
        ("stm32f746-disco", 0, Reset.POWER),
    ],
)
def test_serial_line_serves_one_host_after_another(
    out: Path, tmp_path: Path, board_id: str, setting: int, reason: Reset
) -> None:
    program = arduino_host.build(project(out, board_id, "uart"), out=out)
    with running(program, tmp_path, serial=True, reset=setting) as board:
        for host in range(2):
            with serial_wire(board) as wire:
                hello = wire.greet()
                assert hello.payload[96:] == board_id.encode()
                assert hello.payload[18] == reason
                assert hello.payload[56:60] == bytes([1, 2, 3, 4])
                for request in range(1, 4):
                    x = sample(host * 10 + request)
                    np.testing.assert_array_equal(wire.forward(x, request), plus_one(x))
        held = {"nano33ble": 256, "pico": 256, "nucleo-f446re": 4095, "stm32f746-disco": 4095}.get(board_id, 4096)
        assert board.events("serial")[0][1] == f"{boards.load(board_id).link.uart_baud} baud, {held} bytes"
        assert not board.events("rx_lost")


def test_serial_overflow_loses_bytes_and_the_link_recovers(out: Path, tmp_path: Path) -> None:
    """A sensor that takes 60 ms: at 921,600 baud more arrives meanwhile than the driver's 4,096 bytes."""
    program = arduino_host.build(project(out, "esp32", "uart"), out=out, flags=["-DSAMPLE_MS=60"])
    with running(program, tmp_path, serial=True) as board, serial_wire(board) as wire:
        wire.greet()
        noise = np.random.default_rng(0).integers(0, 256, 40_000).astype(np.uint8).tobytes()
        while noise:
            select.select([], [wire.fd], [], DEADLINE_S)
            noise = noise[os.write(wire.fd, noise) :]
        board.until(lambda: board.events("rx_lost"), "lost bytes")
        x = sample(1)
        np.testing.assert_array_equal(wire.forward(x), plus_one(x))


@pytest.mark.parametrize("core", ["espressif32", "nordicnrf52"])
def test_serial_read_and_write_never_wait(out: Path, tmp_path: Path, core: str) -> None:
    """20,000 bytes through a 256-byte buffer and a 128-byte FIFO, or USB's packets, in order."""
    program = probe(out, *arduino_host.CORES[core], "-DPROBE_BAUD=921600", "-DPROBE_RX_BUFFER=256")
    data = np.random.default_rng(1).integers(0, 256, 20_000).astype(np.uint8).tobytes()
    with running(program, tmp_path, serial=True) as board, serial_wire(board) as wire:
        back, left = b"", b"e" + struct.pack("<I", len(data)) + data
        end = time.monotonic() + DEADLINE_S
        while len(back) < len(data):
            assert time.monotonic() < end and not board.events("rx_lost"), f"{len(back)} of {len(data)} came back"
            # No more on its way than the buffer holds: this test is about order, not about loss.
            may = len(left) and len(data) - len(left) - len(back) < 200
            readable, writable, _ = select.select([wire.fd], [wire.fd] if may else [], [], 0.02)
            if writable:
                left = left[os.write(wire.fd, left[:100]) :]
            if readable:
                back += os.read(wire.fd, 4096)
    assert back == data


def test_usb_hands_on_what_fills_a_packet(out: Path, tmp_path: Path) -> None:
    """64 bytes, echoed: a host's driver would wait for more after a packet of as many."""
    program = probe(out, *arduino_host.CORES["nordicnrf52"], "-DPROBE_BAUD=921600", "-DPROBE_RX_BUFFER=256")
    data = bytes(range(64))
    with running(program, tmp_path, serial=True) as board, serial_wire(board) as wire:
        os.write(wire.fd, b"e" + struct.pack("<I", len(data)))
        select.select([], [], [], 0.1)  # the command alone, so that the bytes come, and go, as one
        os.write(wire.fd, data)
        back = b""
        while len(back) < len(data):
            assert select.select([wire.fd], [], [], 5)[0], f"{len(back)} of {len(data)} came back"
            back += os.read(wire.fd, 4096)
    assert back == data


def test_rx_buffer_that_the_driver_refuses_is_said(out: Path, tmp_path: Path) -> None:
    program = probe(out, *arduino_host.CORES["espressif32"], "-DPROBE_BAUD=921600", "-DPROBE_RX_BUFFER=128")
    with running(program, tmp_path) as board:
        board.until(lambda: "TLC_UART_RX_BUFFER; use more than 128 bytes" in board.console(), "message")


@pytest.mark.parametrize(
    ("core", "megahertz"),
    [
        ("espressif32", 240),
        ("espressif8266", 80),
        ("nordicnrf52", 1),  # the shim's has no cycle counter: microseconds
        ("raspberrypi", 1),
        ("ststm32", 180),
        ("ststm32/disco_f746ng", 216),
    ],
)
def test_ticks_are_cycles_and_entropy_differs(out: Path, tmp_path: Path, core: str, megahertz: int) -> None:
    flags = [*arduino_host.CORES[core], "-DPROBE_BAUD=115200", "-DPROBE_RX_BUFFER=256", "-DSERIAL_RX_BUFFER_SIZE=512"]
    program = probe(out, *flags)
    words = set()
    for boot in range(2):
        # 100 times as fast: the 32-bit counter wraps every 0.2 s of ours.
        with running(program, tmp_path / str(boot), serial=True, speed=100) as board, serial_wire(board) as wire:

            def ask(command: bytes, argument: int, count: int, fd: int = wire.fd) -> bytes:
                os.write(fd, command + struct.pack("<I", argument))
                answer = b""
                while len(answer) < count:
                    assert select.select([fd], [], [], DEADLINE_S)[0], "no answer"
                    answer += os.read(fd, 64)
                return answer

            words |= {ask(b"r", 0, 4) for _ in range(2)}
            wait = {1: 5_000, 80: 110_000}.get(megahertz, 60_000)
            cycles, milliseconds = struct.unpack("<QI", ask(b"t", wait, 12))
            assert megahertz == 1 or milliseconds * megahertz * 1000 > 2 * 2**32, "the counter wrapped at least twice"
            assert cycles == pytest.approx(milliseconds * megahertz * 1000, rel=0.01)
    assert len(words) == 4


# ---- Wi-Fi ----


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_wifi_greets_and_comes_back_when_the_host_closes(out: Path, tmp_path: Path, host: str) -> None:
    with listening() as listener:
        include = secrets(tmp_path, listener.getsockname()[1], host=host)
        program = arduino_host.build(project(out, "esp32", "wifi"), out=out, include=include)
        with running(program, tmp_path, password="sesame", speed=5) as board:
            sessions = set()
            for request in range(1, 4):
                with tcp_wire(listener) as wire:
                    wire.greet()
                    x = sample(request)
                    np.testing.assert_array_equal(wire.forward(x, request), plus_one(x))
                    sessions.add(wire.link.session)
            assert len(sessions) == 3
            connects = board.events("tcp_connect")
            assert [detail for _, detail in connects[:3]] == ["ok"] * 3
            # A host that answered counts as well: each time the shortest wait.
            board.until(lambda: len(waits(board)) >= 3, "third hang-up")
            assert all(250 <= wait <= 500 for wait in waits(board)[:3]), waits(board)
            console = board.console()
            assert console.count("tlc: the host closed the connection; again in") >= 3
            assert "tlc: on the network as 127.0.0.1" in console and "tlc: connected to 127.0.0.1" in console
            assert "sesame" not in console, "the password is nobody's to read"


def test_wifi_board_listens_where_no_host_is_named(out: Path, tmp_path: Path) -> None:
    port = free_port()
    include = secrets(tmp_path, port, host="")
    program = arduino_host.build(project(out, "esp32", "wifi"), out=out, include=include)
    with running(program, tmp_path, speed=5) as board:
        board.until(lambda: [detail for _, detail in board.events("tcp_listen")] == ["ok"], "listening socket")
        assert f"tlc: waiting for the host: --device tcp://127.0.0.1:{port}" in board.console()
        for request in range(1, 4):
            with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as connection:
                connection.setblocking(False)
                wire = Wire(connection.fileno())
                wire.greet()
                x = sample(request)
                np.testing.assert_array_equal(wire.forward(x, request), plus_one(x))
        board.until(lambda: board.console().count("tlc: the host closed the connection\n") == 3, "third goodbye")
        assert not board.events("tcp_connect")


@pytest.mark.parametrize("host", ["_tlc._tcp", "bench.local"])
def test_wifi_finds_the_host_by_mdns(out: Path, tmp_path: Path, host: str) -> None:
    announced = tmp_path / "announced"
    with listening() as listener:
        port = listener.getsockname()[1]
        include = secrets(tmp_path, port if host == "bench.local" else 1, host=host)
        program = arduino_host.build(project(out, "esp32", "wifi"), out=out, include=include)
        with running(program, tmp_path, mdns=str(announced), speed=50) as board:
            if host == "_tlc._tcp":
                board.until(lambda: len(board.events("mdns_query")) >= 2, "second question")
                assert "tlc: no host announces _tlc._tcp here" in board.console()
                assert not board.events("tcp_connect")
                announced.write_text(f"127.0.0.1 {free_port()}\n127.0.0.1 {port}\n")  # the first one is gone
            with tcp_wire(listener) as wire:
                wire.greet()
                x = sample(0)
                np.testing.assert_array_equal(wire.forward(x), plus_one(x))
            assert [name[:4] for _, name in board.events("mdns_begin")] == ["tlc-"]


def test_wifi_falls_back_to_the_serial_line_and_the_session_goes_on(out: Path, tmp_path: Path) -> None:
    access_point = tmp_path / "access-point"
    access_point.touch()
    with listening() as listener:
        include = secrets(tmp_path, listener.getsockname()[1])
        program = arduino_host.build(project(out, "esp32", "wifi"), out=out, include=include)
        with running(program, tmp_path, serial=True, ap=str(access_point)) as board:
            with tcp_wire(listener) as wire:
                wire.greet()
                link, session = wire.link, wire.link.session
                access_point.unlink()
                fd = os.open(board.until(lambda: board.line.exists() and board.line, "serial line"), os.O_RDWR)
                tty.setraw(fd)
                os.set_blocking(fd, False)
            try:
                wire = Wire(fd)
                wire.link = link
                link.transport_changed()
                os.write(fd, b"help\r\n")  # a person at the console is no host
                x = sample(1)
                np.testing.assert_array_equal(wire.forward(x), plus_one(x))
                assert link.session == session, "the session outlives the change"
                access_point.touch()
            finally:
                os.close(fd)
            with tcp_wire(listener) as wire:  # the line is silent: Wi-Fi again
                wire.link = link
                link.transport_changed()
                x = sample(2)
                np.testing.assert_array_equal(wire.forward(x, 2), plus_one(x))


def test_wifi_down_at_start_then_up_then_down(out: Path, tmp_path: Path) -> None:
    access_point = tmp_path / "access-point"
    with listening() as listener:
        include = secrets(tmp_path, listener.getsockname()[1])
        program = arduino_host.build(project(out, "esp32", "wifi"), out=out, include=include)
        with running(program, tmp_path, ap=str(access_point), speed=50) as board:
            board.until(lambda: len(board.events("wifi_begin")) >= 3, "third try to join")
            assert not board.events("tcp_connect")
            assert "no such network in reach; look at TLC_WIFI_SSID" in board.console()
            access_point.touch()
            with tcp_wire(listener) as wire:
                wire.greet()
                access_point.unlink()
                board.until(lambda: "the network is lost" in board.console(), "message")
                access_point.touch()
            with tcp_wire(listener) as wire:
                wire.greet()
                x = sample(0)
                np.testing.assert_array_equal(wire.forward(x), plus_one(x))


def test_wifi_wrong_password_is_said(out: Path, tmp_path: Path) -> None:
    program = probe(out, *arduino_host.CORES["espressif32"], "-DPROBE_WIFI", f"-I{secrets(tmp_path, 1)}")
    with running(program, tmp_path, password="another", speed=200) as board:
        board.until(lambda: "the network refuses us; look at TLC_WIFI_PASSWORD" in board.console(), "message")


def free_port() -> int:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return int(closed.getsockname()[1])


def waits(board: Board) -> list[int]:
    return [int(ms) for ms in re.findall(r"again in (\d+) ms", board.console())]


def limits(count: int) -> list[int]:
    return [min(30_000, 500 * 2**i) for i in range(count)]


def _nine_tries(board: Board) -> bool:
    return len(waits(board)) >= 9 and len(board.events("tcp_connect")) >= 9


def test_wifi_without_a_host_tries_ever_less_often(out: Path, tmp_path: Path) -> None:
    program = probe(out, *arduino_host.CORES["espressif32"], "-DPROBE_WIFI", f"-I{secrets(tmp_path, free_port())}")
    seen = []
    for boot in range(2):
        with running(program, tmp_path / str(boot), speed=200) as board:
            board.until(partial(_nine_tries, board), "ninth try")
            tries, told = board.events("tcp_connect")[:9], waits(board)[:8]
            assert {detail for _, detail in tries} == {"Connection refused"}
            assert all(limit / 2 <= wait <= limit for wait, limit in zip(told, limits(8), strict=True)), told
            gaps = np.diff([ms for ms, _ in tries])
            # Kept, too: never early. (How late depends on this machine, 200 times slower than the board.)
            assert all(gap >= wait - 1 for gap, wait in zip(gaps, told, strict=True)), (gaps, told)
            assert "does something listen there" in board.console()
            seen.append(tuple(told))
    assert seen[0] != seen[1], "two boards must not come back in step"


def test_wifi_host_that_hangs_up_at_once_is_not_hammered(out: Path, tmp_path: Path) -> None:
    with listening() as listener:
        include = secrets(tmp_path, listener.getsockname()[1])
        program = probe(out, *arduino_host.CORES["espressif32"], "-DPROBE_WIFI", f"-I{include}")
        with running(program, tmp_path, speed=200) as board:
            for _ in range(6):
                listener.accept()[0].close()
            board.until(lambda: len(waits(board)) >= 6, "sixth hang-up")
            told = waits(board)[:6]
            assert all(limit / 2 <= wait <= limit for wait, limit in zip(told, limits(6), strict=True)), told


def test_wifi_host_that_takes_nothing_is_left(out: Path, tmp_path: Path) -> None:
    with listening() as listener:
        include = secrets(tmp_path, listener.getsockname()[1])
        program = probe(out, *arduino_host.CORES["espressif32"], "-DPROBE_WIFI", f"-I{include}")
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with running(program, tmp_path, speed=20) as board:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(DEADLINE_S)
                with pytest.raises((ConnectionError, TimeoutError)):
                    connection.sendall(b"e" + struct.pack("<I", 1 << 30) + bytes(1 << 26))
            assert "the host takes no bytes" in board.console()
            with listener.accept()[0]:
                pass


# ---- memory ----


def test_arena_from_the_heap_or_a_clear_word(out: Path, tmp_path: Path) -> None:
    """A 120,000-byte arena is too large for the ESP32's static RAM, and not for its heap."""
    directory = project(out, "esp32", "uart", arena_bytes=120_000)
    assert "#define TLC_ARENA_ON_HEAP 1 " in (directory / "include" / "tlc_config.h").read_text()
    program = arduino_host.build(directory, out=out, flags=["-DTLC_MODEL_ARENA_BYTES=120000u"])
    with running(program, tmp_path / "enough", serial=True, heap=130_000) as board, serial_wire(board) as wire:
        wire.greet()
        x = sample(2)
        np.testing.assert_array_equal(wire.forward(x), plus_one(x))
    with running(program, tmp_path / "short", speed=20) as board:
        board.until(lambda: "cannot start" in board.console(), "message")
        board.until(lambda: len(board.events("led")) >= 4, "blinking")
        assert re.search(
            r"no room for the arena: 120000 bytes wanted, the heap's largest block has 110580", board.console()
        )
        assert {detail for _, detail in board.events("led")} == {"on", "off"}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("RX_BUFFER 4096", "RX_BUFFER 1024", "TLC_UART_RX_BUFFER does not hold TLC_LINK_PEER_WINDOW frames"),
        ("TLC_TRANSPORT_UART", "TLC_TRANSPORT_SMOKE", "define one of TLC_TRANSPORT_UART and TLC_TRANSPORT_WIFI"),
    ],
)
def test_settings_that_cannot_work_do_not_compile(out: Path, tmp_path: Path, old: str, new: str, words: str) -> None:
    here = tmp_path / "project"
    shutil.copytree(project(out, "esp32", "uart"), here)
    config = here / "include" / "tlc_config.h"
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new))
    with pytest.raises(AssertionError, match=words):
        arduino_host.build(here, out=out)


def test_missing_secrets_name_the_remedy(out: Path) -> None:
    with pytest.raises(AssertionError, match=r"copy include/tlc_secrets\.example\.h to include/tlc_secrets\.h"):
        arduino_host.build(project(out, "esp32", "wifi"), out=out)


# ---- parts ----


def test_backoff_doubles_to_its_cap_and_is_jittered(out: Path) -> None:
    sources = [PORT / "tlc_arduino_backoff.cpp", SHIM / "programs" / "backoff.cpp"]
    program = out / "backoff"
    subprocess.run(
        ["g++", "-std=gnu++11", "-Wall", "-Wextra", "-Werror", f"-I{PORT}", "-o", program, *sources], check=True
    )
    done = subprocess.run([program, "500", "30000", "400", "10"], capture_output=True, text=True, check=True)
    table = np.array([[int(word) for word in line.split()] for line in done.stdout.splitlines()])
    bounds = np.array([*limits(10), 500])  # the last after a reset
    assert (table >= bounds // 2).all() and (table <= bounds).all()
    spread = table.max(axis=0) - table.min(axis=0)
    assert (spread > 0.45 * bounds).all(), "the jitter covers half of the wait"
    assert np.abs(table.mean(axis=0) / bounds - 0.75).max() < 0.02, "evenly"


def test_generated_project_builds_every_file_of_the_port(out: Path) -> None:
    for board_id, transport in [("esp32", "uart"), ("esp32", "wifi"), ("nucleo-f446re", "uart")]:
        environment = arduino_host.settings(project(out, board_id, transport))
        named = set(environment["custom_tlc_sources"].split())
        named |= set(re.findall(r"arduino/(\w+\.cpp)", environment.get("build_src_filter", "")))
        left = {path.name for path in PORT.glob("*.cpp")} - named
        assert left == (set() if transport == "wifi" else {"tlc_arduino_wifi.cpp"})


@pytest.mark.parametrize("transport", ["uart", "wifi"])
def test_platformio_finds_every_part(out: Path, tmp_path: Path, transport: str) -> None:
    """PlatformIO itself builds the project, with the shim as the core and its Wi-Fi as the core's library."""
    native = boards.load("native")
    here = tmp_path / "project"
    shutil.copytree(project(out, "esp32", transport), here)
    shutil.copytree(arduino_host.FIRMWARE, here / "lib" / "tlc")
    manifest = {"name": "tlc_model", "version": "1.0.0", "build": {"includeDir": "include", "srcDir": "src"}}
    (here / "lib" / "tlc_model" / "library.json").write_text(json.dumps(manifest))
    core, wifi = here / "core", here / "libraries" / "WiFi"
    shutil.copytree(
        SHIM, core, ignore=shutil.ignore_patterns("WiFi*", "wifi.cpp", "ESPmDNS.h", "mdns.cpp", "plus_one", "programs")
    )
    (wifi / "src").mkdir(parents=True)
    (wifi / "library.json").write_text(json.dumps({"name": "WiFi", "version": "2.0.0"}))
    for name in ("WiFi.h", "WiFiClient.h", "wifi.cpp"):
        shutil.copy(SHIM / name, wifi / "src")
    mdns = here / "libraries" / "ESPmDNS"
    (mdns / "src").mkdir(parents=True)
    (mdns / "library.json").write_text(json.dumps({"name": "ESPmDNS", "version": "2.0.0"}))
    for name in ("ESPmDNS.h", "mdns.cpp"):
        shutil.copy(SHIM / name, mdns / "src")
    for source in core.glob("*.cpp"):
        source.rename(here / "src" / source.name)
    if transport == "wifi":
        shutil.copy(secrets(tmp_path, 7777) / "tlc_secrets.h", here / "include")
    for name, text in native.project_files().items():
        if name.startswith("boards/"):
            (here / name).parent.mkdir(exist_ok=True)
            (here / name).write_text(text)
    ini = (here / "platformio.ini").read_text()
    for old, new in {
        "platform = espressif32@6.13.0": "platform = tlc",
        "board = esp32dev": f"board = {native.platformio.board}",
        "framework = arduino": f"lib_extra_dirs = {here / 'libraries'}",
        "build_flags =": "build_flags =\n    -DARDUINO_ARCH_ESP32 -DARDUINO=10819 -D_GNU_SOURCE -Icore -lstdc++ -lpthread",
    }.items():
        assert old in ini
        ini = ini.replace(old, new)
    (here / "platformio.ini").write_text(ini)
    cores = toolchain.prepare_platformio(out / "platformio")
    done = subprocess.run(
        [sys.executable, "-m", "platformio", "run", "-d", here],
        env=toolchain.platformio_environment(cores),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((here / ".pio").rglob("firmware.elf"))
    if transport == "wifi":
        assert list((here / ".pio").rglob("WiFi/wifi.o")), "the core's library, found by itself"
        assert list((here / ".pio").rglob("ESPmDNS/mdns.o"))


PANIC = """/* SPDX-License-Identifier: Apache-2.0 */
#include "app.h"
#include "tlc/board.h"

bool tlc_app_sample(void *app, tlc_sample_t *sample) {
    (void)app;
    (void)sample;
    tlc_board_panic("the sensor is gone");
}

void tlc_app_result(void *app, const float *values, uint32_t count) {
    (void)app;
    (void)values;
    (void)count;
}
"""


@pytest.mark.parametrize("board_id", ["esp32", "esp8266", "nano33ble", "nucleo-f446re"])
def test_a_panic_is_told_over_the_link_and_restarts(board_id: str, out: Path, tmp_path: Path) -> None:
    made = project(out, board_id, "uart")
    copy = tmp_path / "project"
    shutil.copytree(made, copy)
    (copy / "src" / "app.c").write_text(PANIC)
    program = arduino_host.build(copy, out=out)
    received = b""
    with running(program, tmp_path / "board", serial=True) as board:
        board.until(board.line.exists, "serial line")
        fd = os.open(board.line, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        tty.setraw(fd, termios.TCSANOW)  # and keeps what has come
        wire = Wire(fd)  # a host: some boards sample, and USB sends, for one alone
        end = time.monotonic() + DEADLINE_S
        while b"build 0000000000000000\r\n\0" not in received and time.monotonic() < end:
            if wire.link.state is State.IDLE:
                wire.link.open(wire.now())
            os.write(fd, wire.link.output(wire.now(), 4096))
            if select.select([fd], [], [], 0.02)[0]:
                try:
                    some = os.read(fd, 4096)
                except OSError:
                    break  # it has ended
                received += some
                wire.link.receive(some, wire.now())
        assert board.process.wait(DEADLINE_S) == 0
        os.close(fd)
    line = find_fault(received)
    assert line is not None and line.startswith("tlc fault: the sensor is gone; cause 00000000 pc "), received
    assert f"\0\r\n{line}\r\n\0".encode() in received
    assert parse_dump(line).build == "" and parse_dump(line).pc > 0
    assert len(board.events("restart")) == 1
