# SPDX-License-Identifier: Apache-2.0
"""The network's forward passes, and where they end."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tlc_host.link.frame import Stream
from tlc_host.messages.base import Message
from tlc_host.messages.codes import ForwardFlag, TailKind

__all__ = ["Cut", "Exit", "Forward", "Result", "Smashed", "Tail"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Forward(Message):
    """Host: an input tensor (elements,) int8; with RUN answered by SMASHED. ``bound``, of EXIT: how sure, in 1/256."""

    TYPE = 0x20
    STREAM = Stream.BULK
    FIXED = struct.Struct("<BBH")
    FIELDS = ("index", "flags", "bound")
    TAIL = "tensor"

    index: int = 0
    flags: int = ForwardFlag.RUN
    bound: int = 0
    tensor: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class Smashed(Message):
    """Device: an output tensor (elements,) int8, the ``index``-th of ``count``."""

    TYPE = 0x21
    STREAM = Stream.BULK
    FIXED = struct.Struct("<BBBxQ")
    FIELDS = ("index", "count", "flags", "ticks")
    TAIL = "tensor"

    index: int = 0
    count: int = 1
    flags: int = 0
    ticks: int = 0
    tensor: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(Message):
    """Host: the network's output (count,) float32 for the device's own sample."""

    TYPE = 0x22
    STREAM = Stream.BULK
    FIXED = struct.Struct("<I")
    FIELDS = ("count",)
    TAIL = "values"

    count: int = 0
    values: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tail(Message):
    """Host: what its part made of the smashed data of the FORWARD with request number ``forward``, int8, for the part of
    the device segment behind it. Answered, as ``kind`` says, by SMASHED, DONE or GRADIENT."""

    TYPE = 0x34
    STREAM = Stream.BULK
    FIXED = struct.Struct("<IB3xI")
    FIELDS = ("forward", "kind", "value")
    TAIL = "tensor"

    forward: int = 0
    kind: int = TailKind.OUTPUT
    value: int = 0
    tensor: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exit(Message):
    """Host: of its own samples the device is to answer those itself of which the head at the cut is surer than ``bound``
    / 256; 0: all. Answered by DONE."""

    TYPE = 0x36
    FIXED = struct.Struct("<Hxx")
    FIELDS = ("bound",)

    bound: int = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut(Message):
    """Host: the device's part ends at the ``index``-th of the bundle's cuts from now on. Answered by DONE."""

    TYPE = 0x37
    FIXED = struct.Struct("<B3x")
    FIELDS = ("index",)

    index: int = 0
