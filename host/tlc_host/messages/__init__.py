# SPDX-License-Identifier: Apache-2.0
"""What the host and the device say to each other over the link (PROTOCOL.md, section 9).

One dataclass a message, its fields in the order of the wire. ``pack`` and ``parse`` are inverse to each other.
"""

from tlc_host.messages.answers import Done, Error, GetStats, Layers, Log, Stats, Test
from tlc_host.messages.base import Message
from tlc_host.messages.codes import (
    Capability,
    Coding,
    DoneFlag,
    Dtype,
    ForwardFlag,
    GradientFlag,
    ResetReason,
    Slot,
    SmashedFlag,
    Status,
    StepFlag,
    TailKind,
    TrainKind,
)
from tlc_host.messages.greeting import VERSION, Hello, Refuse, Welcome
from tlc_host.messages.learning import Backward, Gradient, Step, Train, Trained
from tlc_host.messages.parameters import GetParams, Journal, Params, ResetState, Save, SetParams
from tlc_host.messages.passes import Cut, Exit, Forward, Result, Smashed, Tail
from tlc_host.messages.table import MESSAGES, message_name, parse

__all__ = [
    "MESSAGES",
    "VERSION",
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
