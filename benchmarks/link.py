# SPDX-License-Identifier: Apache-2.0
"""What the link carries: ``python benchmarks/link.py [--json] [--seconds N] [uart] [tcp] [fleet] [cost]``.

The devices are the firmware's own device and link (``link_device.c``), the host is :class:`tlc_host.session.Session`;
between them is a relay that is as slow as the line it stands for. Payload is what a message carries, its header of 16
bytes and more included; TEST messages go both ways, so that no model's computing is measured.

uart   921,600 baud, both ways at once: two pseudo-terminals, a relay between them
tcp    20 Mbit/s and 20 ms each way: two connections, a relay between them
fleet  100 devices at 92 kB/s each; the host's CPU time
cost   instructions of a byte sent and of a byte received, counted in emulators
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import tty
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile

from tlc import boards, toolchain
from tlc_host.link import Frame, Link, Offer
from tlc_host.link.frame import encode
from tlc_host.session import Session
from tlc_host.transports import Transport
from tlc_host.transports.streams import StreamTransport

ROOT = Path(__file__).resolve().parents[1]
HASH = bytes([9]) + bytes(31)
HEAD = 20  # bytes of a TEST message before its data
BAUD = 921_600
LINE = BAUD // 10  # bytes a second: start bit, eight, stop bit
MARKS = {"uart": 0.96, "tcp": 0.85}


def build(directory: Path) -> Path:
    """The devices' program, with buffers for eight messages each way."""
    firmware, program = ROOT / "firmware", directory / "link_device"
    sources = [ROOT / "benchmarks/link_device.c", firmware / "src/ctx.c"]
    for part in ("device", "link", "train", "kernels", "journal", "pack"):
        sources += sorted((firmware / "src" / part).glob("*.c"))
    command = [
        "gcc",
        "-std=c99",
        "-O2",
        "-ffp-contract=off",
        "-DTLC_LINK_INCOMING=16",
        "-DTLC_LINK_OUTGOING=18",
        f"-I{firmware / 'include'}",
    ]
    subprocess.run([*command, "-o", str(program), *map(str, sources)], check=True)
    return program


def as_hardware() -> None:
    """A line and a device stop for no other program of this machine, where we may say so."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


@contextmanager
def devices(program: Path, *arguments: object) -> Iterator[None]:
    process = subprocess.Popen([program, *map(str, arguments)], stdin=subprocess.PIPE, preexec_fn=as_hardware)
    try:
        yield
    finally:
        assert process.stdin is not None
        process.stdin.close()
        if process.wait(10) != 0:
            raise RuntimeError("the devices ended with an error")


# ---- relays: in processes of their own, so that the host's Python does not hold them up ----


class Line:
    """One direction: takes what it has room for, gives it ``delay`` seconds later, ``rate`` bytes a second."""

    def __init__(self, rate: float, delay: float, room: int) -> None:
        self.rate, self.delay, self.room = rate, delay, room
        self.free_at = 0.0
        self.queue: deque[tuple[float, bytes]] = deque()
        self.waiting = 0

    def capacity(self, now: float) -> int:
        """Bytes that it takes now: what stands before the line, not what is on its way, is bounded."""
        return self.room - int(max(0.0, self.free_at - now) * self.rate)

    def put(self, data: bytes, now: float) -> None:
        # In slices, so that bytes leave one by one, nearly: a millisecond's worth at a time.
        step = max(16, int(self.rate / 1000))
        for at in range(0, len(data), step):
            part = data[at : at + step]
            self.free_at = max(self.free_at, now) + len(part) / self.rate
            self.queue.append((self.free_at + self.delay, part))

    def get(self, now: float) -> bytes:
        out = []
        while self.queue and self.queue[0][0] <= now:
            out.append(self.queue.popleft()[1])
        return b"".join(out)


def relay(left: int, right: int, rate: float, delay: float, room: int, back: float = 0.0) -> None:
    """Carries bytes between two file descriptors until one closes; ``back``: the rate from right to left."""
    as_hardware()
    ends = (left, right)
    lines = {left: Line(rate, delay, room), right: Line(back or rate, delay, room)}  # by where the bytes come from
    out = {left: b"", right: b""}
    for end in ends:
        os.set_blocking(end, False)
    while True:
        now = time.monotonic()
        for source, target in (ends, ends[::-1]):
            line = lines[source]
            capacity = line.capacity(now)
            if capacity > 0:
                with contextlib.suppress(BlockingIOError):
                    data = os.read(source, capacity)
                    if not data:
                        return
                    line.put(data, now)
            out[target] += line.get(now)
            if out[target]:
                with contextlib.suppress(BlockingIOError):
                    out[target] = out[target][os.write(target, out[target]) :]
        time.sleep(0.0005)


@contextmanager
def relayed(left: int, right: int, *, rate: float, delay: float, room: int, back: float) -> Iterator[None]:
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(OSError, KeyboardInterrupt):
            relay(left, right, rate, delay, room, back)
        os._exit(0)
    try:
        yield
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


# ---- measuring ----


class Meter:
    """Messages that came back, and the host's processor time."""

    def __init__(self) -> None:
        self.messages = 0
        self.start()

    def start(self) -> None:
        self.messages = 0
        self.at = time.monotonic()
        self.cpu = time.process_time()

    def stop(self) -> tuple[float, float, int]:
        return time.monotonic() - self.at, time.process_time() - self.cpu, self.messages


