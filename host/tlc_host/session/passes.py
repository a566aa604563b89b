# SPDX-License-Identifier: Apache-2.0
"""Calls that run the device's part of the network forward."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tlc.errors import ProtocolError
from tlc_host import messages as m
from tlc_host.exits import bound_of
from tlc_host.session.calls import Calls
from tlc_host.session.reply import Int8, SmashedReply

__all__ = ["Passes"]


class Passes(Calls):
    """Forward passes, those of a U-shaped split's second part, and where they end."""

    async def forward(
        self,
        x: Int8 | Sequence[Int8],
        *,
        keep: bool = True,
        exit: float | None = None,
        round: int = 0,
        step: int = 0,
        batch: int = 0,
    ) -> SmashedReply:
        """Runs the device segment.

        Args:
            x: the input tensor (any shape) int8, or one a model input.
            keep: a ``backward`` will follow, so the device takes no sample of its own until then.
            exit: where the head at the cut is surer than that, 0 to 1, the answer is its output alone; 0: whatever it is.
                None: it is not asked.

        Raises:
            DeviceError, DeviceTimeout, DeviceReset, LinkError
        """
        tensors = [x] if isinstance(x, np.ndarray) else list(x)
        request = self._asking.number()
        parts: list[m.Message] = []
        for index, tensor in enumerate(tensors):
            if tensor.dtype != np.int8:
                raise ProtocolError(f"input {index} must be int8, not {tensor.dtype}", where=self.name)
            flags = m.ForwardFlag(0)
            if index == len(tensors) - 1:
                flags |= m.ForwardFlag.RUN | (m.ForwardFlag.KEEP if keep else m.ForwardFlag(0))
                flags |= m.ForwardFlag(0) if exit is None else m.ForwardFlag.EXIT
            parts.append(
                m.Forward(
                    request=request,
                    round=round,
                    step=step,
                    batch=batch,
                    index=index,
                    flags=flags,
                    bound=bound_of(exit or 0.0),
                    tensor=tensor.tobytes(),
                )
            )
        return await self._asking.smashed(*parts)

    async def infer(self, x: Int8 | Sequence[Int8], *, exit: float | None = None) -> SmashedReply:
        """``forward`` without a ``backward`` to come."""
        return await self.forward(x, keep=False, exit=exit)

    async def forward_own(self, *, round: int = 0, step: int = 0, batch: int = 0) -> SmashedReply:
        """Runs the device segment on the next sample of the device's own.

        Raises:
            DeviceError: status STATE when it has none.
        """
        message = m.Forward(
            request=self._asking.number(),
            round=round,
            step=step,
            batch=batch,
            flags=m.ForwardFlag.RUN | m.ForwardFlag.KEEP | m.ForwardFlag.OWN,
        )
        return await self._asking.smashed(message)

    async def set_exit(self, threshold: float) -> None:
        """How sure the head at the cut must be of the device's own samples to answer them itself, 0 to 1: 1, as after a
        reset, never.

        Raises:
            DeviceError: status STATE when there is no such head.
        """
        await self._asking.done(m.Exit(request=self._asking.number(), bound=bound_of(threshold)))

    async def tail(self, reply: SmashedReply, tensor: Int8) -> Int8:
        """Goes on behind the host's part of a U-shaped split: (elements,) int8, the network's output.

        Args:
            reply: of the forward pass it belongs to.
            tensor: int8, what the host's part made of it.

        Raises:
            DeviceError: status STATE when the device has no such part, or its arena holds another pass.
        """
        answer = await self._asking.smashed(self._tail(reply, tensor, m.TailKind.OUTPUT))
        return answer.outputs[0]

    async def tail_result(self, reply: SmashedReply, tensor: Int8) -> None:
        """The same, but the output goes to the application's result hook alone."""
        await self._asking.done(self._tail(reply, tensor, m.TailKind.RESULT))

    async def tail_learn(self, reply: SmashedReply, tensor: Int8, label: int | None = None) -> m.Gradient:
        """The same, with loss and backward pass. ``backward`` with the gradient at the cut is to follow.

        Args:
            label: the class; None: the one that the device's own sample came with.

        Returns:
            The loss, and float32 d loss / d ``tensor``, as reals.

        Raises:
            DeviceError: status ARG when there is no such class, STATE when the sample came without a label.
        """
        kind = m.TailKind.OWN if label is None else m.TailKind.LABEL
        return await self._asking.answer(self._tail(reply, tensor, kind, label or 0), m.Gradient)

    def _tail(self, reply: SmashedReply, tensor: Int8, kind: m.TailKind, value: int = 0) -> m.Tail:
        if tensor.dtype != np.int8:
            raise ProtocolError(f"what goes to the tail is int8, not {tensor.dtype}", where=self.name)
        return m.Tail(
            request=self._asking.number(),
            round=reply.round,
            step=reply.step,
            batch=reply.batch,
            forward=reply.request,
            kind=kind,
            value=value,
            tensor=tensor.tobytes(),
        )

    async def select(self, cut: int) -> None:
        """Ends the device's part at another of the bundle's cuts, now and after its resets. The forward pass that its arena
        holds, and the gradients accumulated since the last step, are forgotten, unless it ends there already.

        Args:
            cut: its index in the bundle's list.

        Raises:
            DeviceError: status ARG when the bundle has not so many.
        """
        await self._asking.done(m.Cut(request=self._asking.number(), index=cut))
        self._greeting.cut = cut
