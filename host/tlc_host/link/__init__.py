# SPDX-License-Identifier: Apache-2.0
"""The wire: framing and reliability, as state machines without input and output (firmware/PROTOCOL.md)."""

from tlc_host.link.endpoint import Counters, Link, LinkEvent, Message, State
from tlc_host.link.frame import EndReason, Flag, Frame, FrameType, Offer, Stream

__all__ = [
    "Counters",
    "EndReason",
    "Flag",
    "Frame",
    "FrameType",
    "Link",
    "LinkEvent",
    "Message",
    "Offer",
    "State",
    "Stream",
]
