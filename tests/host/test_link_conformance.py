# SPDX-License-Identifier: Apache-2.0
"""Both implementations against the vectors of firmware/PROTOCOL.md (tests/conformance/link_*.json)."""

from __future__ import annotations

import contextlib
import ctypes
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from link_simulator import build_peer
from link_twin import HASH, SmallTwin, build_twin

from tlc.errors import ProtocolError
from tlc_host import messages as m
from tlc_host.link import Frame, Link, Stream
from tlc_host.link.frame import Decoder, encode, parse

VECTORS = Path(__file__).resolve().parents[1] / "conformance"


def load(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((VECTORS / f"{name}.json").read_text())
    return found


@pytest.fixture(scope="session")
def peer(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return build_peer(tmp_path_factory.mktemp("peer"))


@pytest.fixture(scope="session")
def small_peer(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """With the small CRC table."""
    return build_peer(tmp_path_factory.mktemp("peer16"), "-DTLC_CRC32_TABLE=16")


@pytest.mark.parametrize("which", ["peer", "small_peer"])
def test_c_encodes_and_decodes(which: str, request: pytest.FixtureRequest) -> None:
    library = request.getfixturevalue(which)
    out = ctypes.create_string_buffer(4096)
    for case in load("link_encodings"):
        data, wire = bytes.fromhex(case["data"]), bytes.fromhex(case["wire"])
        assert library.peer_crc32(0, data, ctypes.c_size_t(len(data))) == int(case["crc32"], 16)
        half = len(data) // 2
        first = library.peer_crc32(0, data[:half], ctypes.c_size_t(half))
        rest = ctypes.c_size_t(len(data) - half)
        assert library.peer_crc32(ctypes.c_uint32(first), data[half:], rest) == int(case["crc32"], 16)
        count = library.peer_encode(data, ctypes.c_size_t(len(data)), out, ctypes.c_size_t(4096))
        assert out.raw[:count] == wire
        assert library.peer_decode(wire, ctypes.c_size_t(len(wire)), out, ctypes.c_size_t(4096)) == len(data)
        assert out.raw[: len(data)] == data
        exact = ctypes.c_size_t(len(data) + 4)
        assert library.peer_decode(wire, ctypes.c_size_t(len(wire)), out, exact) == len(data)
        short = ctypes.c_size_t(len(data) + 3)
        assert library.peer_decode(wire, ctypes.c_size_t(len(wire)), out, short) == -1
        assert library.peer_encode(data, ctypes.c_size_t(len(data)), out, ctypes.c_size_t(len(data) + 4)) == 0
        for at in range(0, len(wire) - 1, 7):
            spoilt = wire[:at] + bytes([wire[at] ^ 0x10]) + wire[at + 1 :]
            assert library.peer_decode(spoilt, ctypes.c_size_t(len(spoilt)), out, ctypes.c_size_t(4096)) == -1


def test_python_frames() -> None:
    for case in load("link_frames"):
        frame = Frame(**case["fields"], payload=bytes.fromhex(case["payload"]))
        assert encode(frame).hex() == case["wire"]
        assert parse(bytes.fromhex(case["wire"])[:-1]) == frame


def test_python_messages() -> None:
    cases = load("link_messages")
    assert sorted(case["type"] for case in cases) == sorted(m.MESSAGES)
    for case in cases:
        kind = m.MESSAGES[case["type"]]
        assert kind.__name__ == case["name"]
        fields = {k: bytes.fromhex(v) if isinstance(v, str) else v for k, v in case["fields"].items()}
        message = kind(**fields)
        assert message.pack().hex() == case["bytes"]
        assert m.parse(case["type"], bytes.fromhex(case["bytes"])) == message
        with pytest.raises(ProtocolError, match="bytes"):
            m.parse(case["type"], bytes.fromhex(case["bytes"])[: case["header_bytes"] - 1])
    with pytest.raises(ProtocolError, match="0x7f"):
        m.parse(0x7F, bytes(16))


def test_c_knows_the_header_of_every_message(peer: ctypes.CDLL) -> None:
    for case in load("link_messages"):
        assert peer.tlc_message_header_bytes(case["type"]) == case["header_bytes"], case["name"]


def test_c_frames_are_those_of_the_vectors(tmp_path: Path) -> None:
    """What the C endpoint says in a session, field by field, re-encoded by the rules of the vectors."""
    twin = SmallTwin(build_twin(tmp_path))
    link = Link(random32=lambda: 0xCAFE0001)
    link.open(0)
    decoder = Decoder(9000)
    wires: list[bytes] = []
    link_messages: list[m.Message] = []
    for now in range(1, 40):
        data = link.output(now)
        while data:
            data = data[twin.receive(data) :]
        twin.poll(now)
        said = twin.send(65536)
        wires += [w + b"\0" for w in said.split(b"\0")[:-1]]
        link.receive(said, now)
        link_messages += [m.parse(r.type, r.payload) for r in link.messages]
        link.messages.clear()
        if now == 10:
            link.send(0x11, Stream.CONTROL, m.Welcome(request=9, token=77, bundle_hash=HASH).pack())
            link.send(0x28, Stream.CONTROL, m.GetStats(request=10, round=1, step=2, batch=3).pack())
    frames = [f for w in wires for f in decoder.feed(w)]
    assert decoder.bad == 0 and [encode(f) for f in frames] == wires
    counters = [f.counter for f in frames if f.type in range(5, 256)]
    assert counters == list(range(len(counters)))
    accept = next(f for f in frames if f.type == 3)
    assert accept.payload[:4] == struct.pack("<I", 0xCAFE0001)
    assert (accept.credit, accept.sequence, accept.acknowledge, accept.selective) == (0, 0, 0, 0)
    hello, done, stats = (x for x in link_messages)
    assert isinstance(hello, m.Hello) and hello.bundle_hash == HASH and hello.param_bytes == 100
    assert isinstance(done, m.Done) and (done.request, done.of) == (9, 0x11)
    assert isinstance(stats, m.Stats) and (stats.request, stats.round, stats.step, stats.batch) == (10, 1, 2, 3)


# ---- whatever comes in ----


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=400), max_size=20))
def test_decoder_takes_anything(pieces: list[bytes]) -> None:
    decoder = Decoder(1000)
    for piece in pieces:
        decoder.feed(piece)
        assert len(decoder._rest) <= 1000
    good = encode(Frame(40, session=1, length=3, payload=b"abc"))
    assert decoder.feed(b"\0" + good)[-1].payload == b"abc"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1056), st.binary(max_size=64)), max_size=30))
