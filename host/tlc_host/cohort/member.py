# SPDX-License-Identifier: Apache-2.0
"""A device among others: its samples, and what a round knows of it."""

from __future__ import annotations

from dataclasses import dataclass

from tlc_host.averaging import Weights
from tlc_host.cohort.device import Device
from tlc_host.shards import Order, Shard

__all__ = ["Left", "Member"]


class Member:
    """A device, its samples, and what a round knows of it.

    Attributes:
        index: from 0, in the order in which they joined.
        device: the device part T.
        shard: D_n.
        kept: T as it was when the last round ended; None before the first. A device that was left out goes on from here.
    """

    def __init__(self, index: int, device: Device, shard: Shard, seed: int) -> None:
        self.index = index
        self.device = device
        self.shard = shard
        self.order = Order(len(shard), seed, index)
        self.kept: Weights | None = None
        self.left: Exception | None = None
        self.behind = False
        self.busy_s = 0.0

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.device.name

    @property
    def present(self) -> bool:
        """Whether it takes part in the round that runs."""
        return self.left is None

    def draw(self, count: int) -> Shard:
        """The next batch of its own samples."""
        return self.shard.take(self.order.take(count))


@dataclass(frozen=True)
class Left:
    """Who was left out of a round, and why."""

    name: str
    reason: str
