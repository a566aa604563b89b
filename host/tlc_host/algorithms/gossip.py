# SPDX-License-Identifier: Apache-2.0
"""Gossip averaging: Boyd et al., "Randomized gossip algorithms" (IEEE Trans. Inf. Theory 2006), with local SGD between the
averages as in Lian et al., D-PSGD, arXiv 1705.09056; weights of Xiao and Boyd, "Fast linear iterations for distributed averaging"
(2004), equation 27 (Metropolis).

There is no global T. In a round:

1. each device does its batches of SGD on its own samples;
2. then each averages with its neighbours, ``mixes`` times: T_n ← Σ_m W_nm T_m, where

       W_nm = 1 / (1 + max(degree n, degree m)) for neighbours,   W_nn = 1 − Σ_m W_nm

W is doubly stochastic, so the mean over the devices stays and all come nearer to it. The host only carries the messages, along the edges
of the topology. Each device has its own float shadow, which keeps what rounding takes away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tlc_host.algorithms import base
from tlc_host.algorithms.fedavg import FedAvg
from tlc_host.averaging import Shadow, mean
from tlc_host.cohort import Member

__all__ = ["Gossip", "mixing_matrix"]


class Gossip(FedAvg):
    """Neighbours average, and nobody else."""

    name = "gossip"
    title = "Gossip averaging"
    paper = "Boyd et al., IEEE Trans. Inf. Theory 2006; Lian et al., arXiv 1705.09056"

    class Settings(base.Settings):
        """Adds who is whose neighbour."""

        topology: Literal["ring", "full", "line"] = Field("ring", description="Who is whose neighbour.")
        mixes: int = Field(1, ge=1, description="Averages with the neighbours after a round's batches.")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.shadows: dict[int, Shadow] = {}

    async def round(self) -> None:
        """Steps 1 and 2; who was left out is nobody's neighbour in this round."""
        await self.cohort.each(self.cohort.present, self.turn)
        for _ in range(self.settings.mixes):
            parts = await self.collect(self.cohort.present)
            members = list(parts)
            weights = mixing_matrix(len(members), self.settings.topology)
            for row, member in zip(weights, members, strict=True):
                near = [place for place, weight in enumerate(row) if weight]
                average = mean([parts[members[place]] for place in near], [row[place] for place in near])
                await self.hand(self.own_shadow(member).integers(average), [member], member.device.steps)

    def own_shadow(self, member: Member) -> Shadow:
        """What rounding took away from one device."""
        if member.index not in self.shadows:
            seed = self.settings.seed + member.index
            self.shadows[member.index] = Shadow(self.bundle, self.settings.requantize, seed)
        return self.shadows[member.index]

    def state(self) -> dict[str, Any]:
        """As of the base; with the shadows."""
        return {**super().state(), "shadows": {str(index): shadow.state() for index, shadow in self.shadows.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """As of the base."""
        super().restore(state)
        self.shadows = {}
        for index, kept in state["shadows"].items():
            self.shadows[int(index)] = Shadow(self.bundle, self.settings.requantize, 0)
            self.shadows[int(index)].restore(kept)


def mixing_matrix(count: int, topology: str) -> NDArray[np.float64]:
    """(count, count) Metropolis weights: symmetric, rows sum to 1."""
    edges = np.zeros((count, count), bool)
    for one in range(count):
        for other in range(count):
            apart = abs(one - other)
            near = apart == 1 or (topology == "ring" and apart == count - 1)
            edges[one, other] = one != other and (near or topology == "full")
    degrees = edges.sum(axis=1)
    weights = np.where(edges, 1.0 / (1 + np.maximum.outer(degrees, degrees)), 0.0)
    weights[np.diag_indices(count)] = 1 - weights.sum(axis=1)
    return weights
