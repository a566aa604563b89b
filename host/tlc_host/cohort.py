# SPDX-License-Identifier: Apache-2.0
"""The devices that learn together, in the words of the papers: awaitable calls on each, and on all at once.

:class:`Device` is one device part T; :class:`LinkDevice` speaks with one over the link, :class:`TwinDevice` calls the
generated C directly. A :class:`Member` is a device with its samples and what a round needs to know of it. The
:class:`Cohort` asks many at once and sees to it that a round always ends: who fails, or is late when enough have
answered, is *left out* of the rest of the round, by name and reason, and brought back into step before the next.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray

from tlc.bundle import Bundle
from tlc.errors import ConfigError, DataError, DeviceError, LinkError, ProtocolError
from tlc.learning import Schedule
from tlc.twin import OptimizerStep, Twin
from tlc_host import messages as m
from tlc_host import weights as coded
from tlc_host.averaging import Weights
from tlc_host.exits import head_of, is_sure
from tlc_host.session import Session, SmashedReply
from tlc_host.shards import Order, Shard

__all__ = ["Cohort", "Device", "DeviceSteps", "Left", "LinkDevice", "Member", "TwinDevice", "quantize_gradient"]

Int8 = NDArray[np.int8]
Float = NDArray[np.float32]
R = TypeVar("R")

GRADIENTS = Literal["int8", "float32"]
AT_ONCE = "it takes a step after every sample (--train-batch 1), but a batch holds several"
BOTH_AT_ONCE = "it updates while it goes back, but two gradients come together (--train-batch 1)"
OWN_TRIES, OWN_WAIT_S = 600, 0.05
"""How often a device without a sample is asked for one again, and how long after."""
BEGIN = 8
"""Calls that begin in one turn of the event loop."""
SEED_STRIDE = 0x9E3779B1
"""Devices round differently, so that what rounding does to them averages out; the first one by the seed itself."""


class Device(Protocol):
    """One device part T. Every call may raise LinkError and its kinds."""

    name: str
    seed: int
    """Of its stochastic rounding."""
    steps: int
    """The number of its last optimizer step."""

    async def forward(self, x: Int8) -> Int8:
        """z = T(x): (samples, ...) at the cut."""

    async def backward(self, gradient: Float) -> None:
        """Adds the gradient of T up, from (samples, ...) d loss / d z of the last :meth:`forward`'s samples, each of its
        sample's own loss."""

    def give(self, samples: Shard) -> None:
        """Where the device's application is in this process, as a twin's: lays its next samples with their labels before it.
        Nothing of it crosses the link; elsewhere the device has samples of its own, and this does nothing."""

    async def forward_own(self) -> Int8:
        """:meth:`forward` of the next sample of the device's own: (1, ...)."""

    async def forward_tail(self, u: Int8) -> tuple[Float, float, bool]:
        """Of a U-shaped split: the last part of the network on u = L(z), (1, ...) of the last :meth:`forward_own`, its loss
        against the label that the device has, and its backward pass: d loss / d u, the loss, and whether it was right."""

    async def step(self, learning_rate: float) -> None:
        """T ← T − η · mean of the gradients since the last step, then they are forgotten."""

    async def learn(self, samples: Shard, learning_rate: float) -> tuple[float, int]:
        """Forward, backward and a step on samples whose loss the device computes: its mean, and how many were right. Where that
        is the loss of a head at the cut, no smashed data are sent."""

    async def share(self, samples: Shard, learning_rate: float) -> tuple[Int8, float, int]:
        """:meth:`learn` with a head at the cut, and the smashed data of the samples."""

    async def backward_both(self, gradient: Float, labels: NDArray[np.int64]) -> tuple[float, int]:
        """:meth:`backward` where the loss of the head at the cut adds its share: that loss's mean, and how many it got right."""

    async def answer(self, x: Int8, threshold: float) -> tuple[NDArray[np.bool_], Int8, Int8]:
        """Inference with a head at the cut: (samples,) where that is surer than the threshold; of these its output; of the
        others z, which is all that is sent of them."""

    async def get(self) -> Weights:
        """The learned tensors of T."""

    async def set(self, weights: Weights) -> None:
        """Replaces them, and forgets gradients."""

    async def recover(self) -> None:
        """After an error: makes it answer again."""

    def traffic(self) -> tuple[int, int]:
        """Bytes that it sent and took so far."""


