# SPDX-License-Identifier: Apache-2.0
"""SplitFed V2: Thapa et al., "SplitFed: when federated learning meets split learning", arXiv 2004.12088, section 3.2.

1. All devices begin a round with T.
2. The main server has one L. For each of a round's batches it serves the devices one after the other, in a random order: forward, backward and
   a step of both halves, as in vanilla split learning (vsl.py), L going on from one device to the next.
3. The fed server averages: T ← Σ_n D_n T_n / Σ_n D_n.

L meets all devices in every batch, which keeps it from forgetting where their data differ.
"""

from __future__ import annotations

from tlc_host.algorithms.vsl import VSL
from tlc_host.cohort import Member

__all__ = ["SplitFedV2"]


class SplitFedV2(VSL):
    """One host segment, devices in random order, device parts averaged."""

    name = "splitfed-v2"
    title = "SplitFed V2"
    paper = "Thapa et al., arXiv 2004.12088"

    async def round(self) -> None:
        """Steps 1 to 3."""
        present = self.cohort.present
        for _ in range(self.settings.batches):
            for place in self.rng.permutation(len(present)):
                await self.cohort.each([present[place]], self.one)
        await self.average(present)

    async def one(self, member: Member) -> None:
        """A batch of one device."""
        tally = await self.batch(member, member.draw(self.settings.batch))
        await self.report(tally, member)
