# SPDX-License-Identifier: Apache-2.0
"""Parallel split learning: Jeon and Kim, "Privacy-sensitive parallel split learning" (ICOIN 2020); the baseline of
Lin et al., arXiv 2303.15991, section III.

All devices at once, one L. In each of a round's batches:

1. every device sends z_n = T_n(x_n) and the labels' places;
2. the server runs L on all z_n together, takes the gradient of the mean loss over the N b samples, and returns to each device
   g_n, of its own samples;
3. L ← L − η ∇L; on each device T_n ← T_n − η · mean over its b samples of dT_n/dw · g_n.

The T_n are not averaged: each device has its own. A gradient g_n is that of the sample's own loss, so that a device's step is as
long as in vanilla split learning, whatever N.
"""

from __future__ import annotations

from collections.abc import Sequence

from tlc_host.algorithms.base import Split, Tally
from tlc_host.cohort import Member

__all__ = ["PSL"]


class PSL(Split):
    """All devices at once, one host segment, device parts apart."""

    name = "psl"
    title = "Parallel split learning"
    paper = "Jeon and Kim, ICOIN 2020; Lin et al., arXiv 2303.15991, section III"

    async def round(self) -> None:
        """``batches`` joint batches."""
        await self.batches(self.cohort.present)

    async def batches(self, members: Sequence[Member]) -> None:
        """Joint batches of some devices."""
        for _ in range(self.settings.batches):
            await self.batch(members)

    async def batch(self, members: Sequence[Member]) -> None:
        """One: steps 1 to 3."""
        tally = Tally()
        for slot in self.slots(members):
            z = await self.forward(slot)
            g = await self.learn(slot, z, tally)
            await self.backward(g)
        await self.apply(tally)
        await self.step(members)
        await self.report(tally, members[0] if len(members) == 1 else None)
