# SPDX-License-Identifier: Apache-2.0
"""The host's end of the link (PROTOCOL.md, sections 5 to 8): bytes in, messages out, and back.

No input or output happens here and no clock is read: the caller hands over bytes and the time, in milliseconds.
Section numbers below are those of PROTOCOL.md.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from random import SystemRandom

from tlc_host.link.frame import (
    HEADER_BYTES,
    MAX_FRAGMENT,
    MIN_FRAGMENT,
    Decoder,
    EndReason,
    Flag,
    Frame,
    FrameType,
    Offer,
    Stream,
    encode,
)

__all__ = ["Counters", "Link", "LinkEvent", "Message", "State"]

ACK_DELAY_MS = 5
INITIAL_RTO_MS = 250.0
MIN_RTO_MS = 20.0
MAX_RTO_MS = 1000.0
MAX_BACKOFF = 5
HEARD_BACKOFF = 1
SURE = 8
STUBBORN = 4
REORDER = 3
REMEMBER = 64
SPAN = 32
CREDIT = 0x7FFFFF
MAX_TAKEN = 4 << 20
QUEUE = 64
ARMS = 6
WIDE = 8
MOST_SEEN = 126
PROBE_SEEN = 62
PROBE_EVERY = 32
FIRST_BYTES = 1024
EPOCH = 32
LONG_EPOCH_MS = 60_000
FRAME_OVERHEAD = 40
BULK_AHEAD = 64
BUSY_MS = 600_000
GAP_MS = 1000

_RANK = (Stream.CONTROL, Stream.LOG, Stream.BULK)
_STREAMS = tuple(Stream)
# as plain numbers: an enumeration's operators cost more than all the rest of a frame
_ACK_NOW, _BUSY, _UNKNOWN = int(Flag.ACK_NOW), int(Flag.BUSY), 15 & ~int(Flag.ACK_NOW | Flag.BUSY)
_ANNOUNCE, _ACCEPT, _END = int(FrameType.ANNOUNCE), int(FrameType.ACCEPT), int(FrameType.END)
_ACK, _MESSAGE = int(FrameType.ACK), int(FrameType.MESSAGE)
_LOG, _BULK = int(Stream.LOG), int(Stream.BULK)


def _before16(a: int, b: int) -> int:
    """a - b in serial-number arithmetic (RFC 1982)."""
    return ((a - b + 0x8000) & 0xFFFF) - 0x8000


class State(Enum):
    """Where the session is."""

    IDLE = "idle"
    OPENING = "opening"
    OPEN = "open"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Message:
    """A whole message: its type, stream and bytes."""

    type: int
    stream: Stream
    payload: bytes


@dataclass(frozen=True, slots=True)
class LinkEvent:
    """Something that happened to the session: ``opened``, or why it ended."""

    opened: bool
    reason: EndReason | None = None
    detail: str = ""


@dataclass(slots=True)
class Counters:
    """What the link has seen since it was made."""

    frames_in: int = 0
    frames_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    bad: int = 0
    repeated: int = 0
    refused: int = 0
    resent: int = 0
    sessions: int = 0
    rtt_ms: float = 0.0


@dataclass(slots=True)
class _Outgoing:
    type: int
    stream: Stream
    number: int
    payload: memoryview
    next: int = 0
    in_flight: int = 0


@dataclass(slots=True)
class _Sent:
    message: _Outgoing
    offset: int
    bytes: int
    sequence: int
    counter: int = 0
    sent_ms: float = 0.0
    tries: int = 0
    lost: bool = False
    late: bool = False
    arm: int = 0


@dataclass(slots=True)
class _Incoming:
    type: int
    length: int
    data: bytearray
    received: int = 0


@dataclass(slots=True)
class _Session:
    """Everything that begins anew with a session."""

    number: int
    peer: Offer
    sent: dict[int, _Sent] = field(default_factory=dict)
    lost: int = 0
    look_ms: float = 0.0
    acked: bool = False
    queues: dict[Stream, deque[_Outgoing]] = field(default_factory=lambda: {s: deque() for s in Stream})
    send_number: dict[Stream, int] = field(default_factory=lambda: dict.fromkeys(Stream, 0))
    send_sequence: int = 0
    counter: int = 0
    acked_counter: int | None = None
    credit_limit: int = 0
    credit_used: int = 0
    blocked: bool = False
    progress_ms: float = 0.0
    samples: int = 0
    srtt: float = 0.0
    rttvar: float = 0.0
    backoff: int = 0
    reordered: int = 0
    lossy: int = 0
    hail: bool = False
    shut_ms: float | None = None
    epoch_ms: float = 0.0
    epoch_shut_ms: float = 0.0
    epoch_bytes: int = 0
    epoch_frames: int = 0
    idle_bytes: float = 0.0
    least_ms: float = math.inf
    arrived: list[float] = field(default_factory=lambda: [1.0] * ARMS)
    seen: list[int] = field(default_factory=lambda: [0] * ARMS)
    arm: int = 0
    probe: int = 0
    incoming: dict[Stream, dict[int, _Incoming]] = field(default_factory=lambda: {s: {} for s in Stream})
    take_number: dict[Stream, int] = field(default_factory=lambda: dict.fromkeys(Stream, 0))
    held: int = 0
    take_sequence: int = 0
    take_bitmap: int = 0
    grant: int = CREDIT
    ack_pending: int = 0
    ack_now: bool = True
    ack_ms: float = 0.0
    heard_ms: float = 0.0
    said_ms: float = 0.0
    busy: bool = False


class Link:
    """One end of a link, the host's.

    Args:
        fragment: largest payload of a frame, both ways; the device's limit holds as well.
        window: frames of ours that may be unacknowledged; 2 to 32.
        max_message: largest message that we take.
        keepalive_ms: silence of ours after which we say something.
        dead_ms: silence of the device after which the session is given up; ten minutes for one that said that it is
            busy.
        random32: where nonces come from; for tests.
    """

    def __init__(
        self,
        *,
        fragment: int = 4096,
        window: int = 32,
        max_message: int = MAX_TAKEN,
        keepalive_ms: int = 1000,
        dead_ms: int = 10000,
        random32: Callable[[], int] | None = None,
    ) -> None:
        self.fragment = min(fragment, MAX_FRAGMENT)
        self.window = window
        self.max_message = min(max_message, MAX_TAKEN)
        self.keepalive_ms = keepalive_ms
        self.dead_ms = dead_ms
        self.state = State.IDLE
        self.counters = Counters()
        self.events: deque[LinkEvent] = deque()
        self.messages: deque[Message] = deque()
        self.faults: deque[bytes] = deque()
        self.boot = 0
        self._random32 = random32 or (lambda: SystemRandom().getrandbits(32))
        wire = HEADER_BYTES + self.fragment + 4
        self._decoder = Decoder(wire + wire // 254 + 1)
        self._session: _Session | None = None
        self._nonce = 0
        self._open_ms = 0.0
        self._open_tries = 0
        self._end: tuple[int, EndReason] | None = None
        self._polled_ms = 0.0

    # ---- what the caller says ----

    @property
    def session(self) -> int:
        """The session's number; 0: none."""
        return self._session.number if self._session else 0

    @property
    def peer_busy(self) -> bool:
        """Whether the device has said that it computes, and may be silent meanwhile."""
        return self._session is not None and self._session.busy

    @property
    def peer_fragment(self) -> int:
        """Largest payload of a frame to the device."""
        return min(self.fragment, self._session.peer.fragment) if self._session else self.fragment

    def open(self, now: float) -> None:
        """Begins a session (anew); OPEN is repeated until the device accepts or ``close`` is called."""
        self._session = None
        self.messages.clear()
        self.state = State.OPENING
        self._nonce = self._random32() or 1
        self._open_ms = now
        self._open_tries = 0

    def close(self) -> None:
        """Ends the session and tells the device."""
        if self._session:
            self._end = (self._session.number, EndReason.CLOSED)
        self._session = None
        self.state = State.IDLE

    @property
    def peer_max_message(self) -> int:
        """Largest bulk message that the device takes; 0: no session."""
        return self._session.peer.max_message if self._session else 0

    def room(self, stream: Stream = Stream.BULK) -> int:
        """How many messages can be queued now."""
        return QUEUE - len(self._session.queues[stream]) if self._session else 0

    @property
    def unacknowledged(self) -> int:
        """Messages queued or on their way."""
        session = self._session
        if session is None:
            return 0
        queued = {id(m) for q in session.queues.values() for m in q} | {id(s.message) for s in session.sent.values()}
        return len(queued)

    def send(self, kind: int, stream: Stream, payload: bytes) -> bool:
        """Queues a message.

        Returns:
            False when the queue is full or there is no session: nothing was taken.

        Raises:
            ValueError: the device does not take a message of that size.
        """
        session = self._session
        if session is None:
            return False
        limit = session.peer.max_message if stream == Stream.BULK else min(session.peer.control, self.peer_fragment)
        if not payload or len(payload) > limit:
            raise ValueError(f"a message has 1 to {limit} bytes on this stream, this one {len(payload)}")
        if kind < FrameType.MESSAGE or kind > 255:
            raise ValueError(f"message types are 16 to 255, not {kind}")
        queue = session.queues[stream]
        if len(queue) >= QUEUE:
            return False
        queue.append(_Outgoing(kind, stream, session.send_number[stream], memoryview(bytes(payload))))
        session.send_number[stream] = (session.send_number[stream] + 1) & 0xFFFF
        return True

    # ---- bytes ----

    def receive(self, data: bytes, now: float) -> None:
        """Takes bytes, whatever they are; results are in ``messages``, ``events`` and ``faults``."""
        self.counters.bytes_in += len(data)
        for frame in self._decoder.feed(data):
            self._take(frame, now)
        if self._decoder.faults:
            self.faults.extend(self._decoder.faults)
            self._decoder.faults.clear()

    def transport_changed(self) -> None:
        """The bytes come by another way now: what is half received will not be completed."""
        self._decoder = Decoder(self._decoder._max)
        if self._session:
            self._session.ack_now = True

    def output(self, now: float, limit: int = 1 << 16) -> bytes:
        """What wants to go out now, about ``limit`` bytes at most; frames are never cut."""
        if self._session is not None and now - self._polled_ms > GAP_MS:  # it was we who did not listen
            self._session.heard_ms = min(now, self._session.heard_ms + now - self._polled_ms)
        self._polled_ms = now
        out: list[bytes] = []
        size = 0
        while size < limit:
            frame = self._build(now)
            if frame is None:
                break
            wire = encode(frame)
            self.counters.frames_out += 1
            size += len(wire)
            out.append(wire)
        self.counters.bytes_out += size
        return b"".join(out)

    def deadline(self, now: float) -> float:
        """Milliseconds until ``output`` may have something to say that it has not now."""
        if self._end is not None:
            return 0.0
        if self.state is State.OPENING:
            return max(0.0, self._open_ms - now)
        session = self._session
        if session is None:
            return float(self.keepalive_ms)
        times = [session.said_ms + self.keepalive_ms, session.heard_ms + self._patience_for(session)]
        if session.ack_pending or session.ack_now:
            times.append(now if session.ack_now else session.ack_ms)
        if session.sent:
            times.append(now if session.acked or session.lost else session.look_ms)
            if (
                session.lossy
                and session.shut_ms is not None
                and not session.busy
                and now - session.heard_ms <= self._rto(session, now)
            ):
                times.append(self._oldest(session).sent_ms + self._overdue_after(session))
        elif session.blocked:
            times.append(session.said_ms + self._rto(session, now))
        return max(0.0, min(times) - now)

    # ---- sending (sections 6 to 8) ----

    def _frame(self, session: _Session, now: float, kind: int, flags: int = 0) -> Frame:
        frame = Frame(
            kind,
            flags=flags,
            credit=session.grant,
            counter=session.counter,
            session=session.number,
            sequence=session.send_sequence,
            acknowledge=session.take_sequence,
            selective=session.take_bitmap,
        )
        session.counter = (session.counter + 1) & 0xFFFF
        session.ack_pending = 0
        session.ack_now = False
        session.said_ms = now
        return frame

    def _build(self, now: float) -> Frame | None:
        if self._end is not None:
            number, reason = self._end
            self._end = None
            return Frame(FrameType.END, session=number, payload=bytes([reason, 1, 1]))
        if self.state is State.OPENING:
            if now < self._open_ms:
                return None
            self._open_ms = now + min(INITIAL_RTO_MS * (1 << min(self._open_tries, 2)), MAX_RTO_MS)
            self._open_tries += 1
            offer = Offer(
                self._nonce,
                fragment=self.fragment,
                window=32,
                max_message=self.max_message,
                control=min(1024, self.fragment),
                keepalive_ms=self.keepalive_ms,
            )
            return Frame(FrameType.OPEN, payload=offer.pack())
        session = self._session
        if session is None:
            return None
        if now - session.heard_ms >= self._patience_for(session):
            self._session = None
            self.state = State.ENDED
            self.events.append(LinkEvent(False, None, f"nothing heard for {self._patience_for(session) / 1000:g} s"))
            return None
        if session.sent and (session.acked or now >= session.look_ms):
            self._find_lost(session, now)
        if session.hail:
            session.hail = False
            return self._frame(session, now, _ACK, _ACK_NOW)
        if session.lost:
            sent = next(sent for sent in session.sent.values() if sent.lost)
            self._note_sent(session, sent, now)
            return self._send(session, sent, now)
        new = self._next(session, now)
        if new is not None:
            self._note_sent(session, new, now)
            return self._send(session, new, now)
        overdue = self._overdue(session, now)
        if overdue is not None:
            return self._send(session, overdue, now)
        if session.ack_now or (session.ack_pending and now >= session.ack_ms):
            return self._frame(session, now, _ACK)
        ask = session.blocked and not session.sent and now - session.said_ms >= self._rto(session, now)
        if ask or now - session.said_ms >= self.keepalive_ms:
            if ask:
                session.backoff = min(session.backoff + 1, MAX_BACKOFF)
            return self._frame(session, now, _ACK, _ACK_NOW)
        return None

    def _send(self, session: _Session, sent: _Sent, now: float) -> Frame:
        message = sent.message
        if sent.tries:
            self.counters.resent += 1
        if sent.lost:
            sent.lost = False
            session.lost -= 1
        sent.tries += 1
        sent.sent_ms = now
        session.look_ms = min(session.look_ms, now + self._rto(session, now))
        sent.counter = session.counter
        frame = self._frame(session, now, message.type)
        frame.stream = message.stream
        frame.sequence = sent.sequence
        frame.message = message.number
        frame.offset = sent.offset
        frame.length = len(message.payload)
        frame.payload = bytes(message.payload[sent.offset : sent.offset + sent.bytes])
        return frame

    def _note_sent(self, session: _Session, sent: _Sent, now: float) -> None:
        """How long the line stays idle with each frame because the window is full, as bytes of the line.

        A round trip well above the least one is a queue before the line: then it is not idle.
        """
        if session.shut_ms is not None:
            session.epoch_shut_ms += now - session.shut_ms
            session.shut_ms = None
        session.epoch_bytes += sent.bytes + FRAME_OVERHEAD
        session.epoch_frames += 1
        if session.epoch_frames < EPOCH:
            return
        elapsed = now - session.epoch_ms
        idle = 0
        if 0 < elapsed < LONG_EPOCH_MS and session.srtt < session.least_ms * 1.5:
            shut = min(session.epoch_shut_ms, elapsed * 7 / 8)
            idle = int(session.epoch_bytes / EPOCH * shut / (elapsed - shut))
        session.idle_bytes += (idle - session.idle_bytes) / 4
        session.epoch_ms, session.epoch_shut_ms, session.epoch_bytes, session.epoch_frames = now, 0.0, 0, 0

    @staticmethod
    def _shut(session: _Session, now: float) -> None:
        if session.shut_ms is None and session.queues[Stream.BULK]:
            session.shut_ms = now

    def _next(self, session: _Session, now: float) -> _Sent | None:
        session.blocked = False
        window = min(self.window, session.peer.window)
        if len(session.sent) >= window:
            return None
        if session.sent:
            oldest = next(iter(session.sent))  # sequence numbers are entered in order
            if _before16(session.send_sequence, oldest) >= SPAN:
                self._shut(session, now)
                return None
        for stream in _RANK:
            queue = session.queues[stream]
            if not queue:
                continue
            message = queue[0]
            if stream == Stream.BULK:
                reserved = 2 if window >= WIDE else 1 if window > 2 else 0
                if len(session.sent) + reserved >= window and window > 1:
                    self._shut(session, now)
                    return None
                if message.next == 0:
                    unit = session.peer.unit
                    charge = -(-len(message.payload) // unit) * unit
                    room = (session.credit_limit - session.credit_used) & 0xFFFFFF
                    if room >= 0x800000 or room < charge:
                        session.blocked = True
                        return None
                    session.credit_used = (session.credit_used + charge) & 0xFFFFFF
            arm = session.arm
            count = len(message.payload) - message.next
            if stream == Stream.BULK:  # the others are one frame, whatever it costs
                arm = self._next_arm(session, count)
                count = min(count, self._arm_bytes(arm))
            sent = _Sent(message, message.next, count, session.send_sequence, arm=arm)
            if not session.sent:
                session.look_ms = math.inf
            session.sent[sent.sequence] = sent
            session.send_sequence = (session.send_sequence + 1) & 0xFFFF
            message.next += count
            message.in_flight += 1
            if message.next == len(message.payload):
                queue.popleft()
            return sent
        return None

    def _first_arm(self) -> int:
        """A session begins with frames of medium size: large ones have to prove themselves."""
        return next((arm for arm in range(ARMS) if self._arm_bytes(arm) <= FIRST_BYTES), 0)

    def _arm_bytes(self, arm: int) -> int:
        return max(self.peer_fragment >> arm, MIN_FRAGMENT)

    def _note_outcome(self, session: _Session, sent: _Sent, arrived: bool) -> None:
        """The fragment size that brings most bytes across.

        A smaller size is believed perfect until it was tried. What comes across of a small one is no less than of a
        large one; that a larger one has become better is found out by trying it with a frame now and then.
        """
        arm = sent.arm
        if arrived and session.arm == arm == 0 and session.arrived[0] == 1.0:
            return  # all is well: the usual case
        if sent.bytes <= self._arm_bytes(arm) // 2:
            return  # a message's short end says nothing of its size
        shares = session.arrived
        session.seen[arm] = min(session.seen[arm] + 1, MOST_SEEN)
        weight = session.seen[arm] if arm >= session.arm else min(session.seen[arm], PROBE_SEEN)
        shares[arm] += (arrived - shares[arm]) / (weight + 2)
        for smaller in range(arm + 1, ARMS):
            shares[smaller] = max(shares[smaller], shares[arm])
        sizes = [self._arm_bytes(arm) for arm in range(ARMS)]
        count = sizes.index(sizes[-1]) + 1  # below the smallest there is none
        best, chosen = 0.0, session.arm
        for arm in range(count):
            if arm < session.arm and not session.seen[arm]:
                continue  # a larger one has to be tried first
            score = shares[arm] * sizes[arm] / (sizes[arm] + FRAME_OVERHEAD + session.idle_bytes)
            if score > best * 17 / 16:  # not for nothing: shares are estimates
                best, chosen = score, arm
        session.arm = chosen

    def _next_arm(self, session: _Session, left: int) -> int:
        """A larger size is tried on a frame that is long enough to tell something of it."""
        if session.arm == 0:
            return 0
        if session.probe + 1 < PROBE_EVERY:
            session.probe += 1
            return session.arm
        if left <= self._arm_bytes(session.arm - 1) // 2:
            return session.arm
        session.probe = 0
        return session.arm - 1

    def _patience_for(self, session: _Session) -> float:
        return BUSY_MS if session.busy else self.dead_ms

    def _rto(self, session: _Session, now: float) -> float:
        if session.busy and now - session.heard_ms > INITIAL_RTO_MS:  # nobody reads: more copies only fill its buffer
            return MAX_RTO_MS
        rto = session.srtt + max(4 * session.rttvar, 10.0) + ACK_DELAY_MS
        # Of more than one frame the first are short, and no queue is before them.
        least = MIN_RTO_MS if session.samples >= (SURE if len(session.sent) > 1 else 1) else INITIAL_RTO_MS
        return min(max(rto, least) * (1 << session.backoff), MAX_RTO_MS)

    @staticmethod
    def _patience(session: _Session) -> float:
        return session.srtt * 1.125 + 2.0

    def _find_lost(self, session: _Session, now: float) -> None:
        waiting: list[_Sent] = []
        patience = self._patience(session)
        session.acked = False
        session.look_ms = math.inf
        for sent in session.sent.values():
            if sent.lost:
                continue
            if session.acked_counter is not None:
                overtaken = _before16(session.acked_counter, sent.counter)
                if overtaken > 0:
                    if not session.reordered or overtaken >= REORDER or now - sent.sent_ms >= patience:
                        sent.lost = True
                        session.lost += 1
                        session.lossy = REMEMBER
                        self._note_outcome(session, sent, False)
                        continue
                    session.look_ms = min(session.look_ms, sent.sent_ms + patience)
            waiting.append(sent)
        if not waiting:
            return
        waiting.sort(key=lambda s: _before16(s.counter, session.counter))
        base = max(waiting[0].sent_ms, session.progress_ms)
        if now >= base + self._rto(session, now):
            heard = session.heard_ms > base
            for sent in waiting[: 1 if session.lossy else 2]:  # two probes: one may be lost again
                # There may have been a pause, for which the fragment size is not to pay, or the round trip has grown.
                # But in a small window few lost frames are overtaken.
                narrow = min(self.window, session.peer.window) < WIDE
                if (session.lossy or sent.tries >= STUBBORN) and (narrow or (heard and session.backoff)):
                    self._note_outcome(session, sent, False)
                sent.lost = sent.late = True
                session.lost += 1
            # A line that loses frames, but on which the device is heard, is neither dead nor stalled.
            most = HEARD_BACKOFF if session.lossy and heard and not session.busy else MAX_BACKOFF
            session.progress_ms = now
            session.hail = session.backoff > HEARD_BACKOFF  # by frames that are shorter, if these cannot come through
            session.backoff = min(session.backoff + 1, most)
        session.look_ms = min(session.look_ms, max(waiting[0].sent_ms, session.progress_ms) + self._rto(session, now))

    @staticmethod
    def _oldest(session: _Session) -> _Sent:
        oldest: _Sent | None = None
        for sent in session.sent.values():
            if oldest is None or _before16(sent.counter, oldest.counter) < 0:
                oldest = sent
        assert oldest is not None
        return oldest

    def _overdue_after(self, session: _Session) -> float:
        """A line that is idle for more than an empty frame's time with each frame loses nothing by another copy."""
        if session.idle_bytes > FRAME_OVERHEAD:
            return session.srtt / 2
        return self._patience(session) + session.rttvar

    def _overdue(self, session: _Session, now: float) -> _Sent | None:
        """A tensor waits because the window is full: on a line that loses frames better the oldest once more than nothing."""
        if (
            not (session.sent and session.lossy)
            or session.shut_ms is None
            or session.busy
            or now - session.heard_ms > self._rto(session, now)
        ):
            return None
        oldest = self._oldest(session)
        patience = self._patience(session)
        if session.heard_ms - oldest.sent_ms >= patience:  # the device would have told of it
            self._note_outcome(session, oldest, False)
        elif now - oldest.sent_ms < self._overdue_after(session):
            return None
        oldest.late = True
        return oldest

    # ---- receiving ----

    def _take(self, frame: Frame, now: float) -> None:
        self.counters.frames_in += 1
        kind = frame.type
        if kind == _END:
            self._take_end(frame)
            return
        if frame.version != 1 or frame.flags & _UNKNOWN:
            self.counters.bad += 1
            return
        session = self._session
        if kind == _ACCEPT:
            self._take_accept(frame, now)
            return
        if kind == _ANNOUNCE:
            if session is not None:
                session.said_ms = now - self.keepalive_ms  # is our session still known? the device will say
            elif self.state is State.OPENING:
                self._open_ms = min(self._open_ms, now)
            return
        if session is None or frame.session != session.number or frame.session == 0 or kind < _ACK:
            return
        if _before16(frame.acknowledge, session.send_sequence) > 0:
            self.counters.bad += 1
            return
        session.heard_ms = now
        busy = frame.flags & _BUSY != 0
        if busy != session.busy:
            session.busy = busy
            session.acked = True  # the time-outs change
        if (frame.credit - session.credit_limit) & 0xFFFFFF < 0x800000:
            session.credit_limit = frame.credit
        self._take_ack(session, frame.acknowledge, frame.selective, now)
        if frame.flags & _ACK_NOW:
            session.ack_now = True
        if kind >= _MESSAGE:
            self._take_message(session, frame, now)

    def _take_end(self, frame: Frame) -> None:
        reason = frame.payload[0] if frame.payload else 0
        if reason == EndReason.VERSION and self.state is State.OPENING and len(frame.payload) >= 3:
            theirs = f"{frame.payload[1]} to {frame.payload[2]}"
            self.state = State.ENDED
            self.events.append(
                LinkEvent(False, EndReason.VERSION, f"the device speaks link versions {theirs}, this host version 1")
            )
            return
        if self._session is None or frame.session != self._session.number:
            return
        self._session = None
        self.state = State.ENDED
        known = EndReason(reason) if reason in EndReason.__members__.values() else EndReason.UNKNOWN
        self.events.append(LinkEvent(False, known))

    def _take_accept(self, frame: Frame, now: float) -> None:
        offer = Offer.unpack(frame.payload)
        if offer is None or frame.session == 0:
            self.counters.bad += 1
            return
        if offer.nonce != self._nonce:
            return
        if self._session is not None and frame.session == self._session.number:
            self._session.ack_now = True  # it did not hear that we heard
            return
        if self.state is not State.OPENING:
            return
        self._session = _Session(frame.session, offer, heard_ms=now, said_ms=now, progress_ms=now, epoch_ms=now)
        self._session.arm = self._first_arm()
        self.boot = offer.boot
        self.state = State.OPEN
        self.counters.sessions += 1
        self.events.append(LinkEvent(True))

    def _take_ack(self, session: _Session, acknowledge: int, selective: int, now: float) -> None:
        if not session.sent:
            return
        newest: _Sent | None = None
        done: list[_Sent] = []
        for sent in session.sent.values():
            ahead = _before16(sent.sequence, acknowledge)
            if ahead < 0 or (0 < ahead <= 32 and selective >> (ahead - 1) & 1):
                done.append(sent)
            elif not selective:
                break  # they are in order
        overtook = session.acked_counter
        srtt = session.srtt
        for sent in done:
            del session.sent[sent.sequence]
            # Of one that was only late it may be the first copy that arrived, which overtook nothing: always where no
            # frame was lost, for there the round trip has grown.
            first_copy = sent.late and (not session.lossy or now - sent.sent_ms < srtt * 0.75)
            session.lossy = max(session.lossy - 1, 0)
            session.reordered = max(session.reordered - 1, 0)
            if sent.lost or (sent.tries > 1 and now - sent.sent_ms < srtt / 2):  # it is an earlier copy that arrived
                self._note_outcome(session, sent, True)
                if not sent.late:
                    session.reordered = REMEMBER
            elif sent.tries == 1 and overtook is not None and _before16(overtook, sent.counter) > 0:
                session.reordered = REMEMBER
            session.lost -= sent.lost
            self._note_outcome(session, sent, True)
            sent.message.in_flight -= 1
            if sent.tries == 1 and (newest is None or _before16(sent.counter, newest.counter) > 0):
                newest = sent  # Karn: only frames sent once
            if first_copy:
                continue
            if session.acked_counter is None or _before16(sent.counter, session.acked_counter) > 0:
                session.acked_counter = sent.counter
        if done:
            session.acked = True
            session.progress_ms = now
            session.backoff = 0
        if newest is not None:
            sample = now - newest.sent_ms
            session.least_ms = min(session.least_ms, sample)
            if not session.samples:
                session.srtt, session.rttvar = sample, sample / 2
            else:  # RFC 6298
                session.rttvar += (abs(sample - session.srtt) - session.rttvar) / 4
                session.srtt += (sample - session.srtt) / 8
            session.samples += 1
            self.counters.rtt_ms = session.srtt

    def _take_message(self, session: _Session, frame: Frame, now: float) -> None:
        ahead = _before16(frame.sequence, session.take_sequence)
        if ahead < 0 or (0 < ahead <= 32 and session.take_bitmap >> (ahead - 1) & 1):
            self.counters.repeated += 1
            session.ack_now = True
            return
        count = len(frame.payload)
        if ahead > 32 or count == 0 or frame.offset + count > frame.length or frame.stream > _LOG:
            self.counters.bad += 1
            return
        if not self._place(session, frame, _STREAMS[frame.stream]):
            self.counters.refused += 1
            session.ack_now = True  # it will come again: its sender is to know that it was heard
            return
        if ahead > 0:
            session.take_bitmap |= 1 << (ahead - 1)
        else:
            more = 1
            while more:
                session.take_sequence = (session.take_sequence + 1) & 0xFFFF
                more = session.take_bitmap & 1
                session.take_bitmap >>= 1
        if not session.ack_pending:
            session.ack_ms = now + ACK_DELAY_MS
        session.ack_pending += 1
        if session.ack_pending >= 2 or ahead > 0 or session.take_bitmap or frame.offset + count == frame.length:
            session.ack_now = True

    def _place(self, session: _Session, frame: Frame, stream: Stream) -> bool:
        ahead = _before16(frame.message, session.take_number[stream])
        if ahead < 0 or ahead >= BULK_AHEAD or frame.length > self.max_message:
            return False
        count = len(frame.payload)
        if stream != Stream.BULK and count != frame.length:
            self.counters.bad += 1
            return False
        waiting = session.incoming[stream]
        message = waiting.get(frame.message)
        if message is None:
            if session.held + frame.length > CREDIT:
                return False
            if count == frame.length and ahead == 0:  # whole, and the next one
                session.take_number[stream] = (frame.message + 1) & 0xFFFF
                if stream == Stream.BULK:
                    session.grant = (session.grant + count) & 0xFFFFFF
                self.messages.append(Message(frame.type, stream, frame.payload))
                self._deliver(session, stream)
                return True
            message = _Incoming(frame.type, frame.length, bytearray(frame.length))
            waiting[frame.message] = message
            session.held += frame.length
        if message.type != frame.type or message.length != frame.length or message.received + count > message.length:
            self.counters.bad += 1
            return False
        message.data[frame.offset : frame.offset + count] = frame.payload
        message.received += count
        if ahead == 0 and message.received == message.length:
            self._deliver(session, stream)
        return True

    def _deliver(self, session: _Session, stream: Stream) -> None:
        """Hands out what is whole, in order."""
        waiting = session.incoming[stream]
        while waiting:
            number = session.take_number[stream]
            first = waiting.get(number)
            if first is None or first.received != first.length:
                return
            del waiting[number]
            session.held -= first.length
            session.take_number[stream] = (number + 1) & 0xFFFF
            if stream == Stream.BULK:
                session.grant = (session.grant + first.length) & 0xFFFFFF
            self.messages.append(Message(first.type, stream, bytes(first.data)))
