# SPDX-License-Identifier: Apache-2.0
"""FedProx: Li et al., "Federated optimization in heterogeneous networks", arXiv 1812.06127, algorithm 2.

Federated averaging (fedavg.py), where each device minimizes its loss plus μ/2 ‖w − w_t‖², w_t the average that it began with: it
cannot drift far from the others, and may do less work than they.

The device's optimizer knows no such term. The host takes it apart from the loss, as a proximal step (Parikh and Boyd, "Proximal
algorithms", 2014, section 4.2): after ``prox_every`` = k SGD steps,

    w ← (w + k η μ w_t) / (1 + k η μ)

which is the minimizer of μ/2 ‖v − w_t‖² + ‖v − w‖² / (2 k η). It costs a transfer of T each way. μ = 0 is FedAvg.
"""

from __future__ import annotations

from pydantic import Field

from tlc_host.algorithms import base
from tlc_host.algorithms.fedavg import FedAvg
from tlc_host.averaging import Shadow
from tlc_host.cohort import Member

__all__ = ["FedProx"]


class FedProx(FedAvg):
    """Federated averaging with a term that holds devices near the average."""

    name = "fedprox"
    title = "FedProx"
    paper = "Li et al., arXiv 1812.06127"

    class Settings(base.Settings):
        """Adds the proximal term."""

        mu: float = Field(0.1, ge=0, description="Strength μ of the proximal term; 0 is FedAvg.")
        prox_every: int = Field(10, ge=1, description="SGD steps between two proximal steps.")

    async def turn(self, member: Member) -> None:
        """Local steps, each ``prox_every`` followed by a proximal one."""
        begun, left = await member.device.get(), self.settings.batches
        shadow = Shadow(self.bundle, self.settings.requantize, self.settings.seed + member.index)
        while left:
            some = min(left, self.settings.prox_every)
            await self.local(member, some)
            left -= some
            pull = some * self.settings.lr * self.settings.mu
            if pull:
                now = await member.device.get()
                wanted = {name: (now[name] + pull * begun[name].astype(float)) / (1 + pull) for name in now}
                await member.device.set(shadow.integers(wanted))
