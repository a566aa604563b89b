# SPDX-License-Identifier: Apache-2.0
"""The fuzzers in seconds: what the corpora hold, and a few thousand inputs more; and any bytes into the host's readers."""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fuzz import HARNESSES, HERE, run
from tlc.errors import ProtocolError
from tlc_host import messages as m
from tlc_host.link import Frame, Link, Offer, Stream
from tlc_host.link.frame import Decoder, FrameType, encode, parse


@pytest.mark.skipif(shutil.which("clang") is None, reason="libFuzzer is clang's")
@pytest.mark.parametrize("name", HARNESSES)
def test_nothing_breaks_a_rule(name: str, tmp_path: Path) -> None:
    assert (HERE / "corpus" / f"{name}.bin").stat().st_size > 100
    done, covered, _ = run(name, 300 if name == "device" else 1500, 1, tmp_path)
    assert done >= 300 and covered > 20


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=400), max_size=6))
def test_any_bytes_into_the_hosts_decoder(pieces: list[bytes]) -> None:
    decoder = Decoder(600)
    for piece in pieces:
        for frame in decoder.feed(piece):
            assert parse(encode(frame)[:-1]) == frame
        assert len(decoder._rest) <= 600


FRAMES = st.builds(
    Frame,
    st.integers(0, 255),
    stream=st.integers(0, 15),
    flags=st.integers(0, 15),
    credit=st.integers(0, 0xFFFFFF),
    sequence=st.integers(0, 40),
    acknowledge=st.integers(0, 4),
    selective=st.integers(0, 0xFFFFFFFF),
    message=st.integers(0, 70),
    offset=st.integers(0, 300) | st.integers(0, 0xFFFFFF),
    length=st.integers(0, 300) | st.integers(0, 0xFFFFFF),
    payload=st.binary(max_size=200),
    version=st.integers(0, 2),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(FRAMES, max_size=12), st.lists(st.integers(0, 3000), max_size=12))
def test_any_frames_into_the_hosts_end(frames: list[Frame], waits: list[int]) -> None:
    link = Link(max_message=5000, random32=random.Random(1).randrange(1 << 32).__int__)
    link.open(0)
    link.output(0)
    link.receive(encode(Frame(FrameType.ACCEPT, session=7, payload=Offer(link._nonce).pack())), 0)
    assert link.session == 7
    link.send(40, Stream.BULK, bytes(900))
    now = 0.0
    for frame, wait in zip(frames, waits, strict=False):
        frame.session = 7
        now += wait
        link.receive(encode(frame), now)
        for wire in link.output(now).split(b"\0")[:-1]:
            assert parse(wire) is not None
        held = link._session.held if link._session else 0
        assert held <= 0x7FFFFF
        while link.messages:
            assert 1 <= len(link.messages.popleft().payload) <= 5000


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 255), st.binary(max_size=200))
def test_any_bytes_as_a_message(kind: int, data: bytes) -> None:
    try:
        message = m.parse(kind, data)
    except ProtocolError:
        return
    assert m.parse(kind, message.pack()) == message or message.pack() != b""
