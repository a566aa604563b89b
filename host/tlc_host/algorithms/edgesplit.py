# SPDX-License-Identifier: Apache-2.0
"""EdgeSplit: Zhang et al., "Resource-efficient parallel split learning in heterogeneous edge computing", arXiv 2403.15815.

Parallel split learning (psl.py) with federated averaging of the device parts:

1. a round's batches as in PSL, all devices at once, one L;
2. then T ← Σ_n D_n T_n / Σ_n D_n, and every device begins the next round with T.

The paper also gives each device a cut of its own; here all devices of a run have the bundle's cut.
"""

from __future__ import annotations

from tlc_host.algorithms.psl import PSL

__all__ = ["EdgeSplit"]


class EdgeSplit(PSL):
    """Parallel split learning, the device parts averaged after every round."""

    name = "edgesplit"
    title = "EdgeSplit"
    paper = "Zhang et al., arXiv 2403.15815"

    async def round(self) -> None:
        """Steps 1 and 2."""
        await self.batches(self.cohort.present)
        await self.average(self.cohort.present)
