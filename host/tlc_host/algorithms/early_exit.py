# SPDX-License-Identifier: Apache-2.0
"""Early exit: Teerapittayanon, McDanel and Kung, "Distributed deep neural networks over the cloud, the edge and end devices"
(ICDCS 2017, arXiv 1709.01921), one device exit and the cloud's; its training is theirs of BranchyNet (ICPR 2016, arXiv 1709.01686).

The device has T and a head B at the cut, the server L. An easy sample is answered by B(T(x)), and nothing is sent; for the others
the server answers L(T(x)). Both exits are trained together, by the weighted sum of their losses

    J = l(L(z), y) + w l(B(z), y),    z = T(x)

All devices at once, one L, as in parallel split learning (psl.py). In each of a round's batches:

1. every device sends z_n = T_n(x_n);
2. the server takes the gradient of its loss and returns g_n;
3. the device adds to g_n, at the cut, w times the gradient that its own head gives for the sample's label, and takes that on
   through T_n;
4. L ← L − η ∇L; on each device T_n ← T_n − η ∇T_n J, B_n ← B_n − η w ∇l.

After a round every device answers `probe` of its own samples as it would in use: where B's largest probability is above the
`threshold`, by itself. The round tells the share of these exits, how many of them were right, and how many of all.

The paper's exit compares B's normalized entropy; here it is the largest probability (as in Huang et al., arXiv 1703.09844), which
the int8 softmax gives in steps of 1/256 without further arithmetic. w = 0 is parallel split learning. A device computes
g_n / w + ∇l and takes steps of η w, which is the same; weight decay and clipping see it so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from tlc.bundle import Bundle
from tlc.errors import ConfigError
from tlc_host.algorithms import base
from tlc_host.algorithms.base import Tally
from tlc_host.algorithms.psl import PSL
from tlc_host.cohort import Member

__all__ = ["EarlyExit"]


class Settings(base.Settings):
    """w, and the exit in use."""

    weight: float = Field(1.0, ge=0, lt=math.inf, description="Weight w of the head's loss; 0 is PSL.")
    threshold: float = Field(
        0.8, ge=0, le=1, description="Probability above which a device answers by itself; 0: always, 1: never."
    )
    probe: int = Field(16, ge=0, description="Own samples that a device answers after a round, to tell how exits do.")


class EarlyExit(PSL):
    """Devices answer what they are sure of, the server the rest; both are trained together."""

    name = "early-exit"
    title = "Early exit"
    paper = "Teerapittayanon et al., arXiv 1709.01921 and 1709.01686"
    exits = True
    Settings: ClassVar[type[base.Settings]] = Settings

    @classmethod
    def require(cls, bundle: Bundle, where: str) -> None:
        """As of the base; and gradients must be summed up."""
        super().require(bundle, where)
        if bundle.learning is not None and bundle.learning.interleaved:
            raise ConfigError(
                "the device updates while it goes back, but two gradients come together",
                where=where,
                remedy="compile with --train-batch many",
            )

    async def round(self) -> None:
        """``batches`` joint batches, and a look at the exits."""
        self.heads = Tally()
        await super().round()
        if self.heads.samples:
            self.metrics |= {"head loss": self.heads.mean_loss, "head accuracy": self.heads.accuracy}
        await self.look(self.cohort.present)

    async def batch(self, members: Sequence[Member]) -> None:
        """One: steps 1 to 4."""
        w = self.settings.weight
        if not w:
            await super().batch(members)
            return
        tally = Tally()
        for slot in self.slots(members):
            z = await self.forward(slot)
            g = await self.learn(slot, z, tally)
            told = await self.cohort.each(
                g,
                lambda member, g=g, slot=slot: member.device.backward_both(  # type: ignore[misc]
                    g[member] / np.float32(w), slot.parts[member].labels
                ),
            )
            for member, (loss, correct) in told.items():
                self.heads.add(loss, correct, len(slot.parts[member]))
        await self.apply(tally)
        await self.cohort.each(members, lambda member: member.device.step(self.settings.lr * w))
        await self.report(tally, members[0] if len(members) == 1 else None)

    async def look(self, members: Sequence[Member]) -> None:
        """Inference as it is in use, on samples that take no part in the draws."""
        settings = self.settings
        if not settings.probe:
            return
        parts = {
            member: self.rng.choice(len(member.shard), min(settings.probe, len(member.shard)), replace=False)
            for member in members
        }
        shards = {member: member.shard.take(places) for member, places in parts.items()}
        answers = await self.cohort.each(
            members, lambda member: member.device.answer(shards[member].inputs, settings.threshold)
        )
        exits = right = right_exits = samples = 0
        for member, (sure, own, z) in answers.items():
            labels = shards[member].labels
            good = int((own.reshape(len(own), -1).argmax(1) == labels[sure]).sum()) if len(own) else 0
            right_exits += good
            right += good
            if len(z):
                outputs = (await self.server.infer(z))[0].reshape(len(z), -1)
                right += int((outputs.argmax(1) == labels[~sure]).sum())
            exits, samples = exits + int(sure.sum()), samples + len(labels)
        if samples:
            self.metrics |= {"exits": exits / samples, "answers right": right / samples}
        if exits:
            self.metrics["exits right"] = right_exits / exits
