# SPDX-License-Identifier: Apache-2.0
"""What every message is."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar

from tlc_host.link.frame import Stream

__all__ = ["COMMON", "Message", "name_of"]

COMMON = struct.Struct("<4I")
"""What every message begins with."""


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
        return COMMON.pack(self.request, self.round, self.step, self.batch) + fixed + tail

    @property
    def name(self) -> str:
        """HELLO, FORWARD ..."""
        return name_of(type(self))


def name_of(kind: type[Message]) -> str:
    """HELLO, GET_PARAMS ..."""
    return "".join("_" + c if c.isupper() and i else c for i, c in enumerate(kind.__name__)).upper()
