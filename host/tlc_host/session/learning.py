# SPDX-License-Identifier: Apache-2.0
"""Calls that train the device's part of the network."""

from __future__ import annotations

import numpy as np

from tlc.errors import ProtocolError
from tlc_host import messages as m
from tlc_host.session.calls import Calls
from tlc_host.session.reply import Float32, Int8, SmashedReply

__all__ = ["Learning"]


class Learning(Calls):
    """Backward passes and steps."""

    async def backward(
        self,
        reply: SmashedReply | int,
        gradient: Float32 | Int8,
        *,
        scale: float = 1.0,
        batch: int | None = None,
        round: int = 0,
        step: int = 0,
    ) -> m.Done:
        """Hands in d loss / d ``reply.outputs[0]`` and runs the backward pass.

        Args:
            reply: of the forward pass it belongs to, or that pass's request number.
            gradient: (elements,) float32 reals, or int8 with real = scale * q.

        Raises:
            DeviceError: status STATE when the device's arena holds another forward pass; NUMERIC for NaN.
        """
        if isinstance(reply, SmashedReply):
            forward, batch = reply.request, reply.batch if batch is None else batch
        else:
            forward = reply
        dtype = m.Dtype.S8 if gradient.dtype == np.int8 else m.Dtype.F32
        if dtype == m.Dtype.F32 and gradient.dtype != np.float32:
            raise ProtocolError(f"a gradient is float32 or int8, not {gradient.dtype}", where=self.name)
        message = m.Backward(
            request=self._asking.number(),
            round=round,
            step=step,
            batch=batch or 0,
            forward=forward,
            dtype=dtype,
            scale=scale,
            gradient=gradient.tobytes(),
        )
        return await self._asking.done(message)

    async def step(
        self,
        number: int,
        learning_rate: float,
        seed: int = 0,
        *,
        round: int = 0,
        max_norm: float = 0.0,
        save: bool = False,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        clip: float = 0.0,
    ) -> m.Done:
        """Applies the accumulated gradient as step ``number`` (from 1). One that was applied before is acknowledged
        with the flag REPEATED and not applied again.

        Args:
            max_norm: largest norm of the mean gradient; 0: the device's own bound.
            save: and then into the journal; the flag SAVED tells whether that was done.
            momentum: of the velocities that a project compiled with ``--momentum`` keeps.
            weight_decay: of weights, not of biases.
            clip: longest mean gradient of a tensor, to which longer ones are scaled down; 0: any.

        Raises:
            DeviceError: status NUMERIC when training diverged: then the device is back at its journal's last entry, or
                the values in flash. STATE when it updates at once: then there is :meth:`train`.
        """
        return await self._asking.done(
            m.Step(
                request=self._asking.number(),
                round=round,
                step=number,
                learning_rate=learning_rate,
                seed=seed & 0xFFFFFFFF,
                max_norm=max_norm,
                momentum=momentum,
                weight_decay=weight_decay,
                clip=clip,
                flags=m.StepFlag.SAVE if save else m.StepFlag(0),
            )
        )

    async def train(
        self,
        reply: SmashedReply | int,
        lesson: int | Float32 | Int8,
        number: int | None = None,
        learning_rate: float = 0.0,
        seed: int = 0,
        *,
        scale: float = 1.0,
        values: bool = False,
        label: int | None = None,
        batch: int | None = None,
        round: int = 0,
        max_norm: float = 0.0,
        save: bool = False,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        clip: float = 0.0,
    ) -> m.Trained:
        """Goes back from a forward pass and, with a step's ``number``, takes that step at once.

        The only way to train a device that updates inside its backward pass (``--train-batch 1``), and the way to one that
        computes the loss (``--loss``). What is sent twice is done once.

        Args:
            reply: of the forward pass it belongs to, or that pass's request number.
            lesson: a class (int), where the device has a loss; or the gradient of output 0, float32 or int8.
            number: of the step, from 1; None: the gradient is accumulated, for a later step.
            scale: of an int8 gradient: real = scale * q.
            values: ``lesson`` is no gradient, but the float32 values that output 0 should have had.
            label: beside a gradient, to a device with a head at the cut: the class, for that head's loss.

        The rest as for :meth:`step`.

        Raises:
            DeviceError: status ARG when there is no such class, STATE when the device has no loss, or its arena holds
                another pass; NUMERIC when training diverged.
        """
        forward = reply.request if isinstance(reply, SmashedReply) else reply
        if isinstance(reply, SmashedReply) and batch is None:
            batch = reply.batch
        value, data = 0, b""
        if isinstance(lesson, np.ndarray):
            if lesson.dtype not in (np.float32, np.int8) or (values and lesson.dtype != np.float32):
                raise ProtocolError(
                    f"a gradient is float32 or int8, values float32, not {lesson.dtype}", where=self.name
                )
            data = lesson.tobytes()
            kind = m.TrainKind.S8 if lesson.dtype == np.int8 else m.TrainKind.F32
            value = m.Train.scaled(scale) if kind == m.TrainKind.S8 else 0
            if label is not None:
                kind = m.TrainKind.BOTH_S8 if kind == m.TrainKind.S8 else m.TrainKind.BOTH_F32
                if not 0 <= label < 1 << 16:
                    raise ProtocolError(
                        f"a label beside a gradient is a class from 0 to 65535, not {label}", where=self.name
                    )
            kind = m.TrainKind.VALUES if values else kind
        else:
            kind, value = m.TrainKind.LABEL, int(lesson)
            if not 0 <= value < 1 << 32:
                raise ProtocolError(f"a label is a class from 0, not {value}", where=self.name)
        flags = m.StepFlag(0)
        if number is not None:
            flags |= m.StepFlag.APPLY | (m.StepFlag.SAVE if save else m.StepFlag(0))
        message = m.Train(
            request=self._asking.number(),
            round=round,
            step=number or 0,
            batch=batch or 0,
            forward=forward,
            kind=kind,
            flags=flags,
            label=label or 0,
            value=value,
            learning_rate=learning_rate,
            seed=seed & 0xFFFFFFFF,
            max_norm=max_norm,
            momentum=momentum,
            weight_decay=weight_decay,
            clip=clip,
            data=data,
        )
        return await self._asking.answer(message, m.Trained)
