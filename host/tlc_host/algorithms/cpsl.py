# SPDX-License-Identifier: Apache-2.0
"""Cluster-based parallel split learning: Wu et al., "Split learning over wireless networks: parallel design and resource
management", arXiv 2204.08119, algorithm 1.

The devices are dealt into M clusters. In a round, for each cluster in turn:

1. its devices get T from the cluster before;
2. they train in parallel with the one L (psl.py), a round's batches;
3. T ← Σ_n D_n T_n / Σ_n D_n over the cluster, and goes to the next.

One cluster is EdgeSplit (edgesplit.py); clusters of one device are vanilla split learning (vsl.py). The paper chooses clusters by
the devices' radio and speed; here they are consecutive devices.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from tlc_host.algorithms import base
from tlc_host.algorithms.base import steps_of
from tlc_host.algorithms.edgesplit import EdgeSplit

__all__ = ["CPSL"]


class CPSL(EdgeSplit):
    """Parallel inside clusters, one cluster after the other."""

    name = "cpsl"
    title = "Cluster-based parallel split learning"
    paper = "Wu et al., arXiv 2204.08119"

    class Settings(base.Settings):
        """Adds the number of clusters."""

        clusters: int = Field(
            2, ge=1, description="Clusters M; 1 is EdgeSplit, as many as devices vanilla split learning."
        )

    @classmethod
    def host_steps(cls, settings: Settings, devices: int) -> int:
        """One for a batch of every cluster."""
        return super().host_steps(settings, devices) * min(settings.clusters, devices)

    async def round(self) -> None:
        """Each cluster in turn."""
        present = self.cohort.present
        for places in np.array_split(np.arange(len(present)), min(self.settings.clusters, len(present))):
            cluster = [present[place] for place in places]
            if self.handed is not None and self.settings.clusters > 1:
                await self.hand(self.handed, cluster, self.handed_steps)
            await self.batches(cluster)
            weights = await self.average(cluster)
            if weights is not None:
                self.handed, self.handed_steps = weights, steps_of(cluster)
