# SPDX-License-Identifier: Apache-2.0
"""Clustered federated learning: Sattler et al., "Clustered federated learning: model-agnostic distributed multitask optimization
under privacy constraints", arXiv 1910.01991, algorithms 1 and 4.

Devices whose data ask for different models should not share one. All begin in one cluster. In a round, for each cluster:

1. its devices do their batches from their cluster's T, which gives updates ΔT_n;
2. where the updates have nearly cancelled out, but single ones have not:

       ‖Σ_n D_n ΔT_n / D‖ < ε1 · max_n ‖ΔT_n‖    (and the cluster has trained ``patience`` rounds)

   it is cut in two, so that the largest cosine similarity between the two halves is smallest (hierarchical clustering, single
   linkage: the cut of arXiv 1910.01991, theorem 1);
3. each cluster's T is the average over its devices.

The paper's ε1 and ε2 are absolute norms; here the first is a share of the largest update, so that it needs no knowledge of the
network. Norms and similarities are those of the dequantized values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tlc_host.algorithms import base
from tlc_host.algorithms.base import steps_of
from tlc_host.algorithms.fedavg import FedAvg
from tlc_host.averaging import Shadow, Weights, flat, mean
from tlc_host.cohort import Member

__all__ = ["ClusteredFL", "bipartition"]


class ClusteredFL(FedAvg):
    """Federated averaging in clusters that updates have shown."""

    name = "clustered"
    title = "Clustered federated learning"
    paper = "Sattler et al., arXiv 1910.01991"

    class Settings(base.Settings):
        """Adds when a cluster is cut in two."""

        eps1: float = Field(
            0.6,
            gt=0,
            description="Norm of the mean update, as a share of the largest one, below which a cluster is cut.",
        )
        patience: int = Field(2, ge=1, description="Rounds that a cluster trains before it may be cut.")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.clusters: list[list[int]] = []
        self.ages: list[int] = []
        self.shadows: list[Shadow] = []
        self.scales = {
            entry.name: np.asarray(entry.scale, np.float64).reshape([-1] + [1] * (len(entry.shape) - 1))
            for entry in self.bundle.learned
        }

    async def round(self) -> None:
        """Steps 1 to 3 of every cluster, all at once."""
        present = self.cohort.present
        known = {index for cluster in self.clusters for index in cluster}
        new = [member.index for member in present if member.index not in known]
        if not self.clusters:
            self.clusters, self.ages, self.shadows = [[]], [0], [self.own_shadow(0)]
        self.clusters[0] += new
        begun = {member: member.kept for member in present if member.kept is not None}
        await self.cohort.each(present, self.turn)
        parts = await self.collect(self.cohort.present)
        for number in range(len(self.clusters)):
            self.ages[number] += 1
            self.split(number, [m for m in parts if m.index in self.clusters[number] and m in begun], parts, begun)
        for cluster, shadow in zip(self.clusters, self.shadows, strict=True):
            members = [member for member in parts if member.index in cluster]
            if members:
                average = mean([parts[member] for member in members], [len(member.shard) for member in members])
                await self.hand(shadow.integers(average), members, steps_of(members))
        self.metrics["clusters"] = len(self.clusters)

    def split(
        self, number: int, members: Sequence[Member], parts: Mapping[Member, Weights], begun: Mapping[Member, Weights]
    ) -> None:
        """Step 2."""
        if len(members) < 2 or self.ages[number] < self.settings.patience:
            return
        updates = np.stack([flat(parts[m], self.scales) - flat(begun[m], self.scales) for m in members])
        norms = np.linalg.norm(updates, axis=1)
        shares = np.array([len(member.shard) for member in members], float)
        together = np.linalg.norm(shares @ updates / shares.sum())
        if not norms.min() or together >= self.settings.eps1 * norms.max():
            return
        directions = updates / norms[:, None]
        leaving = [
            member.index
            for member, second in zip(members, bipartition(directions @ directions.T), strict=True)
            if second
        ]
        self.clusters[number] = [index for index in self.clusters[number] if index not in leaving]
        self.clusters.append(leaving)
        self.ages[number] = 0
        self.ages.append(0)
        self.shadows.append(self.own_shadow(len(self.shadows)))

    def own_shadow(self, number: int) -> Shadow:
        """What rounding takes away from one cluster."""
        return Shadow(self.bundle, self.settings.requantize, self.settings.seed + number)

    def state(self) -> dict[str, Any]:
        """As of the base; with the clusters."""
        shadows = [shadow.state() for shadow in self.shadows]
        return {**super().state(), "clusters": self.clusters, "ages": self.ages, "shadows": shadows}

    def restore(self, state: Mapping[str, Any]) -> None:
        """As of the base."""
        super().restore(state)
        self.clusters = [list(cluster) for cluster in state["clusters"]]
        self.ages = list(state["ages"])
        self.shadows = [self.own_shadow(number) for number in range(len(state["shadows"]))]
        for shadow, kept in zip(self.shadows, state["shadows"], strict=True):
            shadow.restore(kept)


def bipartition(similarity: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n,) True for one half: pairs join in falling similarity until two groups are left."""
    count = len(similarity)
    group = np.arange(count)
    one, other = np.triu_indices(count, 1)
    for pair in np.argsort(-similarity[one, other], kind="stable"):
        if len(np.unique(group)) == 2:
            break
        group[group == group[other[pair]]] = group[one[pair]]
    return np.asarray(group != group[0])
