# SPDX-License-Identifier: Apache-2.0
"""Efficient parallel split learning: Lin et al., "Efficient parallel split learning over resource-constrained wireless edge
networks", arXiv 2303.15991, section IV, with the aggregation ratio φ.

Parallel split learning (psl.py), where the server's backward pass is done once for all devices. In slot j of a batch (the j-th
sample of every device), with λ_n = D_n / Σ D:

1. the server runs L on the z_n of all devices and takes the gradient at the last layer, p_n − y_n;
2. for j < ⌈φ b⌉ it aggregates them, Σ_n λ_n (p_n − y_n), back-propagates that once, and broadcasts the result G_a;
3. for the other slots it back-propagates each device's own, and unicasts G_u;
4. L, whose gradient weighs every slot alike, and the T_n take a step.

φ = 0 is PSL. At φ = 1 the server's backward pass has b rows, whatever the number of devices.

A backward pass needs an input at which it is taken. The paper leaves open which one goes with an aggregated gradient; here it is
the aggregated smashed data, Σ_n λ_n z_n.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tlc_host.algorithms import base
from tlc_host.algorithms.base import Float, Int8, Slot, Tally, cross_entropy
from tlc_host.algorithms.psl import PSL
from tlc_host.cohort import Member

__all__ = ["EPSL"]


class EPSL(PSL):
    """Parallel split learning with aggregated last-layer gradients."""

    name = "epsl"
    title = "Efficient parallel split learning"
    paper = "Lin et al., arXiv 2303.15991"

    class Settings(base.Settings):
        """Adds the aggregation ratio."""

        phi: float = Field(
            0.5, ge=0, le=1, description="Share φ of a batch's slots whose gradients are aggregated; 0 is PSL."
        )

    async def round(self) -> None:
        """As in PSL; tells the rows of the server's backward passes."""
        self.metrics["server_backward_rows"] = 0
        await super().round()

    async def learn(self, slot: Slot, z: Mapping[Member, Int8], tally: Tally) -> dict[Member, Float]:
        """Steps 1 to 3."""
        if not z:
            return {}
        rows = len(next(iter(z.values())))
        aggregated = min(max(math.ceil(self.settings.phi * self.settings.batch - 1e-9) - slot.first, 0), rows)
        shared = await self.aggregated(slot, {member: part[:aggregated] for member, part in z.items()}, tally)
        rest = Slot(slot.first, {m: part.take(np.arange(aggregated, rows)) for m, part in slot.parts.items()})
        if aggregated == rows:
            return dict.fromkeys(z, shared)
        own = await super().learn(rest, {member: part[aggregated:] for member, part in z.items()}, tally)
        self.metrics["server_backward_rows"] += len(z) * (rows - aggregated)
        return {member: np.concatenate([shared, own[member]]) if aggregated else own[member] for member in z}

    async def aggregated(self, slot: Slot, z: Mapping[Member, Int8], tally: Tally) -> Float:
        """G_a of some slots: (slots, ...)."""
        together: Int8 = np.stack(list(z.values()))
        devices, rows = together.shape[:2]
        if not rows:
            return np.empty(0, np.float32)
        weights: NDArray[np.float32] = np.array([len(member.shard) for member in z], np.float32)
        weights /= weights.sum()
        labels = np.concatenate([slot.parts[member].labels[:rows] for member in z])
        flat = together.reshape(devices * rows, *together.shape[2:])
        logits = (await self.server.forward(flat, logits=True)).reshape(len(flat), -1)
        loss, error = cross_entropy(logits, labels)
        tally.add(float(loss.mean()), int((logits.argmax(1) == labels).sum()), len(flat))
        one = np.tensordot(weights, error.reshape(devices, rows, -1), 1)
        where = np.tensordot(weights, together.astype(np.float32), 1)
        self.metrics["server_backward_rows"] += rows
        # of the mean over the rows, which stand for the samples of all devices
        back = await self.server.backward(where, one / np.float32(rows), logits=True, samples=devices * rows)
        return back * np.float32(rows)
