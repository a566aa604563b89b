# SPDX-License-Identifier: Apache-2.0
"""A device over the link."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tlc.bundle import Bundle
from tlc.errors import ConfigError, DeviceError, ProtocolError
from tlc_host import messages as m
from tlc_host import weights as coded
from tlc_host.averaging import Weights
from tlc_host.cohort.device import AT_ONCE, BOTH_AT_ONCE, DeviceSteps
from tlc_host.cohort.values import GRADIENTS, Float, Int8, quantize_gradient, rows_of
from tlc_host.exits import head_of
from tlc_host.session import Session, SmashedReply
from tlc_host.shards import Shard

__all__ = ["LinkDevice"]

OWN_TRIES, OWN_WAIT_S = 600, 0.05
"""How often a device without a sample is asked for one again, and how long after."""


class LinkDevice:
    """A device over the link.

    A device's arena holds one forward pass. A batch of several samples is passed forward one by one; before each sample's
    backward pass its forward pass is done again. Batches of one sample cost no second pass.

    Args:
        session: a greeted one.
        bundle: the project's.
        directory: of the project, for the differences that parameters travel as; None: they travel whole.
        seed: of the device's stochastic rounding.
        gradient: how gradients travel: ``int8`` with one scale a sample, or ``float32``.
        max_norm: a step whose mean gradient has a larger norm is refused; 0: the device's own bound.
        told: momentum, decay, clipping, and the schedule of the rate.

    A device that updates inside its backward pass has no gradients to keep: the one of a step's only sample is sent with
    the step.
    """

    def __init__(
        self,
        session: Session,
        bundle: Bundle,
        directory: Path | None = None,
        *,
        seed: int = 0,
        gradient: GRADIENTS = "int8",
        max_norm: float = 0.0,
        told: DeviceSteps | None = None,
    ) -> None:
        self.session = session
        self.told = told or DeviceSteps()
        self._at_once = bundle.learning is not None and bundle.learning.interleaved
        self._lesson: tuple[SmashedReply, Int8 | Float, float] | None = None
        self.name = session.name
        self.bundle = bundle
        self.directory = directory
        self.seed = seed
        self.gradient = gradient
        self.max_norm = max_norm
        self.steps = session.hello.last_step
        """The number of the last optimizer step."""
        self._batch = 0
        self._inputs: Int8 = np.empty(0, np.int8)
        self._held: SmashedReply | None = None
        self._given: deque[tuple[Int8, int]] = deque()

    async def forward(self, x: Int8) -> Int8:
        """As of :class:`Device`."""
        self._inputs, self._held = x, None
        return np.stack([await self._pass(x[i], keep=len(x) == 1) for i in range(len(x))])

    async def _pass(self, x: Int8, *, keep: bool, exit: float | None = None) -> Int8:
        self._batch = self._batch % 0x7FFFFFFF + 1
        reply = await self.session.forward(x, keep=keep, exit=exit, step=self.steps + 1, batch=self._batch)
        edge = head_of(self.bundle, self.name) if reply.exited else self.bundle.outputs[0]
        shape = edge.shape[1:]
        if reply.batch != self._batch or reply.outputs[0].size != math.prod(shape):
            raise ProtocolError(
                f"asked for batch {self._batch} with {math.prod(shape)} values, it sent batch {reply.batch} with "
                f"{reply.outputs[0].size}",
                where=self.name,
                remedy="build the firmware and the host from the same release",
            )
        self._held = reply if keep else None
        return reply.outputs[0].reshape(shape)

    def give(self, samples: Shard) -> None:
        """As of :class:`Device`."""
        if self.session.sensor is not None:
            self._given.extend(zip(samples.inputs, samples.labels.tolist(), strict=True))

    async def forward_own(self) -> Int8:
        """As of :class:`Device`."""
        if not self.session.hello.capabilities & m.Capability.SAMPLE:
            raise ConfigError(
                "the device has no samples of its own, and no other's label is to reach it",
                where=self.name,
                remedy="give samples and labels in the sample hook of src/app.c",
            )
        if self._given and self.session.sensor is not None:
            x, label = self._given.popleft()
            self.session.sensor(self.bundle.inputs[0].quant.dequantize(x), label)
        self._batch = self._batch % 0x7FFFFFFF + 1
        self._held = await self._own_when_there_is_one()
        return self._held.outputs[0].reshape(1, *self.bundle.outputs[0].shape[1:])

    async def _own_when_there_is_one(self) -> SmashedReply:
        for _ in range(OWN_TRIES):
            try:
                return await self.session.forward_own(step=self.steps + 1, batch=self._batch)
            except DeviceError as error:
                if error.status != m.Status.STATE:
                    raise
            await asyncio.sleep(OWN_WAIT_S)
        raise DeviceError(
            f"its sample hook gave none for {OWN_TRIES * OWN_WAIT_S:g} s", where=self.name, remedy="look at src/app.c"
        )

    async def forward_tail(self, u: Int8) -> tuple[Float, float, bool]:
        """As of :class:`Device`."""
        if self._held is None:
            raise DeviceError("it holds no forward pass", where=self.name)
        done = await self.session.tail_learn(self._held, np.ascontiguousarray(u, np.int8))
        gradient = np.frombuffer(done.gradient, np.float32)
        if gradient.size != u.size:
            raise ProtocolError(f"sent a gradient of {gradient.size} values for {u.size}", where=self.name)
        return gradient.reshape(u.shape), done.loss, bool(done.flags & m.GradientFlag.RIGHT)

    async def backward(self, gradient: Float) -> None:
        """As of :class:`Device`."""
        for i, sample in enumerate(gradient):
            if len(gradient) > 1:
                await self._pass(self._inputs[i], keep=True)
            if self._held is None:
                raise DeviceError("it holds no forward pass", where=self.name)
            if self._at_once:
                q, scale = quantize_gradient(sample)
                whole = np.ascontiguousarray(sample, np.float32)
                if self._lesson is not None:
                    raise ConfigError(AT_ONCE, where=self.name, remedy="train with --batch 1, or compile again")
                self._lesson = (self._held, *((q, scale) if self.gradient == "int8" else (whole, 1.0)))
            elif self.gradient == "int8":
                q, scale = quantize_gradient(sample)
                await self.session.backward(self._held, q, scale=scale, step=self.steps + 1)
            else:
                whole = np.ascontiguousarray(sample, np.float32)
                await self.session.backward(self._held, whole, step=self.steps + 1)
            self._held = None

    async def step(self, learning_rate: float) -> None:
        """As of :class:`Device`."""
        number = self.steps + 1
        rate = self.told.rate(learning_rate, number)
        if self._at_once:
            lesson, self._lesson = self._lesson, None
            if lesson is None:
                raise DeviceError("a step without a gradient", where=self.name)
            reply, gradient, scale = lesson
            await self.session.train(
                reply, gradient, number, rate, self.seed, scale=scale, max_norm=self.max_norm, **self.told.told()
            )
        else:
            await self.session.step(number, rate, self.seed, max_norm=self.max_norm, **self.told.told())
        self.steps += 1

    async def learn(self, samples: Shard, learning_rate: float) -> tuple[float, int]:
        """As of :class:`Device`."""
        _, loss, correct = await self._lessons(samples, learning_rate, 0.0 if self.bundle.aux else None)
        return loss, correct

    async def share(self, samples: Shard, learning_rate: float) -> tuple[Int8, float, int]:
        """As of :class:`Device`."""
        return await self._lessons(samples, learning_rate, None)

    async def _lessons(self, samples: Shard, learning_rate: float, exit: float | None) -> tuple[Int8, float, int]:
        """A step on samples whose loss the device computes, with what their forward passes were answered by."""
        if self._at_once and len(samples) > 1:
            raise ConfigError(AT_ONCE, where=self.name, remedy="train with --batch 1, or compile again")
        total, correct = 0.0, 0
        number = self.steps + 1
        rate = self.told.rate(learning_rate, number)
        sent = []
        for i, label in enumerate(samples.labels):
            sent.append(await self._pass(samples.inputs[i], keep=True, exit=exit))
            assert self._held is not None
            last = number if i == len(samples) - 1 else None
            done = await self.session.train(
                self._held, int(label), last, rate, self.seed, max_norm=self.max_norm, **self.told.told()
            )
            self._held = None
            total += done.loss
            correct += done.predicted == int(label)
        self.steps += 1
        return np.stack(sent), total / len(samples), correct

    async def backward_both(self, gradient: Float, labels: NDArray[np.int64]) -> tuple[float, int]:
        """As of :class:`Device`."""
        if self._at_once:
            raise ConfigError(BOTH_AT_ONCE, where=self.name, remedy="compile with --train-batch many")
        total, correct = 0.0, 0
        for i, (sample, label) in enumerate(zip(gradient, labels.tolist(), strict=True)):
            if len(gradient) > 1:
                await self._pass(self._inputs[i], keep=True)
            if self._held is None:
                raise DeviceError("it holds no forward pass", where=self.name)
            q, scale = quantize_gradient(sample)
            lesson = q if self.gradient == "int8" else np.ascontiguousarray(sample, np.float32)
            done = await self.session.train(self._held, lesson, scale=scale, label=label)
            self._held = None
            total += done.loss
            correct += done.predicted == label
        return total / len(gradient), correct

    async def answer(self, x: Int8, threshold: float) -> tuple[NDArray[np.bool_], Int8, Int8]:
        """As of :class:`Device`."""
        edge, sure = head_of(self.bundle, self.name), np.zeros(len(x), np.bool_)
        own: list[Int8] = []
        sent: list[Int8] = []
        for i, sample in enumerate(x):
            reply = await self.session.infer(sample, exit=threshold)
            sure[i] = reply.exited
            (own if reply.exited else sent).append(reply.outputs[0])
        return sure, rows_of(own, edge.shape[1:]), rows_of(sent, self.bundle.outputs[0].shape[1:])

    async def get(self) -> Weights:
        """As of :class:`Device`."""
        if self.directory is not None:
            return await coded.pull(self.session, self.bundle, self.directory)
        return coded.unpack(self.bundle, await self.session.get_params())

    async def set(self, weights: Weights) -> None:
        """As of :class:`Device`."""
        self._lesson = None
        self._given.clear()
        if (await self.session.stats()).samples:  # gradients of a step that never came
            await self.session.step(self.steps + 1, 0.0, self.seed)
        if self.directory is not None:
            await coded.push(self.session, self.bundle, self.directory, weights, step=self.steps)
        else:
            await self.session.set_params(coded.pack(self.bundle, weights), step=self.steps)

    async def recover(self) -> None:
        """As of :class:`Device`."""
        await self.session.greet()

    def traffic(self) -> tuple[int, int]:
        """As of :class:`Device`."""
        return self.session.counters.bytes_in, self.session.counters.bytes_out
