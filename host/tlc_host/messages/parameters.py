# SPDX-License-Identifier: Apache-2.0
"""The learned tensors, and the device's journal of them."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tlc_host.link.frame import Stream
from tlc_host.messages.base import Message
from tlc_host.messages.codes import Coding, Slot, Status

__all__ = ["GetParams", "Journal", "Params", "ResetState", "Save", "SetParams"]


@dataclass(frozen=True, kw_only=True, slots=True)
class GetParams(Message):
    """Host: send ``count`` bytes of the learned tensors from ``offset``; 0: all. Answered by PARAMS."""

    TYPE = 0x25
    FIXED = struct.Struct("<IIB3x")
    FIELDS = ("offset", "count", "coding")

    offset: int = 0
    count: int = 0
    coding: int = Coding.PLAIN


@dataclass(frozen=True, kw_only=True, slots=True)
class Params(Message):
    """Device: bytes of the learned tensors from ``offset``; ``total`` is all of them."""

    TYPE = 0x26
    STREAM = Stream.BULK
    FIXED = struct.Struct("<IIB3x")
    FIELDS = ("offset", "total", "coding")
    TAIL = "data"

    offset: int = 0
    total: int = 0
    coding: int = Coding.PLAIN
    data: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class SetParams(Params):
    """Host: write these bytes of the learned tensors, which belong to ``step``. Answered by DONE."""

    TYPE = 0x27


@dataclass(frozen=True, kw_only=True, slots=True)
class ResetState(Message):
    """Host: the learned tensors back to the values in flash, and the journal erased. Answered by DONE."""

    TYPE = 0x2B


@dataclass(frozen=True, kw_only=True, slots=True)
class Save(Message):
    """Host: write the learned tensors into the journal. Answered by DONE."""

    TYPE = 0x30


@dataclass(frozen=True, kw_only=True, slots=True)
class Journal(Message):
    """Device: what its journal holds. ``slot_bytes`` 0: it keeps nothing; ``length`` 0: no entry of this bundle."""

    TYPE = 0x31
    STREAM = Stream.BULK
    FIXED = struct.Struct("<8I3Bx")
    FIELDS = (
        "slot_bytes",
        "sequence",
        "saved_step",
        "length",
        "wear_a",
        "wear_b",
        "saves",
        "rollbacks",
        "status",
        "slot_a",
        "slot_b",
    )

    slot_bytes: int = 0
    sequence: int = 0
    saved_step: int = 0
    length: int = 0
    wear_a: int = 0
    wear_b: int = 0
    saves: int = 0
    rollbacks: int = 0
    status: int = Status.STATE
    slot_a: int = Slot.EMPTY
    slot_b: int = Slot.EMPTY
