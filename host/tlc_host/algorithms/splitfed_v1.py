# SPDX-License-Identifier: Apache-2.0
"""SplitFed V1: Thapa et al., "SplitFed: when federated learning meets split learning", arXiv 2004.12088, algorithm 1.

1. All devices begin a round with T, and the main server with a copy L_n of L for each.
2. In parallel, each device and its L_n do a round's batches, as in vanilla split learning (vsl.py).
3. The main server averages L ← Σ_n D_n L_n / Σ_n D_n, the fed server T ← Σ_n D_n T_n / Σ_n D_n.

What an optimizer keeps beside L (momentum, Adam) is averaged with it.

The copies share one TensorFlow function, whose weights are exchanged when another device's turn comes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc_host.algorithms.base import Split, Tally, average_server, steps_of
from tlc_host.averaging import mean
from tlc_host.cohort import Member

__all__ = ["SplitFedV1"]

State = dict[str, NDArray[Any]]


class SplitFedV1(Split):
    """A copy of the host segment for each device; both halves averaged."""

    name = "splitfed-v1"
    title = "SplitFed V1"
    paper = "Thapa et al., arXiv 2004.12088"

    async def round(self) -> None:
        """Steps 1 to 3."""
        self.loaded: Member | None = None
        await self.server.call(self.server.model.weights)  # its training begins here, if it has not: a snapshot has all
        self.common: State = await self.server.snapshot()
        self.copies: dict[Member, State] = {}
        await self.cohort.each(self.cohort.present, self.turn)
        parts = await self.collect(self.cohort.present)
        if self.loaded is not None:
            self.copies[self.loaded] = await self.server.snapshot()
        if not parts:
            await self.server.restore(self.common)
            return
        shares = [len(member.shard) for member in parts]
        await self.server.restore(average_server([self.copies[member] for member in parts], shares))
        await self.hand(self.shadow.integers(mean(list(parts.values()), shares)), list(parts), steps_of(parts))

    async def turn(self, member: Member) -> None:
        """Step 2 of one device."""
        for _ in range(self.settings.batches):
            batch, tally = member.draw(self.settings.batch), Tally()
            size = 1 if self.settings.exchange == "sample" else len(batch)
            for first in range(0, len(batch), size):
                part = batch.take(np.arange(first, min(first + size, len(batch))))
                z = await member.device.forward(part.inputs)
                result = await self.on_copy(member, lambda z=z, y=part.labels: self.server.model.gradient(z, y))  # type: ignore[misc]
                tally.add(result.loss, result.correct, len(part))
                await member.device.backward(result.gradient * np.float32(len(part)))
            await self.on_copy(member, lambda: self.server.model.apply(self.settings.host_rate))
            await member.device.step(self.settings.lr)
            await self.report(tally, member)

    async def on_copy(self, member: Member, work: Callable[[], Any]) -> Any:
        """Something with L_n, in the server's thread."""

        def exchanged() -> Any:
            model = self.server.model
            if self.loaded is not member:
                if self.loaded is not None:
                    self.copies[self.loaded] = model.snapshot()
                model.restore(self.copies.get(member, self.common))
                self.loaded = member
            return work()

        return await self.server.call(exchanged)
