# SPDX-License-Identifier: Apache-2.0
"""Online distillation among devices: Anil et al., "Large scale distributed neural network training through online distillation"
(codistillation), arXiv 1804.03235, algorithm 1; per-label targets as in Jeong et al., federated distillation, arXiv 1811.11479,
algorithm 1; the loss of Hinton et al., arXiv 1503.02531.

Devices teach each other by what they say instead of by their weights, so their parts stay their own. In a round:

1. each device trains on its own samples by

       α CE(y, p) + (1 − α) τ² KL(q ‖ p^τ),    p^τ = softmax(logits / τ)

   whose gradient at the logits is α (p − y) + (1 − α) τ (p^τ − q);
2. the host notes the device's mean softened output for each label, q_n[y];
3. at the end of the round each device's teacher is the mean of the *others'*: q = Σ_{m≠n} q_m[y] / (N − 1); in the first round, and
   where no other has had a label, there is no teacher and the loss is CE.

Up go logits, down gradients; T is never sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tlc.bundle import Bundle
from tlc_host.algorithms import base
from tlc_host.algorithms.base import Federated, Float, Int8, Tally, cross_entropy, require_outputs
from tlc_host.cohort import Member
from tlc_host.shards import Shard

__all__ = ["OnlineDistillation"]

Table = NDArray[np.float64]


class OnlineDistillation(Federated):
    """Devices teach each other by their outputs."""

    name = "distillation"
    title = "Online distillation"
    paper = "Anil et al., arXiv 1804.03235; Jeong et al., arXiv 1811.11479"

    class Settings(base.Settings):
        """Adds the teacher's weight."""

        alpha: float = Field(0.7, ge=0, le=1, description="Weight α of the labels' loss; 1 − α is the teacher's.")
        temperature: float = Field(2.0, gt=0, description="Temperature τ at which outputs are softened.")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        classes = self.server.model.classes
        self.classes = classes
        self.taught: dict[int, Table] = {}
        """By device: (classes, classes) the mean softened output for each label; NaN where it had none."""
        self.sums: dict[int, Table] = {}
        self.counts: dict[int, Table] = {}

    @classmethod
    def require(cls, bundle: Bundle, where: str) -> None:
        """As of the base; and the outputs must come to the host."""
        require_outputs(cls.name, bundle, where)
        super().require(bundle, where)

    async def round(self) -> None:
        """Steps 1 to 3."""
        self.sums, self.counts = {}, {}
        await self.cohort.each(self.cohort.present, self.turn)
        for index, total in self.sums.items():
            with np.errstate(invalid="ignore"):
                self.taught[index] = total / self.counts[index][:, None]

    async def turn(self, member: Member) -> None:
        """Steps 1 and 2 of one device."""
        self.sums[member.index] = np.zeros((self.classes, self.classes))
        self.counts[member.index] = np.zeros(self.classes)
        teacher = self.teacher(member.index)
        settings = self.settings
        tally = Tally()
        for _ in range(settings.batches):
            chosen = member.draw(settings.batch)
            size = 1 if settings.exchange == "sample" else settings.batch
            for first in range(0, settings.batch, size):
                part = chosen.take(np.arange(first, min(first + size, settings.batch)))
                z = await member.device.forward(part.inputs)
                await member.device.backward(await self.taught_gradient(member.index, teacher, part, z, tally))
            await member.device.step(settings.lr)
        await self.server.discard()
        await self.report(tally, member)

    def teacher(self, index: int) -> Table:
        """(classes, classes) of the others; NaN where nobody can tell."""
        others = [table for other, table in self.taught.items() if other != index]
        if not others:
            return np.full((self.classes, self.classes), np.nan)
        known = np.stack([~np.isnan(table[:, :1]) for table in others])
        total = np.stack([np.nan_to_num(table) for table in others]).sum(axis=0)
        with np.errstate(invalid="ignore"):
            return np.asarray(total / known.sum(axis=0))

    async def taught_gradient(self, index: int, teacher: Table, part: Shard, z: Int8, tally: Tally) -> Float:
        """g of a batch."""
        tau, alpha = self.settings.temperature, self.settings.alpha
        logits = (await self.server.forward(z, logits=True)).reshape(len(z), -1)
        loss, error = cross_entropy(logits, part.labels)
        tally.add(float(loss.mean()), int((logits.argmax(1) == part.labels).sum()), len(part))
        soft = softmax(logits / tau)
        np.add.at(self.sums[index], part.labels, soft)
        np.add.at(self.counts[index], part.labels, 1)
        wanted = teacher[part.labels]
        has = ~np.isnan(wanted[:, :1])
        mixed = np.where(has, alpha * error + (1 - alpha) * tau * (soft - np.nan_to_num(wanted)), error)
        return await self.server.backward(z, mixed.astype(np.float32), logits=True)

    def state(self) -> dict[str, Any]:
        """As of the base; with what was said of each label."""
        taught = {str(k): np.nan_to_num(v, nan=-1.0).tolist() for k, v in self.taught.items()}
        return {**super().state(), "taught": taught}

    def restore(self, state: Mapping[str, Any]) -> None:
        """As of the base."""
        super().restore(state)
        tables = {int(index): np.array(table, np.float64) for index, table in state["taught"].items()}
        self.taught = {index: np.where(table < 0, np.nan, table) for index, table in tables.items()}


def softmax(logits: NDArray[Any]) -> Table:
    """Row by row."""
    e = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))
