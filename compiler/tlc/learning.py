# SPDX-License-Identifier: Apache-2.0
"""How a device learns, as far as it is decided at compile time: what takes memory, and where the loss is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Learning", "Loss"]

Loss = Literal["none", "softmax-ce", "mse"]


@dataclass(frozen=True)
class Learning:
    """The options of ``tlc compile`` beside ``--train``; rates, decay and clipping are told with each step."""

    batch: Literal["many", "1"] = "many"
    """``1``: each tensor is updated as soon as its gradient is known, and no sums are kept over samples."""
    loss: Loss = "none"
    """What the device computes from a label; ``none``: a gradient is handed in where the device segment ends."""
    momentum: bool = False
    """A float32 velocity is kept for each learned element."""
    feedback: bool = False
    """Of each learned weight the part of a step below one is kept, as int8, instead of being rounded at random."""
    qas: bool = True
    """Quantization-aware scaling: the step of an integer is -rate * (d loss / d real) / scale."""

    @property
    def interleaved(self) -> bool:
        """Whether updates stand inside the backward pass."""
        return self.batch == "1"

    def state_bytes(self, weight: bool) -> int:
        """What an element takes in the state beside its integer."""
        return 4 * (not self.interleaved) + 4 * self.momentum + (self.feedback and weight)