def test_decoder_skips_what_is_too_long(runs: list[tuple[int, bytes]]) -> None:
    decoder = Decoder(500)
    for length, noise in runs:
        decoder.feed(b"\x05" * length + noise)
        assert len(decoder._rest) <= 500


FRAMES = st.builds(
    Frame,
    type=st.integers(0, 255),
    stream=st.integers(0, 15),
    flags=st.integers(0, 15),
    credit=st.integers(0, 0xFFFFFF),
    counter=st.integers(0, 0xFFFF),
    session=st.sampled_from([0, 5, 6]),
    sequence=st.sampled_from([0, 1, 2, 31, 32, 33, 0xFFFF]),
    acknowledge=st.sampled_from([0, 1, 2, 0x8000, 0xFFFF]),
    selective=st.integers(0, 0xFFFFFFFF),
    message=st.sampled_from([0, 1, 2, 3, 64, 0xFFFF]),
    offset=st.sampled_from([0, 1, 5, 100, 0xFFFFFF]),
    length=st.sampled_from([0, 1, 5, 10, 100, 4 << 20, 0xFFFFFF]),
    payload=st.binary(max_size=64),
    version=st.sampled_from([1, 1, 1, 2]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(FRAMES, max_size=40))
def test_host_takes_any_frame(frames: list[Frame]) -> None:
    link = Link(random32=lambda: 3)
    link.open(0)
    link.output(0)
    body = struct.pack("<IIHBBIIHH", 3, 1, 256, 8, 0, 5000, 5000, 64, 1000)
    link.receive(encode(Frame(3, session=5, payload=body)), 1)
    assert link.session == 5
    link.send(33, Stream.BULK, bytes(600))
    now = 1.0
    for frame in frames:
        now += 3
        link.receive(encode(frame), now)
        link.output(now)
        assert link.deadline(now) >= 0
        for message in link.messages:
            with contextlib.suppress(ProtocolError):
                m.parse(message.type, message.payload)
        link.messages.clear()
        if link._session is not None:
            assert link._session.held <= 0x7FFFFF


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 255), st.binary(max_size=300))
def test_messages_take_any_bytes(kind: int, payload: bytes) -> None:
    try:
        message = m.parse(kind, payload)
    except ProtocolError:
        return
    again = m.parse(kind, message.pack())
    assert again.pack() == message.pack()  # a NaN field is equal to nothing


def test_crc_is_zlibs() -> None:
    for case in load("link_encodings"):
        assert zlib.crc32(bytes.fromhex(case["data"])) == int(case["crc32"], 16)
