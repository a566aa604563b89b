# SPDX-License-Identifier: Apache-2.0
"""How a device learns: what is decided at compile time (:class:`Learning`), and the rate of each step (:class:`Schedule`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = ["Arithmetic", "Learning", "Loss", "Scales", "Schedule", "gradient_bytes"]

Arithmetic = Literal["float", "int"]
Scales = Literal["dynamic", "static"]

Loss = Literal["none", "softmax-ce", "mse"]


@dataclass(frozen=True)
class Learning:
    """The options of ``tlc compile`` beside ``--train``; rates, decay and clipping are told with each step."""

    batch: Literal["many", "1"] = "many"
    """``1``: each tensor is updated as soon as its gradient is known, and no sums are kept over samples."""
    loss: Loss = "none"
    """What the device computes from a label; ``none``: a gradient is handed in where the device segment ends."""
    momentum: bool = False
    """A velocity is kept for each learned element: float32; in integers int16 of a weight, int32 of a bias."""
    feedback: bool = False
    """Of each learned weight the part of a step below one is kept, as int8, instead of being rounded at random."""
    qas: bool = True
    """Quantization-aware scaling: the step of an integer is -rate * (d loss / d real) / scale."""

    arithmetic: Arithmetic = "float"
    """Of the backward pass and the update: float32, or integers alone (:mod:`tlc.ops.training_int`)."""

    scales: Scales = "dynamic"
    """Of gradients in integers: found from the values, or from calibration data (:mod:`tlc.passes.static_scales`)."""

    @property
    def interleaved(self) -> bool:
        """Whether updates stand inside the backward pass."""
        return self.batch == "1"

    def state_bytes(self, weight: bool) -> int:
        """What an element takes in the state beside its integer."""
        summed = 2 if self.arithmetic == "int" else 4
        return summed * (not self.interleaved) + self.memory_bytes(weight)

    def memory_bytes(self, weight: bool) -> int:
        """What an element takes of the optimizer's memory, which the journal keeps: its velocity and its residual."""
        return self.velocity_bytes(weight) + (self.feedback and weight)

    def velocity_bytes(self, weight: bool) -> int:
        """What an element's velocity takes."""
        return (2 if self.arithmetic == "int" and weight else 4) * self.momentum

    def gradient_bytes(self, elements: int) -> int:
        """What the gradient of a tensor takes."""
        return gradient_bytes(elements) if self.arithmetic == "int" else 4 * elements


def gradient_bytes(elements: int) -> int:
    """A gradient in integers: its scale, int16 values, and room for one more, since kernels read pairs."""
    return (4 + 2 * (elements + 1) + 3) // 4 * 4


@dataclass(frozen=True)
class Schedule:
    """The learning rate from step to step; ``firmware/src/train/schedule.c`` for a device that learns alone.

    Cosine: Loshchilov and Hutter, "SGDR" (arXiv 1608.03983, equation 5), without restarts.
    """

    kind: Literal["constant", "step", "cosine"] = "constant"
    warm_up: int = 0
    """Steps over which the rate first rises from 0, linearly."""
    every: int = 0
    """``step``: steps after which the rate is multiplied; ``cosine``: steps over which it falls."""
    factor: float = 0.0
    """``step``: what it is multiplied by; ``cosine``: the part of the rate that is left at the end."""

    def rate(self, rate: float, step: int) -> float:
        """The rate of a step, from 1: a float32, bit for bit that of the device."""
        f = np.float32
        value = f(rate)
        if step <= self.warm_up:
            return float(value * (f(step) / f(self.warm_up)))
        done = step - self.warm_up - 1
        if self.kind == "step" and self.every:
            for _ in range(done // self.every):
                value = value * f(self.factor)
        elif self.kind == "cosine":
            low = value * f(self.factor)
            t = f(done) / f(self.every) if done < self.every else f(1)
            value = low + (value - low) * _half_wave(t)
        return float(value)


def _half_wave(t: np.float32) -> np.float32:
    """(1 + cos(π t)) / 2 for t in [0, 1]."""
    f = np.float32
    a = (t - f(0.5)) * f(3.14159274)
    b = a * a
    s = b * f(-2.50521079e-8) + f(2.75573188e-6)
    for coefficient in (-1.98412701e-4, 8.33333377e-3, -1.66666672e-1, 1.0):
        s = s * b + f(coefficient)
    return f(f(0.5) - f(0.5) * (a * s))
