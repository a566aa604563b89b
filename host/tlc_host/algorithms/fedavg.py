# SPDX-License-Identifier: Apache-2.0
"""Federated averaging: McMahan et al., "Communication-efficient learning of deep networks from decentralized data",
arXiv 1602.05629, algorithm 1.

1. Every device gets T.
2. Each does a round's batches of SGD on its own samples: T_n ← T_n − η ∇ loss.
3. T ← Σ_n D_n T_n / Σ_n D_n.

The weights are int8 with scales that all devices share. The average is that of the dequantized values; it is rounded back, and what
rounding takes away is kept on the host and added to the next one (``requantize``, :mod:`tlc_host.averaging`).
"""

from __future__ import annotations

from tlc_host.algorithms.base import Federated
from tlc_host.cohort import Member

__all__ = ["FedAvg"]


class FedAvg(Federated):
    """Local training, then the average."""

    name = "fedavg"
    title = "Federated averaging"
    paper = "McMahan et al., arXiv 1602.05629"

    async def round(self) -> None:
        """Steps 2 and 3, after which every device has T."""
        await self.cohort.each(self.cohort.present, self.turn)
        await self.average(self.cohort.present)

    async def turn(self, member: Member) -> None:
        """Step 2 of one device."""
        await self.local(member, self.settings.batches)
