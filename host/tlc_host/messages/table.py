# SPDX-License-Identifier: Apache-2.0
"""Which number is which message, and messages from their bytes."""

from __future__ import annotations

from tlc.errors import ProtocolError
from tlc_host.messages.answers import Done, Error, GetStats, Layers, Log, Stats, Test
from tlc_host.messages.base import COMMON, Message, name_of
from tlc_host.messages.greeting import Hello, Refuse, Welcome
from tlc_host.messages.learning import Backward, Gradient, Step, Train, Trained
from tlc_host.messages.parameters import GetParams, Journal, Params, ResetState, Save, SetParams
from tlc_host.messages.passes import Cut, Exit, Forward, Result, Smashed, Tail

__all__ = ["MESSAGES", "message_name", "parse"]

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
    return f"message 0x{kind:02x}" if known is None else name_of(known)


def parse(kind: int, payload: bytes) -> Message:
    """A message from its bytes.

    Raises:
        ProtocolError: the type is not known, or the size is not that type's.
    """
    known = MESSAGES.get(kind)
    if known is None:
        raise ProtocolError(f"no such message type: 0x{kind:02x}", remedy="update the older of host and firmware")
    fixed = COMMON.size + known.FIXED.size
    if len(payload) < fixed or (len(payload) > fixed and not known.TAIL):
        raise ProtocolError(
            f"{message_name(kind)} has {fixed} bytes{' or more' if known.TAIL else ''}, not {len(payload)}"
        )
    request, round_, step, batch = COMMON.unpack_from(payload)
    fields = dict(zip(known.FIELDS, known.FIXED.unpack_from(payload, COMMON.size), strict=True))
    if known.TAIL:
        fields[known.TAIL] = payload[fixed:]
    return known(request=request, round=round_, step=step, batch=batch, **fields)
