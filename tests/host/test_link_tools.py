# SPDX-License-Identifier: Apache-2.0
"""``tlc link``, ``tlc monitor`` and ``--capture``, on a twin; captures as tshark reads them with our dissector."""

from __future__ import annotations

import asyncio
import json
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from command_line import refused, succeeds
from tlc_host.capture import INBOUND, OUTBOUND, Capture
from tlc_host.line import monitor
from tlc_host.link.frame import EndReason, Frame, FrameType, encode, parse

DISSECTOR = Path(__file__).resolve().parents[2] / "firmware" / "wireshark" / "tlc.lua"


def blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    """pcapng's blocks: type and body; lengths stand before and behind."""
    while data:
        kind, size = struct.unpack_from("<II", data)
        assert size % 4 == 0 and struct.unpack_from("<I", data, size - 4)[0] == size
        yield kind, data[8 : size - 4]
        data = data[size:]


def packets(path: Path) -> list[tuple[int, bytes, int]]:
    """(interface, bytes, direction) of every packet."""
    found = []
    for kind, body in blocks(path.read_bytes()):
        if kind == 6:
            interface, _, _, size, original = struct.unpack_from("<IIIII", body)
            assert size == original
            options = body[20 + size + -size % 4 :]
            found.append((interface, body[20 : 20 + size], struct.unpack_from("<I", options, 4)[0]))
    return found


