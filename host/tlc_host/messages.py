# SPDX-License-Identifier: Apache-2.0
"""What the host and the device say to each other over the link (PROTOCOL.md, section 9).

One dataclass a message, its fields in the order of the wire. ``pack`` and ``parse`` are inverse to each other.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import ClassVar, TypeVar

from tlc.errors import ProtocolError
from tlc_host.link.frame import Stream

__all__ = [
    "MESSAGES",
    "Backward",
    "Capability",
    "Coding",
    "Cut",
    "Done",
    "DoneFlag",
    "Dtype",
    "Error",
    "Exit",
    "Forward",
    "ForwardFlag",
    "GetParams",
    "GetStats",
    "Gradient",
    "GradientFlag",
    "Hello",
    "Journal",
    "Layers",
    "Log",
    "Message",
    "Params",
    "Refuse",
    "ResetReason",
    "ResetState",
    "Result",
    "Save",
    "SetParams",
    "Slot",
    "Smashed",
    "SmashedFlag",
    "Stats",
    "Status",
    "Step",
    "StepFlag",
    "Tail",
    "TailKind",
    "Test",
    "Train",
    "TrainKind",
    "Trained",
    "Welcome",
    "message_name",
    "parse",
]

VERSION = 1
_COMMON = struct.Struct("<4I")


class Capability(IntFlag):
    """What a device can do."""

    TRAIN = 1
    SAMPLE = 2
    PROFILE = 4
    STANDALONE = 8
    SAVE = 16
    JUDGE = 32
    AT_ONCE = 64
    TAIL = 128
    EXIT = 256


class ResetReason(IntEnum):
    """Why a device started."""

    UNKNOWN = 0
    POWER = 1
    PIN = 2
    SOFTWARE = 3
    WATCHDOG = 4
    FAULT = 5
    BROWNOUT = 6


class Status(IntEnum):
    """tlc_status_t."""

    OK = 0
    ARG = 1
    STATE = 2
    SIZE = 3
    CORRUPT = 4
    VERSION = 5
    BUNDLE = 6
    NUMERIC = 7
    FULL = 8


class Dtype(IntEnum):
    """tlc_dtype_t."""

    F32 = 0
    S8 = 1
    S32 = 2


class ForwardFlag(IntFlag):
    """RUN: the last input. KEEP: a BACKWARD will follow. OWN: no tensor follows, the device takes a sample of its own. EXIT:
    where the head at the cut is surer than the bound, its output is the answer."""

    RUN = 1
    KEEP = 2
    OWN = 4
    EXIT = 8


class SmashedFlag(IntFlag):
    """SAMPLE: of the device's own sample. EXIT: the output of the head at the cut."""

    SAMPLE = 1
    EXIT = 2


class DoneFlag(IntFlag):
    """REPEATED: it had been done before, nothing was done now. SAVED: the journal has a new entry."""

    REPEATED = 1
    SAVED = 2


class StepFlag(IntFlag):
    """SAVE: and then into the journal. APPLY, of a TRAIN: and then a step."""

    SAVE = 1
    APPLY = 2


class TrainKind(IntEnum):
    """What a TRAIN brings: a gradient of one of two types, a class, or the values that the output should have had; BOTH: to a
    head at the cut a class and a gradient."""

    F32 = 0
    S8 = 1
    LABEL = 2
    VALUES = 3
    BOTH_F32 = 4
    BOTH_S8 = 5


class TailKind(IntEnum):
    """What becomes of what TAIL brought: the OUTPUT is sent back, or it is the application's RESULT; or the device learns
    from a LABEL, or from its OWN."""

    OUTPUT = 0
    RESULT = 1
    LABEL = 2
    OWN = 3


class GradientFlag(IntFlag):
    """Of GRADIENT. RIGHT: the sample was taken for what its label says."""

    RIGHT = 1
    REPEATED = 2


