# SPDX-License-Identifier: Apache-2.0
"""A device in this process, without a link."""

from __future__ import annotations

import asyncio
from collections import deque

import numpy as np
from numpy.typing import NDArray

from tlc.bundle import Bundle
from tlc.errors import ConfigError, DeviceError
from tlc.twin import OptimizerStep, Twin
from tlc_host import weights as coded
from tlc_host.averaging import Weights
from tlc_host.cohort.device import AT_ONCE, BOTH_AT_ONCE, DeviceSteps
from tlc_host.cohort.values import GRADIENTS, Float, Int8, quantize_gradient, rows_of
from tlc_host.exits import head_of, is_sure
from tlc_host.shards import Shard

__all__ = ["TwinDevice"]


class TwinDevice:
    """The generated C called directly: the same integers as over the link, without the link.

    Its traffic counts payloads only: a batch's tensors once each way, parameters whole.
    """

    def __init__(
        self,
        twin: Twin,
        name: str = "twin",
        *,
        seed: int = 0,
        gradient: GRADIENTS = "int8",
        told: DeviceSteps | None = None,
    ) -> None:
        self.twin = twin
        self.told = told or DeviceSteps()
        learning = twin.bundle.learning
        self._at_once = learning is not None and learning.interleaved
        self._lesson: Float | None = None
        self.name = name
        self.seed = seed
        self.gradient = gradient
        self.steps = 0
        self._inputs: Int8 = np.empty(0, np.int8)
        self._samples = 0
        self._given: deque[tuple[Int8, int]] = deque()
        self._label = 0
        self._up = self._down = 0

    async def forward(self, x: Int8) -> Int8:
        """As of :class:`Device`."""
        await asyncio.sleep(0)  # others, too, have something to do
        self._inputs = x
        z = self.twin.forward(x)[0]
        self._up += z.nbytes
        self._down += x.nbytes
        return z

    def give(self, samples: Shard) -> None:
        """As of :class:`Device`."""
        self._given.extend(zip(samples.inputs, samples.labels.tolist(), strict=True))

    async def forward_own(self) -> Int8:
        """As of :class:`Device`."""
        await asyncio.sleep(0)
        x, self._label = self._given.popleft()
        z = self.twin.forward(x[np.newaxis])[0]
        self._up += z.nbytes
        return z

    async def forward_tail(self, u: Int8) -> tuple[Float, float, bool]:
        """As of :class:`Device`."""
        _, gradient, loss, predicted = self.twin.tail(u, self._label)
        self._samples += 1
        self._down += u.nbytes
        self._up += gradient.nbytes
        return gradient, loss, predicted == self._label

    async def backward(self, gradient: Float) -> None:
        """As of :class:`Device`."""
        for i, sample in enumerate(gradient):
            if len(gradient) > 1:
                self.twin.forward(self._inputs[i : i + 1])
            given = self._received(sample)
            if self._at_once:
                if self._lesson is not None:
                    raise ConfigError(AT_ONCE, where=self.name, remedy="train with --batch 1, or compile again")
                self._lesson = given
            else:
                self.twin.backward(given)
        self._samples += len(gradient)

    async def step(self, learning_rate: float) -> None:
        """As of :class:`Device`."""
        told = self._step(learning_rate)
        if self._at_once:
            lesson, self._lesson = self._lesson, None
            if lesson is None:
                raise DeviceError("a step without a gradient", where=self.name)
            self.twin.backward(lesson, told)
        else:
            self.twin.update(told.learning_rate, told.step, told.seed, **self.told.told())
        self.steps += 1
        self._samples = 0

    def _step(self, learning_rate: float) -> OptimizerStep:
        number, told = self.steps + 1, self.told
        rate = told.rate(learning_rate, number)
        return OptimizerStep(rate, number, self.seed, told.momentum, told.weight_decay, told.clip, 0.0)

    async def learn(self, samples: Shard, learning_rate: float) -> tuple[float, int]:
        """As of :class:`Device`."""
        _, loss, correct = await self._lessons(samples, learning_rate)
        return loss, correct

    async def share(self, samples: Shard, learning_rate: float) -> tuple[Int8, float, int]:
        """As of :class:`Device`."""
        z, loss, correct = await self._lessons(samples, learning_rate)
        self._up += z.nbytes
        return z, loss, correct

    async def _lessons(self, samples: Shard, learning_rate: float) -> tuple[Int8, float, int]:
        if self._at_once and len(samples) > 1:
            raise ConfigError(AT_ONCE, where=self.name, remedy="train with --batch 1, or compile again")
        await asyncio.sleep(0)
        total, correct = 0.0, 0
        told = self._step(learning_rate)
        z = []
        for i, label in enumerate(samples.labels):
            z.append(self.twin.forward(samples.inputs[i : i + 1])[0])
            loss, predicted = self.twin.learn(int(label), told if self._at_once else None)
            total += loss
            correct += predicted == int(label)
            self._down += samples.inputs[i].nbytes
        if not self._at_once:
            self.twin.update(told.learning_rate, told.step, told.seed, **self.told.told())
        self.steps += 1
        return np.concatenate(z), total / len(samples), correct

    async def backward_both(self, gradient: Float, labels: NDArray[np.int64]) -> tuple[float, int]:
        """As of :class:`Device`."""
        if self._at_once:
            raise ConfigError(BOTH_AT_ONCE, where=self.name, remedy="compile with --train-batch many")
        total, correct = 0.0, 0
        for i, (sample, label) in enumerate(zip(gradient, labels.tolist(), strict=True)):
            if len(gradient) > 1:
                self.twin.forward(self._inputs[i : i + 1])
            loss, predicted = self.twin.learn(label, gradient=self._received(sample))
            total += loss
            correct += predicted == label
        self._samples += len(gradient)
        return total / len(gradient), correct

    async def answer(self, x: Int8, threshold: float) -> tuple[NDArray[np.bool_], Int8, Int8]:
        """As of :class:`Device`."""
        await asyncio.sleep(0)
        edge, sure = head_of(self.bundle, self.name), np.zeros(len(x), np.bool_)
        own: list[Int8] = []
        sent: list[Int8] = []
        for i in range(len(x)):
            z, p = self.twin.forward(x[i : i + 1])[0], self.twin.head()
            sure[i] = is_sure(p, threshold)[0]
            (own if sure[i] else sent).append(p if sure[i] else z)
        self._up += sum(part.nbytes for part in (*own, *sent))
        self._down += x.nbytes
        return sure, rows_of(own, edge.shape[1:]), rows_of(sent, self.bundle.outputs[0].shape[1:])

    @property
    def bundle(self) -> Bundle:
        """The project's."""
        return self.twin.bundle

    def _received(self, sample: Float) -> Float:
        """A sample's gradient as it gets here."""
        given: Float = np.ascontiguousarray(sample, np.float32).ravel()
        self._down += given.size * (1 if self.gradient == "int8" else 4)
        if self.gradient == "int8":
            q, scale = quantize_gradient(given)
            given = np.float32(scale) * q.astype(np.float32)
        return given

    async def get(self) -> Weights:
        """As of :class:`Device`."""
        found = {name: value.copy() for name, value in self.twin.params().items()}
        self._up += sum(value.nbytes for value in found.values())
        return found

    async def set(self, weights: Weights) -> None:
        """As of :class:`Device`."""
        self._lesson = None
        self._given.clear()
        if self._samples and not self._at_once:
            self.twin.update(0.0, self.steps + 1, self.seed)
            self._samples = 0
        raw = coded.pack(self.twin.bundle, weights)
        self.twin.set_params(raw)
        self._down += len(raw)

    async def recover(self) -> None:
        """As of :class:`Device`."""

    def traffic(self) -> tuple[int, int]:
        """As of :class:`Device`."""
        return self._up, self._down
