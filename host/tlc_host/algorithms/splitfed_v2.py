# SPDX-License-Identifier: Apache-2.0
"""SplitFed V2: Thapa et al., "SplitFed: when federated learning meets split learning", arXiv 2004.12088, section 3.2.

1. All devices begin a round with T.
2. The main server has one L, and serves the devices one after the other, in a random order: a round's batches of each as in
   vanilla split learning (vsl.py), L going on from one device to the next.
3. The fed server averages: T ← Σ_n D_n T_n / Σ_n D_n.
"""

from __future__ import annotations

from tlc_host.algorithms.vsl import VSL

__all__ = ["SplitFedV2"]


class SplitFedV2(VSL):
    """One host segment, devices in random order, device parts averaged."""

    name = "splitfed-v2"
    title = "SplitFed V2"
    paper = "Thapa et al., arXiv 2004.12088"

    async def round(self) -> None:
        """Steps 1 to 3."""
        present = self.cohort.present
        for place in self.rng.permutation(len(present)):
            await self.cohort.each([present[place]], self.turn)
        await self.average(present)
