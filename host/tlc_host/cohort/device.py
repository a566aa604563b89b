# SPDX-License-Identifier: Apache-2.0
"""One device part T in the words of the papers, whatever is behind it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from tlc.errors import DeviceError
from tlc.learning import Schedule
from tlc_host import messages as m
from tlc_host.averaging import Weights
from tlc_host.cohort.values import Float, Int8
from tlc_host.shards import Shard

__all__ = ["AT_ONCE", "BOTH_AT_ONCE", "Device", "DeviceSteps", "Told", "diverged"]

AT_ONCE = "it takes a step after every sample (--train-batch 1), but a batch holds several"
BOTH_AT_ONCE = "it updates while it goes back, but two gradients come together (--train-batch 1)"


class Device(Protocol):
    """One device part T. Every call may raise LinkError and its kinds."""

    name: str
    seed: int
    """Of its stochastic rounding."""
    steps: int
    """The number of its last optimizer step."""

    async def forward(self, x: Int8) -> Int8:
        """z = T(x): (samples, ...) at the cut."""

    async def backward(self, gradient: Float) -> None:
        """Adds the gradient of T up, from (samples, ...) d loss / d z of the last :meth:`forward`'s samples, each of its
        sample's own loss."""

    def give(self, samples: Shard) -> None:
        """Where the device's application is in this process, as a twin's: lays its next samples with their labels before it.
        Nothing of it crosses the link; elsewhere the device has samples of its own, and this does nothing."""

    async def forward_own(self) -> Int8:
        """:meth:`forward` of the next sample of the device's own: (1, ...)."""

    async def forward_tail(self, u: Int8) -> tuple[Float, float, bool]:
        """Of a U-shaped split: the last part of the network on u = L(z), (1, ...) of the last :meth:`forward_own`, its loss
        against the label that the device has, and its backward pass: d loss / d u, the loss, and whether it was right."""

    async def step(self, learning_rate: float) -> None:
        """T ← T − η · mean of the gradients since the last step, then they are forgotten."""

    async def learn(self, samples: Shard, learning_rate: float) -> tuple[float, int]:
        """Forward, backward and a step on samples whose loss the device computes: its mean, and how many were right. Where that
        is the loss of a head at the cut, no smashed data are sent."""

    async def share(self, samples: Shard, learning_rate: float) -> tuple[Int8, float, int]:
        """:meth:`learn` with a head at the cut, and the smashed data of the samples."""

    async def backward_both(self, gradient: Float, labels: NDArray[np.int64]) -> tuple[float, int]:
        """:meth:`backward` where the loss of the head at the cut adds its share: that loss's mean, and how many it got right."""

    async def answer(self, x: Int8, threshold: float) -> tuple[NDArray[np.bool_], Int8, Int8]:
        """Inference with a head at the cut: (samples,) where that is surer than the threshold; of these its output; of the
        others z, which is all that is sent of them."""

    async def get(self) -> Weights:
        """The learned tensors of T."""

    async def set(self, weights: Weights) -> None:
        """Replaces them, and forgets gradients."""

    async def recover(self) -> None:
        """After an error: makes it answer again."""

    def traffic(self) -> tuple[int, int]:
        """Bytes that it sent and took so far."""


class Told(TypedDict):
    """Of a step, beside rate and seed."""

    momentum: float
    weight_decay: float
    clip: float


@dataclass(frozen=True)
class DeviceSteps:
    """What a device's steps are told beside the rate."""

    momentum: float = 0.0
    weight_decay: float = 0.0
    clip: float = 0.0
    schedule: Schedule = field(default_factory=Schedule)

    def rate(self, rate: float, step: int) -> float:
        """The rate of a step, from 1."""
        return self.schedule.rate(rate, step)

    def told(self) -> Told:
        """For :meth:`Session.step` and :meth:`Session.train`."""
        return {"momentum": self.momentum, "weight_decay": self.weight_decay, "clip": self.clip}


def diverged(error: BaseException) -> bool:
    """Whether training diverged on a device."""
    return isinstance(error, DeviceError) and getattr(error, "status", None) == m.Status.NUMERIC
