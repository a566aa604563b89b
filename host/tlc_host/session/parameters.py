# SPDX-License-Identifier: Apache-2.0
"""Calls that move the learned tensors: to the host, back, and into the device's journal."""

from __future__ import annotations

from tlc.errors import ProtocolError
from tlc_host import messages as m
from tlc_host.session.calls import Calls

__all__ = ["Parameters"]

COMMON_AND_PARAMS = 28


class Parameters(Calls):
    """The learned tensors."""

    async def get_params(self) -> bytes:
        """The learned tensors, as they lie in the device's state (the bundle tells their layout)."""
        reply = await self._asking.answer(m.GetParams(request=self._asking.number()), m.Params)
        return reply.data

    async def get_delta(self) -> bytes:
        """The learned tensors as coded differences to the values in flash (:mod:`tlc_host.weights`).

        Raises:
            DeviceError: status FULL when its arena has no room for them; then there is ``get_params``.
        """
        reply = await self._asking.answer(m.GetParams(request=self._asking.number(), coding=m.Coding.DELTA), m.Params)
        return reply.data

    async def set_delta(self, data: bytes, *, step: int = 0) -> bool:
        """Replaces the learned tensors by the values in flash plus coded differences. False: the device has not the room
        for so long a message; then there is ``set_params``."""
        if len(data) > self.most_bytes - COMMON_AND_PARAMS:
            return False
        total = self.hello.param_bytes
        await self._asking.done(
            m.SetParams(request=self._asking.number(), step=step, total=total, coding=m.Coding.DELTA, data=data)
        )
        return True

    async def set_params(self, data: bytes, *, step: int = 0) -> None:
        """Replaces the learned tensors; in pieces, where the device has not the room for all.

        Args:
            step: that they belong to: the device takes the next one for a new one.
        """
        if len(data) != self.hello.param_bytes:
            raise ProtocolError(
                f"the learned tensors have {self.hello.param_bytes} bytes, not {len(data)}", where=self.name
            )
        piece = max(1, self.most_bytes - COMMON_AND_PARAMS)
        for offset in range(0, len(data), piece):
            part = data[offset : offset + piece]
            await self._asking.done(
                m.SetParams(request=self._asking.number(), step=step, offset=offset, total=len(data), data=part)
            )

    async def save(self) -> bool:
        """Writes the learned tensors into the device's journal; False: they were there already.

        Raises:
            DeviceError: status STATE when the device keeps nothing, SIZE when a slot is too small, CORRUPT when its
                flash is worn out.
        """
        done = await self._asking.done(m.Save(request=self._asking.number()))
        return bool(done.flags & m.DoneFlag.SAVED)

    async def reset_state(self) -> m.Done:
        """The learned tensors back to the values in flash; the step counter to 0, the journal erased."""
        return await self._asking.done(m.ResetState(request=self._asking.number()))
