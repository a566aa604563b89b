# SPDX-License-Identifier: Apache-2.0
"""Calls that ask how the device and the line are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tlc_host import messages as m
from tlc_host.session.calls import Calls

__all__ = ["Enquiries"]

PATTERN = bytes(range(1, 251))


class Enquiries(Calls):
    """Counters, the journal, and a test of the line."""

    async def journal(self) -> m.Journal:
        """What the device's journal holds."""
        return await self._asking.answer(m.GetStats(request=self._asking.number(), what=2), m.Journal)

    async def stats(self) -> m.Stats:
        """Ticks, memory and counters."""
        return await self._asking.answer(m.GetStats(request=self._asking.number()), m.Stats)

    async def layers(self) -> npt.NDArray[np.uint32]:
        """(layers,) ticks of each layer of the last forward pass."""
        reply = await self._asking.answer(m.GetStats(request=self._asking.number(), what=1), m.Layers)
        return np.frombuffer(reply.ticks, "<u4")

    async def test(self, send: int, receive: int) -> None:
        """Sends bytes that mean nothing and has others sent back: what the line can carry, without the model.

        Raises:
            DeviceError: status SIZE when ``receive`` is more than the device's arena has.
        """
        data = (PATTERN * (send // len(PATTERN) + 1))[:send]
        await self._asking.answer(m.Test(request=self._asking.number(), count=receive, data=data), m.Test)