async def load(session: Session, send: int, receive: int, meter: Meter) -> None:
    """One TEST after another, for ever."""
    while True:
        await session.test(send - HEAD, receive - HEAD)
        meter.messages += 1


async def measure(sessions: list[Session], send: int, receive: int, parallel: int, seconds: float) -> dict[str, float]:
    meter = Meter()
    tasks = [asyncio.create_task(load(session, send, receive, meter)) for session in sessions for _ in range(parallel)]
    try:
        await asyncio.sleep(min(2.0, seconds / 2))
        meter.start()
        before = [(s.counters.resent, s.counters.frames_in, s.counters.frames_out) for s in sessions]
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        elapsed, cpu, messages = meter.stop()
        frames = [
            (s.counters.frames_in - b[1], s.counters.frames_out - b[2]) for s, b in zip(sessions, before, strict=True)
        ]
        return {
            "seconds": elapsed,
            "down_bytes_per_second": messages * send / elapsed,
            "up_bytes_per_second": messages * receive / elapsed,
            "host_cpu": cpu / elapsed,
            "frames_in_per_second": sum(f[0] for f in frames) / elapsed,
            "frames_out_per_second": sum(f[1] for f in frames) / elapsed,
            "resent": sum(s.counters.resent - b[0] for s, b in zip(sessions, before, strict=True)),
            "rtt_ms": sum(s.counters.rtt_ms for s in sessions) / len(sessions),
        }
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# ---- what is measured ----


def uart(program: Path, seconds: float) -> list[dict[str, Any]]:
    """1 KB payloads both ways at once between two pseudo-terminals."""
    rows = []
    for send, receive, name in (
        (1024, 1024, "both ways"),
        (1024, HEAD + 1, "to the device"),
        (HEAD + 1, 1024, "to the host"),
    ):
        masters, paths, held = [], [], []
        for _ in range(2):
            master, slave = os.openpty()
            tty.setraw(slave)
            masters.append(master)
            paths.append(os.ttyname(slave))
            held.append(slave)  # a terminal that nobody holds open is hung up
        try:
            with (
                relayed(*masters, rate=LINE, delay=0.0, room=1024, back=1e9),  # a device paces itself
                devices(program, "--tty", paths[1], "--fragment", 1024, "--rate", LINE),
            ):

                async def run(path: str = paths[0], send: int = send, receive: int = receive) -> dict[str, float]:
                    spec = f"serial://{path}?baud={BAUD}"
                    async with await Session.connect(spec, HASH, link=Link(fragment=1024)) as session:
                        return await measure([session], send, receive, 24, seconds)

                row: dict[str, Any] = {"what": "uart", "way": name, **asyncio.run(run())}
        finally:
            for fd in (*masters, *held):
                os.close(fd)
        best = max(send, receive)
        rates = [row[f"{way}_bytes_per_second"] for way, size in (("down", send), ("up", receive)) if size == best]
        row["share"] = min(rates) / LINE
        rows.append(row)
    return rows


class Accepted:
    """Transports of devices that connect to a port of ours."""

    def __init__(self) -> None:
        self.transports: asyncio.Queue[Transport] = asyncio.Queue()
        self.port = 0

    async def __aenter__(self) -> Accepted:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.transports.put_nowait(StreamTransport("device", reader, writer))

        self.server = await asyncio.start_server(accept, "127.0.0.1", 0, backlog=256)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()