class Told(TypedDict):
    """Of a step, beside rate and seed."""

    momentum: float
    weight_decay: float
    clip: float


@dataclass(frozen=True)
class DeviceSteps:
    """What a device's steps are told beside the rate."""

    momentum: float = 0.0
    weight_decay: float = 0.0
    clip: float = 0.0
    schedule: Schedule = field(default_factory=Schedule)

    def rate(self, rate: float, step: int) -> float:
        """The rate of a step, from 1."""
        return self.schedule.rate(rate, step)

    def told(self) -> Told:
        """For :meth:`Session.step` and :meth:`Session.train`."""
        return {"momentum": self.momentum, "weight_decay": self.weight_decay, "clip": self.clip}


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


class Member:
    """A device, its samples, and what a round knows of it.

    Attributes:
        index: from 0, in the order in which they joined.
        device: the device part T.
        shard: D_n.
        kept: T as it was when the last round ended; None before the first. A device that was left out goes on from here.
    """

    def __init__(self, index: int, device: Device, shard: Shard, seed: int) -> None:
        self.index = index
        self.device = device
        self.shard = shard
        self.order = Order(len(shard), seed, index)
        self.kept: Weights | None = None
        self.left: Exception | None = None
        self.behind = False
        self.busy_s = 0.0

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.device.name

    @property
    def present(self) -> bool:
        """Whether it takes part in the round that runs."""
        return self.left is None

    def draw(self, count: int) -> Shard:
        """The next batch of its own samples."""
        return self.shard.take(self.order.take(count))


@dataclass(frozen=True)
class Left:
    """Who was left out of a round, and why."""

    name: str
    reason: str


