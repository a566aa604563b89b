# SPDX-License-Identifier: Apache-2.0
"""Vanilla split learning: Gupta and Raskar, "Distributed learning of deep neural network over multiple agents"
(JNCA 2018, arXiv 1810.06060); Vepakomma et al., arXiv 1812.00564, the simple configuration with labels on the server.

Devices take turns. In a turn, for each batch:

1. the device runs its part T on a sample and sends the smashed data z = T(x) with the label's place;
2. the server runs its part L, takes the gradient of the loss, and returns g = dloss/dz;
3. the device propagates g into its own gradient;
4. after the batch both sides take an SGD step.

Then T goes to the next device.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tlc.errors import DeviceReset
from tlc_host.algorithms.base import Split, Tally
from tlc_host.cohort import Member
from tlc_host.shards import Shard

__all__ = ["KEEP", "VSL"]

KEEP = 8
"""Batches after which both sides' learned tensors are kept, to go back to after a device's reset."""


class VSL(Split):
    """Devices in turns; the device part goes from one to the next."""

    name = "vsl"
    title = "Vanilla split learning"
    paper = "Gupta and Raskar, arXiv 1810.06060; Vepakomma et al., arXiv 1812.00564"

    @classmethod
    def host_steps(cls, settings: Any, devices: int) -> int:
        """One for a batch of every device."""
        return super().host_steps(settings, devices) * devices

    async def round(self) -> None:
        """A turn of every device."""
        for member in self.cohort.present:
            if self.handed is not None:
                await self.hand(self.handed, [member], self.handed_steps)
            await self.cohort.each([member], self.turn)
            if len(self.cohort.members) > 1:
                for weights in (await self.collect([member])).values():
                    self.handed, self.handed_steps = weights, member.device.steps

    async def turn(self, member: Member) -> None:
        """A device's batches. Where it resets, both sides go back to where they last agreed and the batches since are done
        again, so that the trajectory is the undisturbed one."""
        device = member.device
        plan = [member.draw(self.settings.batch) for _ in range(self.settings.batches)]
        done = kept = 0
        steps, learned, host = device.steps, await device.get(), await self.server.snapshot()
        while done < len(plan):
            if done - kept == KEEP:
                kept, steps, learned, host = done, device.steps, await device.get(), await self.server.snapshot()
            try:
                tally = await self.batch(member, plan[done])
            except DeviceReset:
                await device.recover()
                device.steps = steps
                await device.set(learned)
                await self.server.restore(host)
                done = kept
                continue
            done += 1
            await self.report(tally, member)

    async def batch(self, member: Member, batch: Shard) -> Tally:
        """One optimizer step on both sides: steps 1 to 4."""
        tally = Tally()
        size = 1 if self.settings.exchange == "sample" else len(batch)
        for first in range(0, len(batch), size):
            part = batch.take(np.arange(first, min(first + size, len(batch))))
            z = await member.device.forward(part.inputs)
            result = await self.server.gradient(z, part.labels)
            tally.add(result.loss, result.correct, len(part))
            await member.device.backward(result.gradient * np.float32(len(part)))
        await self.server.apply(self.settings.host_rate)
        await member.device.step(self.settings.lr)
        return tally
