# SPDX-License-Identifier: Apache-2.0
"""What one end of the link keeps of a session, and what it gives to its caller."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from tlc_host.link.frame import EndReason, Offer, Stream

__all__ = ["Counters", "Incoming", "LinkEvent", "LinkSession", "Message", "Outgoing", "Sent", "State", "before16"]

ARMS = 6  # fragment sizes: the largest and its halves
CREDIT = 0x7FFFFF  # bytes that the device may send before it hears of more


def before16(a: int, b: int) -> int:
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
class Outgoing:
    """A message of ours: what of it was sent, and in how many frames not acknowledged."""

    type: int
    stream: Stream
    number: int
    payload: memoryview
    next: int = 0
    in_flight: int = 0


@dataclass(slots=True)
class Sent:
    """A frame that is not acknowledged."""

    message: Outgoing
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
class Incoming:
    """A message that is coming in."""

    type: int
    length: int
    data: bytearray
    received: int = 0


@dataclass(slots=True)
class LinkSession:
    """Everything that begins anew with a session."""

    number: int
    peer: Offer
    fragment: int
    window: int
    max_message: int
    sent: dict[int, Sent] = field(default_factory=dict)
    lost: int = 0
    look_ms: float = 0.0
    acked: bool = False
    queues: dict[Stream, deque[Outgoing]] = field(default_factory=lambda: {s: deque() for s in Stream})
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
    incoming: dict[Stream, dict[int, Incoming]] = field(default_factory=lambda: {s: {} for s in Stream})
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