def tcp(program: Path, seconds: float) -> list[dict[str, Any]]:
    """20 Mbit/s, 20 ms each way."""
    rate = 20e6 / 8
    rows = []
    for send, receive, name in (
        (16384, 16384, "both ways"),
        (16384, 100, "to the device"),
        (100, 16384, "to the host"),
    ):
        with socket.create_server(("127.0.0.1", 0)) as ours, socket.create_server(("127.0.0.1", 0)) as theirs:

            async def run(send: int = send, receive: int = receive) -> dict[str, float]:
                port = ours.getsockname()[1]
                async with await Session.connect(f"tcp://127.0.0.1:{port}", HASH, link=Link(fragment=8192)) as session:
                    return await measure([session], send, receive, 24, seconds)

            pid = os.fork()
            if pid == 0:
                with contextlib.suppress(OSError, KeyboardInterrupt):
                    left, right = ours.accept()[0], theirs.accept()[0]
                    for end in (left, right):
                        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    relay(left.fileno(), right.fileno(), rate, 0.020, 65536)
                os._exit(0)
            try:
                with devices(program, "--connect", theirs.getsockname()[1], "--fragment", 8192):
                    row: dict[str, Any] = {"what": "tcp", "way": name, **asyncio.run(run())}
            finally:
                os.kill(pid, 9)
                os.waitpid(pid, 0)
        best = max(send, receive)
        rates = [row[f"{way}_bytes_per_second"] for way, size in (("down", send), ("up", receive)) if size == best]
        row["share"] = min(rates) / rate
        rows.append(row)
    return rows


def fleet(program: Path, seconds: float, count: int = 100) -> list[dict[str, Any]]:
    """Devices on loopback connections, each with a UART's rate."""
    rows = []
    for fragment, send, receive, name in (
        (1024, 100, 8192, "to the host"),
        (1024, 8192, 8192, "both ways"),
        (256, 100, 8192, "to the host, fragments of 256"),
    ):

        async def run(fragment: int = fragment, send: int = send, receive: int = receive) -> dict[str, float]:
            async with Accepted() as accepted:
                with devices(
                    program, "--connect", accepted.port, "--count", count, "--fragment", fragment, "--rate", LINE
                ):
                    sessions = [
                        await Session.connect(accepted.transports.get, HASH, link=Link(fragment=fragment), timeout_s=30)
                        for _ in range(count)
                    ]
                    try:
                        return await measure(sessions, send, receive, 3, seconds)
                    finally:
                        for session in sessions:
                            await session.close()

        row: dict[str, Any] = {"what": "fleet", "way": name, "devices": count, **asyncio.run(run())}
        row["share"] = row["up_bytes_per_second"] / count / LINE
        rows.append(row)
    return rows


# ---- instructions on the device ----

ISAS = {"qemu-m0": "Armv6-M", "qemu-m4": "Armv7E-M", "qemu-rv32": "RV32IMC", "qemu-xtensa": "Xtensa LX106"}
FRAGMENTS = (256, 1024)
BOOT, NONCE, MESSAGE = 7, 11, 1024


def _mix(x: int) -> int:
    """As ``mix`` in link_session.c, which makes the session's number."""
    for factor in (0x7FEB352D, 0x846CA68B):
        x ^= x >> 16 if factor == 0x7FEB352D else x >> 15
        x = x * factor & 0xFFFFFFFF
    return x ^ x >> 16


def link_frames() -> str:
    """The header that link_cost.c wants: what a host says, as wire bytes."""
    session = _mix(BOOT ^ _mix(NONCE + 1))
    data = bytes((i * 1664525 + 1013904223) >> 7 & 255 for i in range(MESSAGE))
    cases, arrays = [], []

    def array(name: str, frames: list[Frame]) -> str:
        wire = b"".join(encode(frame) for frame in frames)
        arrays.append(f"static const uint8_t {name}[] = {{{', '.join(map(str, wire))}}};")
        return f"{name}, sizeof {name}"

    for fragment in FRAGMENTS:
        offer = Offer(NONCE, fragment=fragment, max_message=MESSAGE, unit=MESSAGE, control=64)
        count = MESSAGE // fragment
        parts = [
            Frame(
                0x2F, 1, 0, 0x7FFFFF, 1 + i, session, i, 0, 0, 0, i * fragment, MESSAGE, data[i * fragment :][:fragment]
            )
            for i in range(count)
        ]
        ack = Frame(5, 0, 0, 0x7FFFFF, 1 + count, session, count, count)
        said = [
            array(f"open_{fragment}", [Frame(2, payload=offer.pack())]),
            array(f"begin_{fragment}", [Frame(5, 0, 0, 0x7FFFFF, 0, session)]),
            array(f"message_{fragment}", parts),
            array(f"acknowledge_{fragment}", [ack]),
        ]
        cases.append(f"    {{{fragment}, {', '.join(said)}}},")
    fields = "".join(
        f" const uint8_t *{name}; size_t {name}_bytes;" for name in ("open", "begin", "message", "acknowledge")
    )
    lines = [
        "#include <stddef.h>",
        "#include <stdint.h>",
        f"#define LINK_BOOT {BOOT}u",
        f"#define LINK_CASES {len(cases)}",
    ]
    lines += [f"typedef struct {{ uint16_t fragment;{fields} }} link_frames_t;", *arrays]
    return "\n".join([*lines, "static const link_frames_t link_frames[] = {", *cases, "};", ""])


