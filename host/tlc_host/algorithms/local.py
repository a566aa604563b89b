# SPDX-License-Identifier: Apache-2.0
"""Every device by itself: SGD on its own samples, no exchange. What a single device does without a host segment, and the
baseline of what exchange brings.

1. Each device does a round's batches of SGD on its own samples: T_n ← T_n − η ∇ loss.
"""

from __future__ import annotations

from tlc_host.algorithms.base import Federated
from tlc_host.cohort import Member

__all__ = ["Local"]


class Local(Federated):
    """Devices learn alone."""

    name = "local"
    title = "Local learning"
    paper = "the baseline of McMahan et al., arXiv 1602.05629"

    async def round(self) -> None:
        """Step 1."""
        await self.cohort.each(self.cohort.present, self.turn)

    async def turn(self, member: Member) -> None:
        """A device's batches."""
        await self.local(member, self.settings.batches)
