# SPDX-License-Identifier: Apache-2.0
"""TinyReptile: Ren et al., "TinyReptile: TinyML with federated meta-learning", arXiv 2304.05201, algorithm 1; after Nichol et al.,
Reptile, arXiv 1803.02999.

Looks for a T from which a few samples are enough to learn a device's own task. In each step of a round the server

1. picks one device and sends it φ;
2. the device does k steps of online SGD from φ, one sample each, which it need not store, and sends θ;
3. φ ← φ + α_t (θ − φ), α_t falling linearly from α to 0 over the run.

At the end every device gets φ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from tlc_host.algorithms import base
from tlc_host.algorithms.base import Federated
from tlc_host.averaging import Floats, Weights
from tlc_host.cohort import Member

__all__ = ["TinyReptile"]


class TinyReptile(Federated):
    """One device at a time, online SGD, and a step towards where it got."""

    name = "tinyreptile"
    title = "TinyReptile"
    paper = "Ren et al., arXiv 2304.05201"

    class Settings(base.Settings):
        """Adds the outer step."""

        alpha: float = Field(1.0, gt=0, le=1, description="First outer learning rate α; it falls linearly to 0.")
        visits: int = Field(10, ge=1, description="Devices picked in a round.")
        batches: int = Field(32, ge=1, description="Steps k of a device in a visit, of one sample each.")
        batch: int = Field(1, ge=1, description="Samples in a step: online learning takes 1.")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.phi: Floats = {}
        self.visited = 0

    async def round(self) -> None:
        """``visits`` times steps 1 to 3."""
        for _ in range(self.settings.visits):
            present = self.cohort.present
            if not present:
                return
            member = present[int(self.rng.integers(len(present)))]
            for theta in (await self.cohort.each([member], self.visit)).values():
                share = 1 - self.visited / (self.settings.rounds * self.settings.visits)
                rate = self.settings.alpha * share
                self.phi = {name: value + rate * (theta[name] - value) for name, value in self.phi.items()}
                self.visited += 1

    async def visit(self, member: Member) -> Weights:
        """Steps 1 and 2: θ."""
        if not self.phi:
            self.phi = {name: value.astype(np.float64) for name, value in (await member.device.get()).items()}
        await member.device.set(self.shadow.integers(self.phi))
        await self.local(member, self.settings.batches)
        return await member.device.get()

    async def end(self) -> None:
        """φ to everyone."""
        if self.phi:
            present = self.cohort.present
            steps = max((member.device.steps for member in present), default=0)
            await self.hand(self.shadow.integers(self.phi), present, steps)

    def state(self) -> dict[str, Any]:
        """As of the base; with φ."""
        phi = {name: value.tolist() for name, value in self.phi.items()}
        return {**super().state(), "phi": phi, "visited": self.visited}

    def restore(self, state: Mapping[str, Any]) -> None:
        """As of the base."""
        super().restore(state)
        self.phi = {name: np.array(value, np.float64) for name, value in state["phi"].items()}
        self.visited = state["visited"]
