# SPDX-License-Identifier: Apache-2.0
"""Frames: bytes on the wire to headers and payloads, and back (PROTOCOL.md, sections 2 to 4)."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from cobs import cobs

__all__ = [
    "HEADER_BYTES",
    "MAX_FRAGMENT",
    "MIN_FRAGMENT",
    "OPEN_BYTES",
    "VERSION",
    "Decoder",
    "EndReason",
    "Flag",
    "Frame",
    "FrameType",
    "Offer",
    "Stream",
    "encode",
    "parse",
]

VERSION = 1
FAULT = b"tlc fault: "
"""How the last words of a device begin that crashed: no frame, but a line between zeros."""

HEADER_BYTES = 28
OPEN_BYTES = 24
MIN_FRAGMENT = 128
MAX_FRAGMENT = 8192

_HEADER = struct.Struct("<BBBHBHIHHIHHBHB")
_OPEN = struct.Struct("<IIHBBIIHH")
_CRC = struct.Struct("<I")


class FrameType(IntEnum):
    """What a frame is for; 16 and above are fragments of messages of that type."""

    ANNOUNCE = 1
    OPEN = 2
    ACCEPT = 3
    END = 4
    ACK = 5
    MESSAGE = 16


class Flag(IntFlag):
    """The upper four bits of the third byte."""

    SECURE = 1
    ACK_NOW = 2
    BUSY = 4


class Stream(IntEnum):
    """Messages of one stream arrive in order; streams do not wait for one another."""

    CONTROL = 0
    BULK = 1
    LOG = 2


class EndReason(IntEnum):
    """Why a session ended."""

    UNKNOWN = 0
    SUPERSEDED = 1
    CLOSED = 2
    VERSION = 3


@dataclass(slots=True)
class Frame:
    """A frame's fields, in the order of the header; ``payload`` follows it on the wire."""

    type: int
    stream: int = 0
    flags: int = 0
    credit: int = 0
    counter: int = 0
    session: int = 0
    sequence: int = 0
    acknowledge: int = 0
    selective: int = 0
    message: int = 0
    offset: int = 0
    length: int = 0
    payload: bytes = b""
    version: int = VERSION


@dataclass(slots=True)
class Offer:
    """The payload of OPEN and ACCEPT: what its sender can take."""

    nonce: int
    boot: int = 0
    fragment: int = 1024
    window: int = 32
    security: int = 0
    max_message: int = 1 << 20
    unit: int = 1
    control: int = 1024
    keepalive_ms: int = 1000

    def pack(self) -> bytes:
        """The 24 bytes on the wire."""
        return _OPEN.pack(
            self.nonce,
            self.boot,
            self.fragment,
            self.window,
            self.security,
            self.max_message,
            self.unit,
            self.control,
            self.keepalive_ms,
        )

    @classmethod
    def unpack(cls, payload: bytes) -> Offer | None:
        """From a frame's payload, longer ones allowed; None when a field is out of its range."""
        if len(payload) < OPEN_BYTES:
            return None
        offer = cls(*_OPEN.unpack_from(payload))
        good = (
            offer.nonce != 0
            and offer.fragment >= MIN_FRAGMENT
            and 1 <= offer.window <= 32
            and 1 <= offer.unit <= 0x200000
            and offer.control <= offer.fragment
        )
        return offer if good else None


def encode(frame: Frame) -> bytes:
    """A frame as it goes over the wire: COBS(header, payload, CRC-32), then a zero."""
    credit, offset, length = frame.credit, frame.offset, frame.length
    body = (
        _HEADER.pack(
            frame.version,
            frame.type,
            frame.stream | frame.flags << 4,
            credit & 0xFFFF,
            credit >> 16 & 0xFF,
            frame.counter,
            frame.session,
            frame.sequence,
            frame.acknowledge,
            frame.selective,
            frame.message,
            offset & 0xFFFF,
            offset >> 16,
            length & 0xFFFF,
            length >> 16,
        )
        + frame.payload
    )
    wire: bytes = cobs.encode(body + _CRC.pack(zlib.crc32(body)))
    return wire + b"\0"


def parse(wire: bytes) -> Frame | None:
    """A frame from the bytes between two zeros; None when anything about them is wrong."""
    try:
        body = cobs.decode(wire)
    except cobs.DecodeError:
        return None
    size = len(body) - 4
    if size < HEADER_BYTES or zlib.crc32(body[:size]) != int.from_bytes(body[size:], "little"):
        return None
    (
        version,
        kind,
        stream,
        credit,
        credit_high,
        counter,
        session,
        sequence,
        acknowledge,
        selective,
        message,
        offset,
        offset_high,
        length,
        length_high,
    ) = _HEADER.unpack_from(body)
    return Frame(
        kind,
        stream & 15,
        stream >> 4,
        credit | credit_high << 16,
        counter,
        session,
        sequence,
        acknowledge,
        selective,
        message,
        offset | offset_high << 16,
        length | length_high << 16,
        body[HEADER_BYTES:size],
        version,
    )


class Decoder:
    """Cuts a stream of bytes at its zeros. Whatever comes in, memory stays within one frame's.

    Args:
        max_wire: longest frame on the wire; a longer run without a zero is skipped.
    """

    def __init__(self, max_wire: int) -> None:
        self._max = max_wire
        self._rest = bytearray()
        self._skipping = False
        self.bad = 0
        self.faults: list[bytes] = []

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that end in ``data``; what was no frame is counted in ``bad``, a crash's line also in ``faults``."""
        frames: list[Frame] = []
        *ended, rest = data.split(b"\0")
        for piece in ended:
            wire = bytes(self._rest) + piece if self._rest else piece
            self._rest.clear()
            if self._skipping or len(wire) > self._max:
                self._skipping = False
                self.bad += 1
            elif wire:
                frame = parse(wire)
                if frame is None:
                    self.bad += 1
                    if FAULT in wire:
                        self.faults.append(wire)
                else:
                    frames.append(frame)
        if not self._skipping:
            self._rest += rest
            if len(self._rest) > self._max:
                self._rest.clear()
                self._skipping = True
        return frames