class Coding(IntEnum):
    """How learned tensors travel: as they lie in the state, or as differences to the values in flash."""

    PLAIN = 0
    DELTA = 1


class Slot(IntEnum):
    """What a slot of the journal holds."""

    EMPTY = 0
    OURS = 1
    OTHERS = 2
    DAMAGED = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """What every message begins with. ``request`` is the asker's number; an answer repeats all four."""

    TYPE: ClassVar[int] = 0
    STREAM: ClassVar[Stream] = Stream.CONTROL
    FIXED: ClassVar[struct.Struct] = struct.Struct("<")
    FIELDS: ClassVar[tuple[str, ...]] = ()
    TAIL: ClassVar[str] = ""

    request: int = 0
    round: int = 0
    step: int = 0
    batch: int = 0

    def pack(self) -> bytes:
        """The message as bytes."""
        fixed = self.FIXED.pack(*(getattr(self, name) for name in self.FIELDS))
        tail = getattr(self, self.TAIL) if self.TAIL else b""
        return _COMMON.pack(self.request, self.round, self.step, self.batch) + fixed + tail

    @property
    def name(self) -> str:
        """HELLO, FORWARD ..."""
        return message_name(self.TYPE)


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
class ResetState(Message):
    """Host: the learned tensors back to the values in flash, and the journal erased. Answered by DONE."""

    TYPE = 0x2B


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
class Log(Message):
    """Device: a line of text. ``level`` as in Python's logging."""

    TYPE = 0x2E
    STREAM = Stream.LOG
    FIXED = struct.Struct("<B3x")
    FIELDS = ("level",)
    TAIL = "text"

    level: int = 20
    text: bytes = field(default=b"")


@dataclass(frozen=True, kw_only=True, slots=True)
class Test(Message):
    """A test of the line, both ways: ``data`` means nothing. Host: ``count`` bytes are to come back."""

    TYPE = 0x2F
    STREAM = Stream.BULK
    FIXED = struct.Struct("<I")
    FIELDS = ("count",)
    TAIL = "data"

    count: int = 0
    data: bytes = field(default=b"")


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


M = TypeVar("M", bound=Message)

MESSAGES: dict[int, type[Message]] = {
    kind.TYPE: kind
    for kind in (
        Hello,
        Welcome,
        Refuse,
        Forward,
        Smashed,
        Result,
        Backward,
        Step,
        GetParams,
        Params,
        SetParams,
        GetStats,
        Stats,
        Layers,
        ResetState,
        Done,
        Error,
        Log,
        Test,
        Save,
        Journal,
        Train,
        Trained,
        Tail,
        Gradient,
        Exit,
        Cut,
    )
}


def message_name(kind: int) -> str:
    """HELLO, GET_PARAMS ... or the number of a type not known."""
    known = MESSAGES.get(kind)
    if known is None:
        return f"message 0x{kind:02x}"
    return "".join("_" + c if c.isupper() and i else c for i, c in enumerate(known.__name__)).upper()


def parse(kind: int, payload: bytes) -> Message:
    """A message from its bytes.

    Raises:
        ProtocolError: the type is not known, or the size is not that type's.
    """
    known = MESSAGES.get(kind)
    if known is None:
        raise ProtocolError(f"no such message type: 0x{kind:02x}", remedy="update the older of host and firmware")
    fixed = _COMMON.size + known.FIXED.size
    if len(payload) < fixed or (len(payload) > fixed and not known.TAIL):
        raise ProtocolError(
            f"{message_name(kind)} has {fixed} bytes{' or more' if known.TAIL else ''}, not {len(payload)}"
        )
    request, round_, step, batch = _COMMON.unpack_from(payload)
    fields = dict(zip(known.FIELDS, known.FIXED.unpack_from(payload, _COMMON.size), strict=True))
    if known.TAIL:
        fields[known.TAIL] = payload[fixed:]
    return known(request=request, round=round_, step=step, batch=batch, **fields)