def cost(scratch: Path) -> list[dict[str, Any]]:
    """Instructions a byte of a 1,024-byte message, and bytes of RAM and flash, on each instruction set."""
    rows = []
    for name, isa in ISAS.items():
        board, project = boards.load(name), scratch / name
        for path, content in board.project_files().items():
            (project / path).parent.mkdir(parents=True, exist_ok=True)
            (project / path).write_text(content)
        for part in ("include", "ports", "src"):
            shutil.copytree(ROOT / "firmware" / part, project / "lib" / "tlc" / part)
        shutil.copy(ROOT / "firmware" / "library.json", project / "lib" / "tlc")
        (project / "src").mkdir()
        shutil.copy(ROOT / "benchmarks" / "link_cost.c", project / "src")
        (project / "src" / "link_frames.h").write_text(link_frames())
        toolchain.pio_run(project)
        flash = 0
        for path in (project / ".pio").rglob("*.o"):
            if path.parent.name == "link":
                with path.open("rb") as file:
                    sections = ELFFile(file).iter_sections()
                    flash += sum(s["sh_size"] for s in sections if s["sh_flags"] & 2 and s["sh_type"] == "SHT_PROGBITS")
        size = 8 * (4 + 2 * len(FRAGMENTS))
        with (
            toolchain.Emulator(board, toolchain.firmware_elf(project, board)) as running,
            socket.create_connection((running.host, running.port)) as line,
        ):
            line.sendall(b"?")
            said = line.recv(size, socket.MSG_WAITALL)
        state, small, medium, large, *ticks = struct.unpack(f"<{size // 8}Q", said)
        for fragment, received, sent in zip(FRAGMENTS, ticks[::2], ticks[1::2], strict=True):
            rows.append(
                {
                    "what": "cost",
                    "board": name,
                    "isa": isa,
                    "fragment": fragment,
                    "received_per_byte": received / MESSAGE,
                    "sent_per_byte": sent / MESSAGE,
                    "flash_bytes": flash,
                    "ram_bytes": {"2x128": state + small, "4x256": state + medium, "8x1024": state + large},
                }
            )
    return rows


PARTS: dict[str, Callable[[Path, float], list[dict[str, Any]]]] = {"uart": uart, "tcp": tcp, "fleet": fleet}


def show(rows: list[dict[str, Any]]) -> None:
    """Markdown, marks beside."""
    speeds = [row for row in rows if row["what"] != "cost"]
    if speeds:
        print("| line | way | of the line's rate | mark | up, kB/s | down, kB/s | host's CPU | sent again |")
        print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in speeds:
        # a share of the rate is asked for with both ways at once; of a fleet, that the host keeps up within one core
        mark = f"≥ {MARKS[row['what']]:.0%}" if row["what"] in MARKS and row["way"] == "both ways" else ""
        mark = "CPU ≤ 100%" if row["what"] == "fleet" else mark
        print(
            f"| {row['what']} | {row['way']} | {row['share']:.1%} | {mark} | {row['up_bytes_per_second'] / 1000:,.1f} "
            f"| {row['down_bytes_per_second'] / 1000:,.1f} | {row['host_cpu']:.0%} | {row['resent']} |"
        )
    costs = [row for row in rows if row["what"] == "cost"]
    if costs:
        print(
            "\n| instruction set | fragment | received, instructions/B | sent | flash, B | RAM 2x128 | 4x256 | 8x1024 |"
        )
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in costs:
        ram = " | ".join(f"{count:,}" for count in row["ram_bytes"].values())
        print(
            f"| {row['isa']} (`{row['board']}`) | {row['fragment']} | {row['received_per_byte']:.1f} "
            f"| {row['sent_per_byte']:.1f} | {row['flash_bytes']:,} | {ram} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="uart, tcp, fleet, cost (all of them)")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    wanted = options.parts or [*PARTS, "cost"]
    if not set(wanted) <= {*PARTS, "cost"}:
        parser.error("PART is one of uart, tcp, fleet, cost")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        program = build(Path(scratch)) if set(wanted) & set(PARTS) else Path()
        for part in wanted:
            rows += cost(Path(scratch)) if part == "cost" else PARTS[part](program, options.seconds)
            print(f"{part} done", file=sys.stderr)
    if options.json:
        print(json.dumps({"rows": rows}))
    else:
        show(rows)


if __name__ == "__main__":
    main()
