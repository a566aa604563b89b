# SPDX-License-Identifier: Apache-2.0
"""Backward passes and steps."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tlc_host.link.frame import Stream
from tlc_host.messages.base import Message
from tlc_host.messages.codes import Dtype, TrainKind

__all__ = ["Backward", "Gradient", "Step", "Train", "Trained"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Backward(Message):
    """Host: d loss / d output of the FORWARD with request number ``forward``. Answered by DONE."""

    TYPE = 0x23
    STREAM = Stream.BULK
    FIXED = struct.Struct("<IB3xf")
    FIELDS = ("forward", "dtype", "scale")
    TAIL = "gradient"

    forward: int = 0
    dtype: int = Dtype.F32
    scale: float = 1.0
    gradient: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gradient(Message):
    """Device: the loss of the sample, and float32 d loss / d what TAIL brought."""

    TYPE = 0x35
    STREAM = Stream.BULK
    FIXED = struct.Struct("<fB3xQ")
    FIELDS = ("loss", "flags", "ticks")
    TAIL = "gradient"

    loss: float = 0.0
    flags: int = 0
    ticks: int = 0
    gradient: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step(Message):
    """Host: apply the accumulated gradient as step number ``step``, if its norm is within ``max_norm`` (0: the device's
    own bound). Answered by DONE."""

    TYPE = 0x24
    FIXED = struct.Struct("<fI4fB3x")
    FIELDS = ("learning_rate", "seed", "max_norm", "momentum", "weight_decay", "clip", "flags")

    learning_rate: float = 0.0
    seed: int = 0
    max_norm: float = 0.0
    momentum: float = 0.0
    weight_decay: float = 0.0
    clip: float = 0.0
    flags: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Train(Message):
    """Host: go back from the FORWARD with request number ``forward``; with APPLY take step number ``step`` at once.

    ``value`` is the class of a LABEL, or the float32 scale of an int8 gradient (:meth:`scaled`); ``label`` the class that goes with
    the gradient of a BOTH. Answered by TRAINED.
    """

    TYPE = 0x32
    STREAM = Stream.BULK
    FIXED = struct.Struct("<IBBHIfI4f")
    FIELDS = (
        "forward",
        "kind",
        "flags",
        "label",
        "value",
        "learning_rate",
        "seed",
        "max_norm",
        "momentum",
        "weight_decay",
        "clip",
    )
    TAIL = "data"

    forward: int = 0
    kind: int = TrainKind.LABEL
    flags: int = 0
    label: int = 0
    value: int = 0
    learning_rate: float = 0.0
    seed: int = 0
    max_norm: float = 0.0
    momentum: float = 0.0
    weight_decay: float = 0.0
    clip: float = 0.0
    data: bytes = b""

    @staticmethod
    def scaled(scale: float) -> int:
        """The ``value`` of an int8 gradient: real = scale * q."""
        return int.from_bytes(struct.pack("<f", scale), "little")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained(Message):
    """Device: it went back. ``loss`` of the sample, 0 where a gradient was handed in, and the class it was taken for."""

    TYPE = 0x33
    FIXED = struct.Struct("<fHBxQ")
    FIELDS = ("loss", "predicted", "flags", "ticks")

    loss: float = 0.0
    predicted: int = 0
    flags: int = 0
    ticks: int = 0
