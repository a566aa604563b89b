# SPDX-License-Identifier: Apache-2.0
"""Numbers with names: what fields of messages hold."""

from __future__ import annotations

from enum import IntEnum, IntFlag

__all__ = [
    "Capability",
    "Coding",
    "DoneFlag",
    "Dtype",
    "ForwardFlag",
    "GradientFlag",
    "ResetReason",
    "Slot",
    "SmashedFlag",
    "Status",
    "StepFlag",
    "TailKind",
    "TrainKind",
]


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
