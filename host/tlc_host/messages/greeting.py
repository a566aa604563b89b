# SPDX-License-Identifier: Apache-2.0
"""How a session begins."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tlc_host.messages.base import Message
from tlc_host.messages.codes import Status

__all__ = ["Hello", "Refuse", "VERSION", "Welcome"]

VERSION = 1
"""Of the messages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hello(Message):
    """Device: who I am and what I hold. ``token`` is that of the last WELCOME since boot, ``id`` the board's own number; 0: none."""

    TYPE = 0x10
    FIXED = struct.Struct("<HBx9I32sQ")
    FIELDS = (
        "version",
        "reset",
        "capabilities",
        "boot",
        "token",
        "last_step",
        "samples",
        "forward",
        "backward",
        "uptime_ms",
        "param_bytes",
        "bundle_hash",
        "id",
    )
    TAIL = "board"

    version: int = VERSION
    reset: int = 0
    capabilities: int = 0
    boot: int = 0
    token: int = 0
    last_step: int = 0
    samples: int = 0
    forward: int = 0
    backward: int = 0
    uptime_ms: int = 0
    param_bytes: int = 0
    bundle_hash: bytes = bytes(32)
    id: int = 0
    board: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class Welcome(Message):
    """Host: we hold the same bundle. Answered by DONE."""

    TYPE = 0x11
    FIXED = struct.Struct("<I32s")
    FIELDS = ("token", "bundle_hash")

    token: int = 0
    bundle_hash: bytes = bytes(32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Refuse(Message):
    """Host: we hold different bundles, or I do not speak your version."""

    TYPE = 0x12
    FIXED = struct.Struct("<B3x32s")
    FIELDS = ("reason", "bundle_hash")

    reason: int = Status.BUNDLE
    bundle_hash: bytes = bytes(32)