def tshark(path: Path, *arguments: str) -> list[str]:
    program = shutil.which("tshark")
    if program is None:
        pytest.skip("tshark is not installed (apt-get install tshark)")
    command = [program, "-X", f"lua_script:{DISSECTOR}", "-r", str(path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and "Lua" not in done.stderr, done.stderr
    return done.stdout.splitlines()


def test_link_tells_what_the_line_carries(project: Path) -> None:
    told = succeeds("link", project, "--seconds", "0.3", "--size", "200", "--json").json
    assert told["device"] == told["board"] == "twin"
    assert told["messages"] > 10 and told["message_bytes"] == 200
    assert told["down_bytes_per_second"] == told["up_bytes_per_second"] > 0
    assert told["loss_down"] == told["bad_down"] == told["bad_up"] == 0
    assert 0 < told["trip_ms"] <= told["trip_95_ms"] and told["rtt_ms"] > 0
    assert 0 < told["deepest_messages"] <= 64
    table = succeeds("link", project, "--seconds", "0.2").out
    for word in ("throughput, kB/s", "sent again", "round trip", "deepest buffer"):
        assert word in table


def test_a_capture_holds_every_frame(project: Path, models: Path, tmp_path: Path) -> None:
    target = tmp_path / "line.pcapng"
    x = models / "x.npy"
    succeeds("run", project, "--input", x, "--output", tmp_path / "y.npy", "--capture", target)
    succeeds("run", project, "--input", x, "--output", tmp_path / "without.npy")
    assert (tmp_path / "y.npy").read_bytes() == (tmp_path / "without.npy").read_bytes()
    kinds = [kind for kind, _ in blocks(target.read_bytes())]
    assert kinds[:2] == [0x0A0D0D0A, 1] and set(kinds[2:]) == {6}
    frames = [(parse(data), direction) for _, data, direction in packets(target)]
    assert all(frame is not None for frame, _ in frames)
    types = {(frame.type, direction) for frame, direction in frames if frame is not None}
    assert {(2, OUTBOUND), (3, INBOUND), (0x10, INBOUND), (0x20, OUTBOUND), (0x21, INBOUND)} <= types


def test_wireshark_reads_a_capture(project: Path, models: Path, tmp_path: Path) -> None:
    target = tmp_path / "line.pcapng"
    data = ("run", project, "--input", models / "x.npy", "--output", tmp_path / "y.npy", "--capture", target)
    succeeds(*data)
    fields = ("tlc.type", "tlc.session", "tlc.counter", "tlc.sequence", "tlc.offset", "tlc.length", "tlc.selective")
    rows = tshark(target, "-T", "fields", *(word for field in fields for word in ("-e", field)))
    frames = [parse(piece) for _, piece, _ in packets(target)]
    assert len(rows) == len(frames) > 10
    for row, frame in zip(rows, frames, strict=True):
        assert frame is not None
        values = [frame.type, frame.session, frame.counter, frame.sequence, frame.offset, frame.length, frame.selective]
        assert [int(text, 0) for text in row.split("\t")] == values
    assert not tshark(target, "-Y", "tlc.damaged")
    names = set(tshark(target, "-T", "fields", "-e", "tlc.message"))
    assert {"OPEN", "ACCEPT", "ACK", "HELLO", "WELCOME", "FORWARD", "SMASHED", "DONE", "END"} <= names


def test_wireshark_marks_what_is_damaged(tmp_path: Path) -> None:
    target = tmp_path / "line.pcapng"
    capture = Capture(target)
    interface = capture.interface("board")
    good = encode(Frame(FrameType.END, session=5, payload=bytes([EndReason.SUPERSEDED, 1, 1])))[:-1]
    text = struct.pack("<IIIIBBBB", 9, 1, 2, 3, 30, 0, 0, 0) + "ähm\x1b[2J".encode()
    log = encode(Frame(0x2E, 2, 0, session=5, length=len(text), payload=text))[:-1]
    wrong = bytearray(log)
    wrong[40] ^= 1
    long = encode(Frame(0x21, 1, session=5, length=1024, payload=bytes(range(1, 256)) * 4 + bytes(4)))[:-1]
    for piece in (good, log, bytes(wrong), b"HTTP/1.1", b"\x01\x01\x01", long):
        capture.packet(interface, piece, INBOUND)
    capture.close()
    assert tshark(target, "-Y", "tlc.damaged", "-T", "fields", "-e", "frame.number") == ["3", "4", "5"]
    ends = tshark(target, "-Y", "tlc.reason == 1", "-T", "fields", "-e", "tlc.lowest", "-e", "frame.interface_name")
    assert ends == ["1\tboard"]
    (said,) = tshark(target, "-Y", "tlc.text", "-T", "fields", "-e", "frame.number", "-e", "tlc.batch")
    assert said == "2\t3"
    assert tshark(target, "-Y", "tlc.length == 1024 && !tlc.damaged", "-T", "fields", "-e", "frame.number") == ["6"]


def test_a_capture_that_cannot_be_written(project: Path, models: Path, tmp_path: Path) -> None:
    options = ("--input", models / "x.npy", "--output", tmp_path / "y.npy", "--capture", tmp_path / "no" / "file")
    refused(tmp_path, 1, "run", project, *options, says=("cannot be written", "--capture"))


def test_monitor_shows_what_the_device_says(project: Path) -> None:
    lines = [json.loads(line) for line in succeeds("monitor", project, "--seconds", "0.2", "--json").out.splitlines()]
    assert [(line["level"], line["text"]) for line in lines] == [("info", "connected to twin")]
    assert "connected to twin" in succeeds("monitor", project, "--seconds", "0.1").out


def test_monitor_keeps_control_characters_from_the_terminal(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tlc_host.line
    from tlc_host.devices import open_device

    def talkative(directory: Path, device: str, *, on_log: Any) -> Any:
        on_log(30, "hot\x1b[2J")
        on_log(10, "too little to show")
        return open_device(directory, device, on_log=on_log)

    monkeypatch.setattr(tlc_host.line, "open_device", talkative)
    lines: list[tuple[int, str]] = []
    asyncio.run(
        monitor(project, "twin", on_line=lambda at, level, text: lines.append((level, text)), seconds=0.05, level=20)
    )
    assert lines == [(30, "hot\\x1b[2J"), (20, "connected to twin")]
