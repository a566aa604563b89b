# SPDX-License-Identifier: Apache-2.0
"""Whether it was done, how the device is, and how the line."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tlc_host.link.frame import Stream
from tlc_host.messages.base import Message

__all__ = ["Done", "Error", "GetStats", "Layers", "Log", "Stats", "Test"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Done(Message):
    """Device: the request of message type ``of`` is done."""

    TYPE = 0x2C
    FIXED = struct.Struct("<BBxxIQ")
    FIELDS = ("of", "flags", "samples", "ticks")

    of: int = 0
    flags: int = 0
    samples: int = 0
    ticks: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Error(Message):
    """Device: the request of message type ``of`` was not done, and why."""

    TYPE = 0x2D
    FIXED = struct.Struct("<BBxx")
    FIELDS = ("of", "status")
    TAIL = "text"

    of: int = 0
    status: int = 0
    text: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class GetStats(Message):
    """Host: ``what`` 0: answered by STATS, 1: by LAYERS, 2: by JOURNAL."""

    TYPE = 0x28
    FIXED = struct.Struct("<I")
    FIELDS = ("what",)

    what: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Stats(Message):
    """Device: ticks, bytes, milliseconds and counts since boot."""

    TYPE = 0x29
    STREAM = Stream.BULK
    FIXED = struct.Struct("<3Q19I")
    FIELDS = (
        "forward_ticks",
        "backward_ticks",
        "update_ticks",
        "arena_bytes",
        "state_bytes",
        "stack_bytes",
        "uptime_ms",
        "last_step",
        "samples",
        "forwards",
        "backwards",
        "frames_in",
        "frames_out",
        "bytes_in",
        "bytes_out",
        "bad",
        "repeated",
        "refused",
        "resent",
        "sessions",
        "sampled",
        "exited",
    )

    forward_ticks: int = 0
    backward_ticks: int = 0
    update_ticks: int = 0
    arena_bytes: int = 0
    state_bytes: int = 0
    stack_bytes: int = 0
    uptime_ms: int = 0
    last_step: int = 0
    samples: int = 0
    forwards: int = 0
    backwards: int = 0
    frames_in: int = 0
    frames_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    bad: int = 0
    repeated: int = 0
    refused: int = 0
    resent: int = 0
    sessions: int = 0
    sampled: int = 0
    exited: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Layers(Message):
    """Device: ticks of each layer of the last forward pass, (layers,) u32."""

    TYPE = 0x2A
    STREAM = Stream.BULK
    TAIL = "ticks"

    ticks: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class Log(Message):
    """Device: a line of text. ``level`` as in Python's logging."""

    TYPE = 0x2E
    STREAM = Stream.LOG
    FIXED = struct.Struct("<B3x")
    FIELDS = ("level",)
    TAIL = "text"

    level: int = 20
    text: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class Test(Message):
    """A test of the line, both ways: ``data`` means nothing. Host: ``count`` bytes are to come back."""

    TYPE = 0x2F
    STREAM = Stream.BULK
    FIXED = struct.Struct("<I")
    FIELDS = ("count",)
    TAIL = "data"

    count: int = 0
    data: bytes = b""
