# SPDX-License-Identifier: Apache-2.0
"""FedAsync: Xie et al., "Asynchronous federated optimization", arXiv 1903.03934, algorithm 1, polynomial staleness.

No device waits for another. Each, over and over, gets T of version τ, trains on its own samples, and sends T_n; when that arrives at
version t, the server mixes

    T ← (1 − α_t) T + α_t T_n,    α_t = α (1 + t − τ)^−a

A round ends after as many updates as there are devices. Who is still training then goes on in the next one. The order is that in which
updates arrive: unlike the other algorithms, two runs with one seed differ.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from tlc.errors import LinkError
from tlc_host.algorithms import base
from tlc_host.algorithms.base import Federated
from tlc_host.averaging import Floats, Weights
from tlc_host.cohort import Member

__all__ = ["FedAsync"]


class FedAsync(Federated):
    """Updates are mixed in as they come, the staler the less."""

    name = "fedasync"
    title = "Asynchronous federated averaging"
    paper = "Xie et al., arXiv 1903.03934"
    keeps = False

    class Settings(base.Settings):
        """Adds the mixing."""

        alpha: float = Field(0.6, gt=0, le=1, description="Weight α of a fresh update.")
        a: float = Field(0.5, ge=0, description="Exponent a of staleness: α (1 + s)^−a.")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.version = 0
        self.current: Floats = {}
        self.running: dict[Member, asyncio.Task[tuple[int, Weights]]] = {}

    async def round(self) -> None:
        """As many updates as there are devices."""
        if not self.current:
            first = next(iter((await self.collect(self.cohort.present[:1])).values()), None)
            if first is None:
                return
            self.current = {name: value.astype(np.float64) for name, value in first.items()}
        staleness: list[int] = []
        wanted = len(self.cohort.present)
        try:
            while len(staleness) < wanted and self.cohort.present:
                for member in self.cohort.present:
                    if member not in self.running:
                        self.running[member] = asyncio.ensure_future(self.turn(member))
                await asyncio.wait(self.running.values(), return_when=asyncio.FIRST_COMPLETED)
                for member in [member for member, task in self.running.items() if task.done()]:
                    stale = self.arrived(member)
                    if stale is not None:
                        staleness.append(stale)
        except BaseException:
            await self.close()
            raise
        self.metrics["staleness"] = float(np.mean(staleness)) if staleness else 0.0

    async def turn(self, member: Member) -> tuple[int, Weights]:
        """One update of a device: the version it began with, and T_n."""
        version = self.version
        await member.device.set(self.shadow.integers(self.current))
        await self.local(member, self.settings.batches)
        return version, await member.device.get()

    def arrived(self, member: Member) -> int | None:
        """Mixes an update in; its staleness."""
        task = self.running.pop(member)
        error = task.exception()
        if isinstance(error, LinkError) and len(self.cohort.members) > 1:
            self.cohort.leave_out(member, error)
            return None
        version, weights = task.result()
        stale = self.version - version
        rate = self.settings.alpha * (1 + stale) ** -self.settings.a
        self.current = {name: (1 - rate) * value + rate * weights[name] for name, value in self.current.items()}
        self.version += 1
        member.kept = weights
        return stale

    def state(self) -> dict[str, Any]:
        """As of :class:`Algorithm`; with T as floats."""
        current = {name: value.tolist() for name, value in self.current.items()}
        return {**super().state(), "version": self.version, "current": current}

    def restore(self, state: Mapping[str, Any]) -> None:
        """As of :class:`Algorithm`."""
        super().restore(state)
        self.version = state["version"]
        self.current = {name: np.array(value, np.float64) for name, value in state["current"].items()}

    async def close(self) -> None:
        """Ends what still runs."""
        tasks = list(self.running.values())
        self.running.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def end(self) -> None:
        """Every device gets T at the end."""
        await self.close()
        if self.current:
            present = self.cohort.present
            await self.hand(
                self.shadow.integers(self.current), present, max((m.device.steps for m in present), default=0)
            )
