# SPDX-License-Identifier: Apache-2.0
"""The host's end of the link (PROTOCOL.md, sections 5 to 8): bytes in, messages out, and back.

No input or output happens here and no clock is read: the caller hands over bytes and the time, in milliseconds.
Section numbers below are those of PROTOCOL.md.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from random import SystemRandom

from tlc_host.link.fragment_size import arm_bytes, first_arm, next_arm, note_full, note_sent
from tlc_host.link.frame import (
    HEADER_BYTES,
    MAX_FRAGMENT,
    Decoder,
    EndReason,
    Flag,
    Frame,
    FrameType,
    Offer,
    Stream,
    encode,
)
from tlc_host.link.loss import (
    INITIAL_RTO_MS,
    MAX_BACKOFF,
    MAX_RTO_MS,
    WIDE,
    find_lost,
    oldest_of,
    overdue,
    overdue_after,
    rto,
    take_ack,
)
from tlc_host.link.receiver import take_message
from tlc_host.link.session_state import Counters, LinkEvent, LinkSession, Message, Outgoing, Sent, State, before16

__all__ = ["Counters", "Link", "LinkEvent", "Message", "State"]

SPAN = 32  # sequence numbers between the oldest unacknowledged frame and the newest
MAX_TAKEN = 4 << 20
QUEUE = 64
BUSY_MS = 600_000
GAP_MS = 1000  # not polled for so long: it was we who did not listen

_RANK = (Stream.CONTROL, Stream.LOG, Stream.BULK)
# as plain numbers: an enumeration's operators cost more than all the rest of a frame
_ACK_NOW, _BUSY, _UNKNOWN = int(Flag.ACK_NOW), int(Flag.BUSY), 15 & ~int(Flag.ACK_NOW | Flag.BUSY)
_ANNOUNCE, _ACCEPT, _END = int(FrameType.ANNOUNCE), int(FrameType.ACCEPT), int(FrameType.END)
_ACK, _MESSAGE = int(FrameType.ACK), int(FrameType.MESSAGE)


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
        self._session: LinkSession | None = None
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
        return self._session.fragment if self._session else self.fragment

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
        queue.append(Outgoing(kind, stream, session.send_number[stream], memoryview(bytes(payload))))
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
                and now - session.heard_ms <= rto(session, now)
            ):
                times.append(oldest_of(session).sent_ms + overdue_after(session))
        elif session.blocked:
            times.append(session.said_ms + rto(session, now))
        return max(0.0, min(times) - now)

    # ---- sending (sections 6 to 8) ----

    def _frame(self, session: LinkSession, now: float, kind: int, flags: int = 0) -> Frame:
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
            find_lost(session, now)
        if session.hail:
            session.hail = False
            return self._frame(session, now, _ACK, _ACK_NOW)
        if session.lost:
            sent = next(sent for sent in session.sent.values() if sent.lost)
            note_sent(session, sent, now)
            return self._send(session, sent, now)
        new = self._next(session, now)
        if new is not None:
            note_sent(session, new, now)
            return self._send(session, new, now)
        again = overdue(session, now)
        if again is not None:
            return self._send(session, again, now)
        if session.ack_now or (session.ack_pending and now >= session.ack_ms):
            return self._frame(session, now, _ACK)
        ask = session.blocked and not session.sent and now - session.said_ms >= rto(session, now)
        if ask or now - session.said_ms >= self.keepalive_ms:
            if ask:
                session.backoff = min(session.backoff + 1, MAX_BACKOFF)
            return self._frame(session, now, _ACK, _ACK_NOW)
        return None

    def _send(self, session: LinkSession, sent: Sent, now: float) -> Frame:
        message = sent.message
        if sent.tries:
            self.counters.resent += 1
        if sent.lost:
            sent.lost = False
            session.lost -= 1
        sent.tries += 1
        sent.sent_ms = now
        session.look_ms = min(session.look_ms, now + rto(session, now))
        sent.counter = session.counter
        frame = self._frame(session, now, message.type)
        frame.stream = message.stream
        frame.sequence = sent.sequence
        frame.message = message.number
        frame.offset = sent.offset
        frame.length = len(message.payload)
        frame.payload = bytes(message.payload[sent.offset : sent.offset + sent.bytes])
        return frame

    def _next(self, session: LinkSession, now: float) -> Sent | None:
        session.blocked = False
        window = session.window
        if len(session.sent) >= window:
            return None
        if session.sent:
            oldest = next(iter(session.sent))  # sequence numbers are entered in order
            if before16(session.send_sequence, oldest) >= SPAN:
                note_full(session, now)
                return None
        for stream in _RANK:
            queue = session.queues[stream]
            if not queue:
                continue
            message = queue[0]
            if stream == Stream.BULK:
                reserved = 2 if window >= WIDE else 1 if window > 2 else 0
                if len(session.sent) + reserved >= window and window > 1:
                    note_full(session, now)
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
                arm = next_arm(session, count)
                count = min(count, arm_bytes(session, arm))
            sent = Sent(message, message.next, count, session.send_sequence, arm=arm)
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

    def _patience_for(self, session: LinkSession) -> float:
        return BUSY_MS if session.busy else self.dead_ms

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
        if before16(frame.acknowledge, session.send_sequence) > 0:
            self.counters.bad += 1
            return
        session.heard_ms = now
        busy = frame.flags & _BUSY != 0
        if busy != session.busy:
            session.busy = busy
            session.acked = True  # the time-outs change
        if (frame.credit - session.credit_limit) & 0xFFFFFF < 0x800000:
            session.credit_limit = frame.credit
        take_ack(session, frame.acknowledge, frame.selective, now)
        self.counters.rtt_ms = session.srtt
        if frame.flags & _ACK_NOW:
            session.ack_now = True
        if kind >= _MESSAGE:
            take_message(session, frame, now, self.counters, self.messages)

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
        self._session = LinkSession(
            frame.session,
            offer,
            fragment=min(self.fragment, offer.fragment),
            window=min(self.window, offer.window),
            max_message=self.max_message,
            heard_ms=now,
            said_ms=now,
            progress_ms=now,
            epoch_ms=now,
        )
        self._session.arm = first_arm(self._session)
        self.boot = offer.boot
        self.state = State.OPEN
        self.counters.sessions += 1
        self.events.append(LinkEvent(True))
