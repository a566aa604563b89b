# SPDX-License-Identifier: Apache-2.0
"""What a forward pass is answered by: the tensors at the cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tlc_host import messages as m

__all__ = ["Float32", "Int8", "SmashedReply", "reply_of"]

Int8 = npt.NDArray[np.int8]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SmashedReply:
    """The answer to a forward pass.

    Attributes:
        request: its number; ``backward`` wants it.
        outputs: the output tensors, each (elements,) int8, in the bundle's order.
        ticks: instructions (emulator) or cycles (silicon) that the pass took; a twin's are no measure.
        batch: the batch number it was asked with.
        exited: the one output is that of the head at the cut.
    """

    request: int
    outputs: tuple[Int8, ...]
    ticks: int
    round: int = 0
    step: int = 0
    batch: int = 0
    exited: bool = False


def reply_of(parts: Mapping[int, m.Smashed]) -> SmashedReply:
    """The answer from its messages, one an output, by index."""
    last = parts[max(parts)]
    outputs = tuple(np.frombuffer(parts[i].tensor, np.int8) for i in sorted(parts))
    exited = bool(last.flags & m.SmashedFlag.EXIT)
    return SmashedReply(last.request, outputs, last.ticks, last.round, last.step, last.batch, exited)