class Cohort:
    """Many devices at once.

    Args:
        deadline_s: of every call to several devices; 0: as long as the link takes to give one up.
        quorum: the share of those asked that must have answered before who is late is left out.
        seed: of the devices' draws and their rounding.
    """

    def __init__(self, *, deadline_s: float = 0.0, quorum: float = 0.5, seed: int = 0) -> None:
        self.deadline_s = deadline_s
        self.quorum = quorum
        self.seed = seed
        self.members: list[Member] = []
        self._joined = 0

    @property
    def present(self) -> list[Member]:
        """Who takes part in the round that runs."""
        return [member for member in self.members if member.present]

    @property
    def left_out(self) -> list[Left]:
        """Who does not, and why."""
        return [Left(member.name, str(member.left)) for member in self.members if member.left is not None]

    def join(self, device: Device, shard: Shard) -> Member:
        """A device takes part from the next round on.

        Raises:
            DataError: it has no samples.
        """
        if not len(shard):
            raise DataError(
                "it has no samples to learn from", where=device.name, remedy="give it some, or leave it out"
            )
        device.seed = (self.seed + SEED_STRIDE * self._joined) & 0xFFFFFFFF
        member = Member(self._joined, device, shard, self.seed)
        member.left = LinkError("joins with the next round", where=device.name)
        member.behind = any(other.kept is not None for other in self.members)
        self._joined += 1
        self.members.append(member)
        return member

    def leave(self, member: Member) -> None:
        """A device takes part no more."""
        member.left = LinkError("has left", where=member.name)
        self.members.remove(member)

    async def muster(self) -> None:
        """Before a round: everyone is present again; who was left out is made to answer, and gets the tensors back that it
        had when the last round ended (one that joins, those of another)."""
        for member in self.members:
            member.left, member.busy_s = None, 0.0
        behind = [member for member in self.members if member.behind]
        others = [member.kept for member in self.members if member.kept is not None]

        async def back(member: Member) -> None:
            await member.device.recover()
            weights = member.kept if member.kept is not None else others[0] if others else None
            if weights is not None:
                await member.device.set(weights)
            member.behind = False

        if behind:
            # Where others are there, nobody waits for these beyond the deadline.
            await self.each(behind, back, quorum=self.quorum if len(behind) == len(self.members) else 0.0)
        fresh = [member for member in self.present if member.kept is None]
        for member, weights in (await self.each(fresh, lambda member: member.device.get())).items():
            member.kept = weights

    async def keep(self) -> None:
        """After a round: notes every present device's tensors."""
        for member, weights in (await self.each(self.present, lambda member: member.device.get())).items():
            member.kept = weights

    async def each(
        self, members: Iterable[Member], call: Callable[[Member], Awaitable[R]], *, quorum: float | None = None
    ) -> dict[Member, R]:
        """``call`` of each present member at once; the answers of those that gave one, in the members' order.

        Args:
            quorum: instead of the cohort's.

        Raises:
            LinkError: of a cohort of one: there is nobody to go on with.
        """
        asked = [member for member in members if member.present]
        if not asked:
            return {}
        tasks: dict[Member, asyncio.Future[R]] = {}
        try:
            for member in asked:
                tasks[member] = asyncio.ensure_future(self._timed(member, call))
                if len(tasks) % BEGIN == 0:
                    await asyncio.sleep(0)
            await self._wait(tasks, math.ceil((self.quorum if quorum is None else quorum) * len(tasks)))
        finally:
            late = [task for task in tasks.values() if not task.done()]
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        answers = {}
        for member, task in tasks.items():
            error: BaseException | None
            if task.cancelled():
                error = LinkError(f"no answer within {self.deadline_s:g} s", where=member.name)
            else:
                error = task.exception()
            if error is None:
                answers[member] = task.result()
            elif isinstance(error, LinkError):
                if len(self.members) == 1:
                    raise error
                self.leave_out(member, error)
            else:
                raise error
        return answers

    def leave_out(self, member: Member, why: Exception) -> None:
        """Of the rest of the round."""
        member.left, member.behind = why, True

    async def _wait(self, tasks: Mapping[Member, asyncio.Future[Any]], needed: int) -> None:
        """Until all are done; or, after the deadline, as many as are needed."""
        waiting = set(tasks.values())
        now = asyncio.get_running_loop().time
        end = now() + self.deadline_s if self.deadline_s else math.inf
        while waiting:
            good = sum(task.done() and not task.cancelled() and task.exception() is None for task in tasks.values())
            left = end - now()
            if left <= 0 and good >= needed:
                return
            timeout = None if math.isinf(left) or left <= 0 else left
            first = asyncio.FIRST_COMPLETED if left <= 0 else asyncio.ALL_COMPLETED
            _, waiting = await asyncio.wait(waiting, timeout=timeout, return_when=first)

    @staticmethod
    async def _timed(member: Member, call: Callable[[Member], Awaitable[R]]) -> R:
        began = time.monotonic()
        try:
            return await call(member)
        finally:
            member.busy_s += time.monotonic() - began

    # ---- state ----

    def state(self) -> dict[str, Any]:
        """What the next round depends on, between rounds."""
        return {
            "members": [
                {
                    "name": member.name,
                    "order": member.order.state(),
                    "steps": member.device.steps,
                    "kept": None if member.kept is None else {k: v.tolist() for k, v in member.kept.items()},
                }
                for member in self.members
            ]
        }

    async def restore(self, state: Mapping[str, Any]) -> None:
        """Back to a :meth:`state`, for the same devices in the same order.

        Raises:
            DataError: it is of another cohort.
        """
        entries: Sequence[Mapping[str, Any]] = state["members"]
        if len(entries) != len(self.members):
            raise DataError(
                f"the state is of {len(entries)} devices, not {len(self.members)}",
                remedy="give the devices that the run began with",
            )
        for member, entry in zip(self.members, entries, strict=True):
            member.order.restore(entry["order"])
            member.device.steps = entry["steps"]
            if entry["kept"] is not None:
                now = await member.device.get()
                member.kept = {k: np.array(v, now[k].dtype).reshape(now[k].shape) for k, v in entry["kept"].items()}
                await member.device.set(member.kept)


def diverged(error: BaseException) -> bool:
    """Whether training diverged on a device."""
    return isinstance(error, DeviceError) and getattr(error, "status", None) == m.Status.NUMERIC


def rows_of(parts: Sequence[Int8], shape: tuple[int, ...]) -> Int8:
    """Samples' tensors as one, (samples, ...)."""
    joined: Int8 = np.array([part.reshape(shape) for part in parts], np.int8).reshape(-1, *shape)
    return joined


def quantize_gradient(gradient: Float) -> tuple[Int8, float]:
    """A gradient as int8 with one scale: a quarter of its bytes on the link."""
    scale = np.float32(np.abs(gradient).max() / 127.0)
    if not scale > 0:
        return np.zeros(gradient.size, np.int8), 1.0
    return np.rint(gradient.ravel() / scale).astype(np.int8), float(scale)
