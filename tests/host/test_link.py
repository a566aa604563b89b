# SPDX-License-Identifier: Apache-2.0
"""The link: C against Python over channels that lose, corrupt, repeat, reorder, cut and delay."""

from __future__ import annotations

import ctypes
import random
from collections import deque
from typing import Any

import pytest
from link_simulator import Channel, Device, World, build_peer

from tlc_host.link import EndReason, Frame, Link, State, Stream
from tlc_host.link.frame import encode, parse


@pytest.fixture(scope="session")
def peer(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return build_peer(tmp_path_factory.mktemp("peer"))


def world(peer: ctypes.CDLL, seed: int, faults: dict[str, float] | None = None, **device: int) -> World:
    rng = random.Random(seed)
    host = Link(random32=lambda: rng.getrandbits(32))
    down, up = (Channel(random.Random(seed * 2 + i), **(faults or {})) for i in range(2))
    return World(host, Device(peer, **device), down, up)


def exchange(w: World, rng: random.Random, count: int, largest: int, limit: float) -> None:
    """``count`` messages each way, on two streams; every one must arrive once, whole and in its stream's order."""
    sent: dict[str, dict[int, list[tuple[int, bytes]]]] = {"device": {}, "host": {}}
    for direction, queues in (("device", w.to_device), ("host", w.to_host)):
        for stream, most in ((Stream.CONTROL, 64), (Stream.BULK, largest)):
            if direction == "host" and stream == Stream.CONTROL:
                most = 120
            messages = [
                (rng.randrange(16, 256), rng.randbytes(rng.choice([1, 16, most, rng.randint(1, most)])))
                for _ in range(count // 2)
            ]
            sent[direction][stream] = messages
            queues[stream] = deque(messages)
    w.run(2 * (count // 2), 2 * (count // 2), limit)
    for direction, got in (("device", w.at_device), ("host", w.at_host)):
        for stream in (Stream.CONTROL, Stream.BULK):
            assert [(t, p) for t, s, p in got if s == stream] == sent[direction][stream]
    for _ in range(3000):  # nothing may come after
        w.step()
    assert len(w.at_device) == len(w.at_host) == 2 * (count // 2)


FAULTS: dict[str, dict[str, float]] = {
    "clean": {},
    "loss": {"loss": 0.1},
    "heavy-loss": {"loss": 0.3},
    "corrupt": {"bit_error": 1e-4},
    "duplicate": {"duplicate": 0.3},
    "reorder": {"reorder": 0.3},
    "truncate": {"truncate": 0.1},
    "garbage": {"garbage": 0.1},
    "all": {"loss": 0.1, "bit_error": 3e-5, "duplicate": 0.1, "reorder": 0.1, "truncate": 0.05, "garbage": 0.05},
}


@pytest.mark.parametrize("faults", FAULTS)
@pytest.mark.parametrize(("window", "fragment", "messages"), [(8, 256, 2), (2, 128, 1), (32, 1024, 2)])
def test_every_message_arrives_once(peer: ctypes.CDLL, faults: str, window: int, fragment: int, messages: int) -> None:
    w = world(peer, 7, FAULTS[faults], window=window, fragment=fragment, messages=messages)
    w.connect()
    exchange(w, random.Random(3), 120, 3000, 400_000)
    if faults == "clean":
        assert w.device.counters["resent"] == w.host.counters.resent == 0
    if not {"bit_error", "truncate", "garbage"} & FAULTS[faults].keys():
        assert w.device.counters["bad"] == w.host.counters.bad == 0


def test_long_run_wraps_every_number(peer: ctypes.CDLL) -> None:
    """More bulk bytes than the 24 bits of credit can count, more frames than 16 bits."""
    w = world(peer, 11, {"loss": 0.02, "delay_ms": 1.0, "byte_ms": 0.0005}, window=32, fragment=4096, max_message=65000)
    w.connect()
    body = random.Random(1).randbytes(65000)
    count = 300  # 19.5 MB: the charge of each is 65,000
    w.to_device[Stream.BULK] = deque((20 + i % 50, body) for i in range(count))
    w.to_host[Stream.CONTROL] = deque((20 + i % 50, b"x") for i in range(70_000))
    w.run(count, 70_000, 2_000_000)
    assert [m[0] for m in w.at_device] == [20 + i % 50 for i in range(count)]
    assert all(m[2] == body for m in w.at_device)
    assert [m[0] for m in w.at_host] == [20 + i % 50 for i in range(70_000)]


def test_refused_places_are_asked_again(peer: ctypes.CDLL) -> None:
    w = world(peer, 13, {"loss": 0.05}, refuse=3)
    w.connect()
    exchange(w, random.Random(5), 100, 3000, 400_000)
    assert w.device.counters["refused"] > 0


def test_device_reset_is_noticed(peer: ctypes.CDLL) -> None:
    w = world(peer, 17)
    w.connect()
    exchange(w, random.Random(5), 20, 500, 60_000)
    w.host.events.clear()
    w.device.reset(boot=2)
    for _ in range(3000):
        w.step()
        if w.host.events:
            break
    assert w.host.state is State.ENDED
    assert w.host.events[0].reason is EndReason.UNKNOWN
    w.at_device.clear()
    w.at_host.clear()
    w.connect()
    assert w.host.boot == 2
    exchange(w, random.Random(6), 20, 500, 60_000)


def test_host_restart_opens_a_new_session(peer: ctypes.CDLL) -> None:
    w = world(peer, 19)
    w.connect()
    before = w.host.session
    old = w.host
    w.to_device[Stream.BULK] = deque([(30, bytes(5000))])
    for _ in range(8):
        w.step()  # in the middle of a message
    rng = random.Random(23)
    w.host = Link(random32=lambda: rng.getrandbits(32))
    w.to_device.clear()
    w.connect()
    assert w.host.session != before
    exchange(w, random.Random(6), 20, 500, 60_000)
    # the host that was superseded is told so
    old.receive(b"", w.now)
    w.device.receive(encode(Frame(5, session=before)), w.now)
    old.receive(w.device.output(w.now), w.now)
    assert old.state is State.ENDED
    assert old.events[-1].reason is EndReason.SUPERSEDED


def test_a_host_that_was_silent_too_long_was_not_superseded(peer: ctypes.CDLL) -> None:
    """Nobody took the device over: the host is told that the session is gone, and may open another."""
    w = world(peer, 37)
    w.connect()
    before = w.host.session
    for _ in range(30):  # the host's process hangs for 15 s, the device is polled
        w.now += 500
        w.device.output(w.now)
    assert w.device.session == 0
    w.device.receive(encode(Frame(5, session=before)), w.now)
    w.host.receive(w.device.output(w.now), w.now)
    assert w.host.events[-1].reason is EndReason.UNKNOWN


def test_goodbye_ends_the_session(peer: ctypes.CDLL) -> None:
    w = world(peer, 29)
    w.connect()
    w.host.close()
    for _ in range(50):
        w.step()
    assert w.device.session == 0


def test_another_version_is_named(peer: ctypes.CDLL) -> None:
    device = Device(peer)
    device.output(0)
    host = Link()
    host.open(0)
    device.receive(encode(Frame(2, version=9, payload=bytes(24))), 0)
    host.receive(device.output(1), 1)
    assert host.state is State.ENDED
    assert "device speaks link versions 1 to 1, this host version 1" in host.events[0].detail


def test_late_copies_of_an_old_session_change_nothing(peer: ctypes.CDLL) -> None:
    """All that two hosts ever sent is delivered again, in any order; the session and its messages stay as they are."""
    w = world(peer, 31)
    record: list[bytes] = []
    real = w.down.put

    def put(wire: bytes, now: float) -> None:
        record.append(wire)
        real(wire, now)

    w.down.put = put  # type: ignore[method-assign]
    w.connect()
    exchange(w, random.Random(5), 20, 500, 60_000)
    rng = random.Random(23)
    w.host = Link(random32=lambda: rng.getrandbits(32))
    w.at_device.clear()
    w.at_host.clear()
    w.connect()
    exchange(w, random.Random(6), 20, 500, 60_000)
    session = w.device.session
    before = len(w.at_device)
    random.Random(2).shuffle(record)
    for wire in record:
        w.device.receive(wire, w.now)
        w.step()
    assert w.device.session == session
    assert len(w.at_device) == before


def test_silence_ends_a_session(peer: ctypes.CDLL) -> None:
    w = world(peer, 37)
    w.connect()
    w.down.loss = w.up.loss = 1.0
    for _ in range(11_000):
        w.step()
    assert w.host.state is State.ENDED
    assert "nothing heard" in w.host.events[-1].detail
    assert w.device.session == 0


def test_garbage_then_a_session(peer: ctypes.CDLL) -> None:
    w = world(peer, 41)
    rng = random.Random(5)
    for _ in range(300):
        noise = rng.randbytes(rng.randrange(1, 2000))
        w.device.receive(noise, w.now)
        w.host.receive(noise, w.now)
    w.connect()
    exchange(w, random.Random(6), 20, 500, 60_000)


def test_sizes_beyond_the_limits(peer: ctypes.CDLL) -> None:
    w = world(peer, 43, max_message=1000)
    w.connect()
    with pytest.raises(ValueError, match="1 to 1000 bytes"):
        w.host.send(32, Stream.BULK, bytes(1001))
    with pytest.raises(ValueError, match="1 to 64 bytes"):
        w.host.send(32, Stream.CONTROL, bytes(65))
    # a peer that does not keep to them
    session = w.host.session
    for length, offset, payload in [
        (0xFFFFFF, 0, bytes(100)),
        (0xFFFFFF, 0xFFFFF0, bytes(15)),
        (10, 0, bytes(100)),
        (100, 0xFFFF, b"x"),
        (0, 0, b""),
        (1001, 1000, b"x"),
    ]:
        for stream in range(16):
            frame = Frame(32, stream=stream, session=session, sequence=0, offset=offset, length=length, payload=payload)
            w.device.receive(encode(frame), w.now)
            frame.sequence = w.host._session.take_sequence if w.host._session else 0
            if length != 0xFFFFFF:
                frame.length = min(length, 1000)
            w.host.receive(encode(frame), w.now)
    assert w.device.next() is None
    exchange(w, random.Random(6), 20, 900, 60_000)


def test_a_log_line_does_not_wait_for_a_tensor(peer: ctypes.CDLL) -> None:
    w = world(peer, 47, {"byte_ms": 0.1}, max_message=60000)
    w.connect()
    w.to_host[Stream.BULK] = deque([(33, bytes(40000))])
    for _ in range(200):
        w.step()
    assert not w.at_host
    w.to_host[Stream.LOG] = deque([(46, b"hello")])
    for _ in range(300):
        w.step()
    assert [m[2] for m in w.at_host] == [b"hello"]
    w.run(0, 2, 60_000)


@pytest.fixture(scope="session")
def wide_peer(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """With buffers for eight messages each way."""
    return build_peer(tmp_path_factory.mktemp("wide"), "-DTLC_LINK_INCOMING=8", "-DTLC_LINK_OUTGOING=10")


@pytest.mark.parametrize(
    ("loss", "bit_error", "best", "size"),
    [
        (0.0, 0.0, 1000, 1000),
        (0.1, 0.0, 1000, 1000),
        (0.3, 0.0, 1000, 1000),
        (0.3, 0.0, 1024, 8000),
        (0.0, 1e-4, 256, 1000),
    ],
)
def test_goodput(wide_peer: ctypes.CDLL, loss: float, bit_error: float, best: int, size: int) -> None:
    """921,600 baud, both ways at once, against the selective-repeat bound at the best fragment size; without faults
    96% of the line."""
    byte_ms = 10 / 921.6
    faults = {"loss": loss, "bit_error": bit_error, "delay_ms": 1.0, "byte_ms": byte_ms}
    w = world(wide_peer, 3, faults, window=32, fragment=1024, messages=8, max_message=8192)
    w.tick_ms = 0.1
    w.connect()
    begin = w.now
    count = 800_000 // size
    for queues in (w.to_host, w.to_device):
        queues[Stream.BULK] = deque((40, bytes(range(1, 251)) * (size // 250)) for _ in range(count))
    w.run(count, count, 100_000)
    share = count * size * byte_ms / (w.now - begin)
    wire = best + 28 + 4 + 6
    bound = (1 - loss) * (1 - bit_error) ** (8 * wire) * best / wire
    assert share >= (0.955 if not loss + bit_error else 0.85 * bound), (share, bound)


@pytest.mark.parametrize("window", [4, 8, 32])
@pytest.mark.parametrize(("asked", "answered"), [(1000, 1000), (1000, 20), (20, 1000)])
def test_a_queue_before_a_clean_line_is_no_loss(wide_peer: ctypes.CDLL, window: int, asked: int, answered: int) -> None:
    """Drivers buffer 12 KB: after short messages that came back at once, the round trip is suddenly 130 ms."""
    w = world(wide_peer, 4, {"delay_ms": 1.0, "byte_ms": 10 / 921.6}, window=window, fragment=1024, messages=8)
    w.down.buffer, w.up.buffer = 12288, 2048
    w.connect()
    w.to_device[Stream.CONTROL], w.to_host[Stream.CONTROL] = deque([(40, b"short")]), deque([(40, b"short")])
    w.run(1, 1, 1000)
    count = 200
    w.to_device[Stream.BULK] = deque((41, bytes(asked)) for _ in range(count))
    w.to_host[Stream.BULK] = answers = deque[tuple[int, bytes]]()
    sent = w.host.counters.frames_out, w.device.counters["frames_out"]
    answers_due = 0
    while len(w.at_host) < 1 + count:
        w.step()
        assert w.now < 20_000
        while answers_due < len(w.at_device) - 1:
            answers.append((42, bytes(answered)))
            answers_due += 1
    resent = w.host.counters.resent, w.device.counters["resent"]
    assert max(resent) <= 2, resent
    for frames in (w.host.counters.frames_out - sent[0], w.device.counters["frames_out"] - sent[1]):
        assert frames < 2.1 * count  # a message in a frame of its own, and at most one acknowledgement for each


@pytest.mark.parametrize(("loss", "most_ms"), [(0.0, 600), (0.1, 4_000), (0.3, 15_000)])
def test_control_messages_follow_each_other(peer: ctypes.CDLL, loss: float, most_ms: float) -> None:
    """A device takes them in order and refuses what comes after a lost one: that waits for one time-out, not for many."""
    w = world(peer, 5, {"loss": loss})
    w.connect()
    begun = w.now
    w.to_device[Stream.CONTROL] = deque((40, b"step %d" % i) for i in range(200))
    w.run(200, 0, 100_000)
    assert w.now - begun < most_ms


def test_the_peers_time_outs_do_not_lengthen_ours(peer: ctypes.CDLL) -> None:
    """A small window on a line that loses most: acknowledgements wait for the other side's time-out, and its for ours."""
    faults = {"loss": 0.3, "bit_error": 1e-4, "duplicate": 0.3, "reorder": 0.3, "truncate": 0.1, "garbage": 0.1}
    w = world(peer, 6, faults, window=2, fragment=128, messages=2)
    w.connect()
    begun = w.now
    for queues in (w.to_device, w.to_host):
        queues[Stream.BULK] = deque((41, bytes(range(200))) for _ in range(100))
    w.run(100, 100, 1_000_000)
    assert w.now - begun < 60_000


def test_ram(peer: ctypes.CDLL) -> None:
    """On 64 bits; a 32-bit CPU needs less. What PROTOCOL.md says holds."""
    peer.peer_link_bytes.restype = ctypes.c_size_t
    assert peer.peer_link_bytes(4, 256) < 2048


def test_no_frame_is_32_above_the_oldest(peer: ctypes.CDLL) -> None:
    """One fragment is lost again and again while all others arrive: neither side may run ahead of the bitmap."""
    for direction in ("down", "up"):
        w = world(peer, 53, window=32, fragment=128, messages=2)
        w.connect()
        channel: Channel = getattr(w, direction)
        queue = w.to_device if direction == "down" else w.to_host
        real, lost, seen = channel.put, [0], [0]

        def put(wire: bytes, now: float, real: Any = real, lost: list[int] = lost, seen: list[int] = seen) -> None:
            frame = parse(wire[:-1])
            assert frame is not None
            if frame.type >= 16:
                seen[0] = max(seen[0], frame.sequence)
                if frame.sequence == 3 and lost[0] < 6:
                    lost[0] += 1
                    return
            real(wire, now)

        channel.put = put  # type: ignore[method-assign]
        queue[Stream.BULK] = deque((41, bytes(8000)) for _ in range(3))
        while lost[0] < 6:
            w.step()
        assert seen[0] == 3 + 31, direction
        w.run(3 if direction == "down" else 0, 3 if direction == "up" else 0, 60_000)


def test_busy_is_waited_for(peer: ctypes.CDLL) -> None:
    """A device that computes for a minute says so, is waited for, and is not flooded; then all goes on."""
    w = world(peer, 59)
    w.connect()
    w.device.busy(True, announce=True)
    for _ in range(20):
        w.step()
    assert w.host.peer_busy and not w.host._session.ack_pending  # type: ignore[union-attr]
    w.to_device[Stream.BULK] = deque([(40, bytes(5000))])
    session, sent = w.host.session, w.down.frames
    heard: list[bytes] = []
    w.up.loss = 1.0
    for _ in range(6000):  # nobody reads and nobody writes there
        w.now += 10
        while w.host.state is State.OPEN and (wire := w.host.output(w.now, 1)):
            heard.append(wire)
    assert w.host.session == session, "the session went on"
    assert len(heard) < 8 + 60 * 4, "two frames and a question a second, at most"
    for wire in heard[:8]:
        w.device.receive(wire, w.now)
    w.up.loss = 0.0
    w.device.busy(False)
    w.run(1, 0, 10_000)
    assert w.host.session == w.device.session == session and not w.host.peer_busy
    assert w.down.frames > sent


def test_a_busy_device_that_dies_is_given_up(peer: ctypes.CDLL) -> None:
    w = world(peer, 61)
    w.connect()
    w.device.busy(True, announce=True)
    w.run(0, 0, 1)
    for _ in range(20):
        w.step()
    w.up.loss = 1.0
    for _ in range(605):
        w.now += 1000 - 1
        w.host.output(w.now, 1)  # a host that listens all the time
        w.now += 1
        w.host.output(w.now, 1)
    assert w.host.state is State.ENDED and "nothing heard for 600 s" in w.host.events[-1].detail


def test_a_whole_message_is_work_to_come(peer: ctypes.CDLL) -> None:
    w = world(peer, 67)
    w.connect()
    assert w.host.send(40, Stream.BULK, bytes(10))
    for _ in range(30):  # the device acknowledges it, and does not look at it
        w.now += 1
        for wire in w.down.get(w.now):
            w.device.receive(wire, w.now)
        for wire in w.up.get(w.now):
            w.host.receive(wire, w.now)
        while wire := w.host.output(w.now, 1):
            w.down.put(wire, w.now)
        while wire := w.device.output(w.now):
            w.up.put(wire, w.now)
    assert w.host.unacknowledged == 0 and w.host.peer_busy
    for _ in range(30):
        w.step()
    assert not w.host.peer_busy, "it was taken"


def test_time_that_nobody_listened_is_no_silence(peer: ctypes.CDLL) -> None:
    """A side that slept for a minute has not been left alone for a minute."""
    for sleeper in ("device", "host"):
        w = world(peer, 71)
        w.connect()
        for _ in range(20):
            w.step()
        session = w.host.session
        w.now += 60_000
        if sleeper == "device":
            w.host._polled_ms = w.host._session.heard_ms = w.now  # type: ignore[union-attr]
        else:
            w.device.receive(encode(Frame(5, session=session, counter=9)), w.now)
        w.to_device[Stream.BULK] = deque([(40, bytes(5000))])
        w.run(1, 0, 10_000)
        assert w.host.session == w.device.session == session
