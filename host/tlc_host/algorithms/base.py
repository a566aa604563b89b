# SPDX-License-Identifier: Apache-2.0
"""What every algorithm is made of.

An algorithm is one file with a class: its docstring cites the paper and gives the steps, ``Settings`` has its parameters,
``round`` does one round with the devices that are there. It says what it does in awaitable calls: on one device
(:class:`~tlc_host.cohort.Device`: ``forward``, ``backward``, ``step``, ``get``, ``set``), on many
(:class:`~tlc_host.cohort.Cohort`: ``each``), and on the host segment
(:class:`~tlc_host.server_worker.ServerWorker`: ``gradient``, ``forward``, ``backward``, ``apply``).

Notation, as in the survey: T_n the device part on device n, L the host's, z = T(x) the smashed data, g = d loss / d z,
D_n the samples of device n, η the learning rate, b the samples of a batch.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from tlc.bundle import Bundle
from tlc.errors import ConfigError
from tlc_host.averaging import Floats, Requantize, Shadow, Weights, mean
from tlc_host.cohort import Cohort, Left, Member
from tlc_host.exits import head_of
from tlc_host.server_worker import ServerWorker
from tlc_host.shards import Shard

__all__ = ["Algorithm", "BatchDone", "Event", "Federated", "RoundDone", "Settings", "Slot", "Split", "Tally"]

Int8 = NDArray[np.int8]
Float = NDArray[np.float32]


class Settings(BaseModel):
    """What every algorithm can be told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rounds: int = Field(1, ge=1, description="Rounds; in each, every device does its batches.")
    batches: int = Field(100, ge=1, description="Optimizer steps of a device in a round.")
    batch: int = Field(16, ge=1, description="Samples b of a device in a step.")
    lr: float = Field(0.05, gt=0, lt=math.inf, description="Learning rate η of both halves.")
    seed: int = Field(0, description="Of the draws, of the devices' rounding and of what else is random.")
    deadline_s: float = Field(
        0.0, ge=0, lt=math.inf, description="Seconds after which who is late is left out of the round; 0: never."
    )
    quorum: float = Field(0.5, gt=0, le=1, description="Share of the devices that must have answered before that.")
    exchange: Literal["sample", "batch"] = Field(
        "sample",
        description="How much crosses the link before gradients come back. `sample`: a device sends a sample and waits for its "
        "gradient, as its memory holds one forward pass. `batch`: it sends the batch, and repeats each forward pass before its "
        "backward pass; fewer turns, more bytes.",
    )
    gradient: Literal["int8", "float32"] = Field(
        "int8", description="How gradients go to a device: int8 with one scale a sample, or as they are."
    )
    device_momentum: float = Field(
        0.0, ge=0, lt=1, description="Momentum of the devices; above 0 for projects compiled with --momentum."
    )
    device_decay: float = Field(
        0.0, ge=0, lt=math.inf, description="Weight decay of the devices' weights; biases have none."
    )
    device_clip: float = Field(
        0.0,
        ge=0,
        lt=math.inf,
        description="Norm to which a longer mean gradient of a tensor is scaled down on devices; 0: none.",
    )
    device_schedule: Literal["constant", "step", "cosine"] = Field(
        "constant",
        description="The devices' rate from step to step: `step` halves it after every third of the steps, `cosine` takes it to 0.",
    )
    device_warm_up: int = Field(0, ge=0, description="Steps over which the devices' rate first rises from 0.")
    host_optimizer: Literal["sgd", "momentum", "adam", "adamw"] = Field(
        "sgd", description="How the host segment learns, where it does."
    )
    host_lr: float = Field(
        0.0, ge=0, lt=math.inf, description="Learning rate of the host segment; 0: that of both halves, `lr`."
    )
    host_momentum: float = Field(0.9, ge=0, lt=1, description="Of `momentum`.")
    host_beta1: float = Field(0.9, ge=0, lt=1, description="Of `adam` and `adamw`: decay of the gradients' mean.")
    host_beta2: float = Field(0.999, ge=0, lt=1, description="Of `adam` and `adamw`: decay of their squares' mean.")
    host_epsilon: float = Field(1e-8, ge=0, lt=math.inf, description="Of `adam` and `adamw`: added to the root.")
    host_decay: float = Field(0.01, ge=0, lt=math.inf, description="Weight decay of `adamw`.")
    host_clip: float = Field(
        0.0,
        ge=0,
        lt=math.inf,
        description="Norm to which a longer mean gradient of the whole host segment is scaled down; 0: none.",
    )
    host_schedule: Literal["constant", "step", "cosine"] = Field(
        "constant",
        description="The host segment's rate from step to step: `step` halves it after every third of its steps, `cosine` takes "
        "it to 0.",
    )
    host_warm_up: int = Field(0, ge=0, description="Steps over which the host segment's rate first rises from 0.")
    host_batch_norm: Literal["frozen", "training"] = Field(
        "frozen",
        description="What the host segment's batch normalization takes: the running statistics, which stay; or those of the "
        "batch, and the running ones follow, and dropout drops.",
    )
    requantize: Requantize = Field(
        "feedback",
        description="How averages of int8 tensors become int8: `feedback` adds what rounding took away to the next average, "
        "`stochastic` rounds at random, `nearest` is there to compare.",
    )

    @property
    def host_rate(self) -> float:
        """Learning rate of the host segment."""
        return self.host_lr or self.lr


@dataclass(frozen=True)
class BatchDone:
    """After an optimizer step: mean loss and share of right answers over its samples."""

    round: int
    device: int
    """Of one device; -1: of several together."""
    step: int
    """Of the device, from 1; of several the first one's."""
    loss: float
    accuracy: float
    samples: int


@dataclass(frozen=True)
class RoundDone:
    """After a round."""

    round: int
    loss: float
    accuracy: float
    samples: int
    seconds: float
    bytes_up: int
    bytes_down: int
    devices: tuple[str, ...]
    """Who was there at the end."""
    left_out: tuple[Left, ...]
    slowest: str
    """Whose calls took longest; empty where there was one device."""
    slowest_s: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What an algorithm tells beside: clusters, staleness."""


Event = BatchDone | RoundDone
Emit = Callable[[Event], Awaitable[None]]


class Tally:
    """Mean loss and right answers, weighted by samples."""

    def __init__(self) -> None:
        self.loss, self.correct, self.samples = 0.0, 0, 0

    def add(self, loss: float, correct: int, samples: int) -> None:
        """A part with its mean loss."""
        self.loss += loss * samples
        self.correct += correct
        self.samples += samples

    def merge(self, other: Tally) -> None:
        """Another one's."""
        self.loss += other.loss
        self.correct += other.correct
        self.samples += other.samples

    @property
    def mean_loss(self) -> float:
        """NaN where there was no sample."""
        return self.loss / self.samples if self.samples else math.nan

    @property
    def accuracy(self) -> float:
        """NaN where there was no sample."""
        return self.correct / self.samples if self.samples else math.nan


@dataclass(frozen=True)
class Slot:
    """The samples ``first`` .. of the batch of each device: what goes over the link before gradients come back."""

    first: int
    parts: Mapping[Member, Shard]


class Algorithm(ABC):
    """One algorithm, over a cohort and the host segment.

    Args:
        settings: an instance of the class's ``Settings``.
        cohort: who takes part.
        server: the host segment.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    Settings: ClassVar[type[Settings]] = Settings
    ushaped: ClassVar[bool] = False
    """Whether it is for devices that go on behind the host segment (``--tail``), or for those that do not."""
    exits: ClassVar[bool] = False
    """Whether it is for devices with a head at the cut (``--aux-head``)."""
    keeps: ClassVar[bool] = True
    """Whether every device's tensors are noted after a round; else the algorithm does so."""

    def __init__(self, settings: Any, cohort: Cohort, server: ServerWorker) -> None:
        self.settings = settings
        self.cohort = cohort
        self.server = server
        self.rng = np.random.default_rng([settings.seed & 0xFFFFFFFF, 0xA160])
        self.number = 0
        """Of the round that runs, from 0."""
        self.tally = Tally()
        self.metrics: dict[str, float] = {}
        self.emit: Emit = _nobody
        self.shadow = Shadow(self.bundle, settings.requantize, settings.seed)

    @property
    def bundle(self) -> Bundle:
        """The project's."""
        return self.server.model.bundle

    @classmethod
    def require(cls, bundle: Bundle, where: str) -> None:
        """Refuses a bundle that the algorithm cannot work with.

        Raises:
            ConfigError: what is missing.
        """
        if (bundle.tail is not None) != cls.ushaped:
            raise ConfigError(
                "the device goes on behind the host segment"
                if bundle.tail
                else "the device does not go on behind the host segment",
                where=f"{where}: --algorithm {cls.name}",
                remedy="take --algorithm ushaped" if bundle.tail else "compile with --tail and --loss",
            )
        if cls.exits:
            head_of(bundle, f"{where}: --algorithm {cls.name}")
        if not bundle.learned:
            raise ConfigError("nothing learns on the device", where=where, remedy="compile with --train last")
        if not bundle.trains:
            others = ", ".join(entry.name for entry in bundle.cuts if entry.learned)
            raise ConfigError(
                f"'{cls.name}' trains the device's part, and nothing learns before the cut at '{bundle.cut}'",
                where=where,
                remedy=f"take --cut {others}, or compile with --train full",
            )
        if not bundle.split and not judges(bundle):
            raise ConfigError(
                "the whole network is on the device, which was compiled without a loss",
                where=where,
                remedy="compile with --loss softmax-ce, or with another --cut",
            )

    @classmethod
    def host_steps(cls, settings: Any, devices: int) -> int:
        """Optimizer steps of the host segment in a whole run; 0 where it does not learn."""
        return 0

    @abstractmethod
    async def round(self) -> None:
        """One round."""

    async def begin(self) -> None:  # noqa: B027 - most need nothing
        """Before the first round, when the first devices are there."""

    async def end(self) -> None:  # noqa: B027 - most need nothing
        """After the last one."""

    async def close(self) -> None:  # noqa: B027 - most need nothing
        """When the run ends, however it does: what still runs ends, too."""

    def state(self) -> dict[str, Any]:
        """What the next round depends on beside the host segment and the cohort, for JSON."""
        return {"rng": self.rng.bit_generator.state, "shadow": self.shadow.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Back to a :meth:`state`."""
        self.rng.bit_generator.state = state["rng"]
        self.shadow.restore(state["shadow"])

    # ---- what most are made of ----

    async def hand(self, weights: Weights, members: Sequence[Member], steps: int) -> None:
        """T_n ← ``weights``, which ``steps`` optimizer steps have made, for each."""

        async def call(member: Member) -> None:
            member.device.steps = steps
            await member.device.set(weights)
            member.kept = weights

        await self.cohort.each(members, call)

    async def collect(self, members: Sequence[Member]) -> dict[Member, Weights]:
        """T_n of each that answers."""
        return dict(await self.cohort.each(members, lambda member: member.device.get()))

    async def average(self, members: Sequence[Member]) -> Weights | None:
        """T ← Σ_n D_n T_n / Σ_n D_n, rounded to integers (:mod:`tlc_host.averaging`), given to all that are there."""
        parts = await self.collect(members)
        if not parts:
            return None
        weights = self.shadow.integers(mean(list(parts.values()), [len(member.shard) for member in parts]))
        await self.hand(weights, list(parts), steps_of(parts))
        return weights

    async def report(self, tally: Tally, member: Member | None = None) -> None:
        """Counts a batch, and tells of it."""
        self.tally.merge(tally)
        if tally.samples:
            first = member or next(iter(self.cohort.present), None)
            step = first.device.steps if first else 0
            index = member.index if member else -1
            await self.emit(BatchDone(self.number, index, step, tally.mean_loss, tally.accuracy, tally.samples))


class Split(Algorithm):
    """Both halves learn: what split-learning algorithms have in common."""

    handed: Weights | None = None
    """T as the last device, or cluster, left it, where one hands it to the next."""
    handed_steps: int = 0

    def state(self) -> dict[str, Any]:
        """As of :class:`Algorithm`."""
        handed = None if self.handed is None else {k: (v.dtype.str, v.tolist()) for k, v in self.handed.items()}
        return {**super().state(), "handed": handed, "handed_steps": self.handed_steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        """As of :class:`Algorithm`."""
        super().restore(state)
        handed, self.handed_steps = state["handed"], state["handed_steps"]
        self.handed = None if handed is None else {k: np.array(v, dtype) for k, (dtype, v) in handed.items()}

    @classmethod
    def require(cls, bundle: Bundle, where: str) -> None:
        """As of :class:`Algorithm`; and there must be a host segment."""
        if not bundle.split:
            raise ConfigError(
                f"the whole network is on the device: there is no host segment for '{cls.name}' to train",
                where=where,
                remedy="compile with another --cut, or take --algorithm fedavg",
            )
        super().require(bundle, where)

    @classmethod
    def host_steps(cls, settings: Any, devices: int) -> int:
        """One for a batch of all devices together, or, with a copy of L for each, of every copy."""
        return int(settings.rounds * settings.batches)

    def slots(self, members: Sequence[Member]) -> Iterator[Slot]:
        """The next batch of each, in pieces; who was left out meanwhile is in no further one."""
        b = self.settings.batch
        batches = {member: member.draw(b) for member in members if member.present}
        size = 1 if self.settings.exchange == "sample" else b
        for first in range(0, b, size):
            places = np.arange(first, min(first + size, b))
            parts = {member: batch.take(places) for member, batch in batches.items() if member.present}
            if not parts:
                return
            yield Slot(first, parts)

    async def forward(self, slot: Slot) -> dict[Member, Int8]:
        """z_n = T_n(x_n) of each device that answers."""
        return await self.cohort.each(slot.parts, lambda member: member.device.forward(slot.parts[member].inputs))

    async def backward(self, gradients: Mapping[Member, Float]) -> None:
        """g_n to each device, which takes it on to the gradient of T_n."""
        await self.cohort.each(gradients, lambda member: member.device.backward(gradients[member]))

    async def step(self, members: Iterable[Member]) -> None:
        """T_n ← T_n − η ∇T_n on each."""
        await self.cohort.each(members, lambda member: member.device.step(self.settings.lr))

    async def learn(self, slot: Slot, z: Mapping[Member, Int8], tally: Tally) -> dict[Member, Float]:
        """The gradients of L at the smashed data of all devices together, added up until ``server.apply``; and for each
        device g_n, each row of its own sample's loss."""
        if not z:
            return {}
        labels = np.concatenate([slot.parts[member].labels for member in z])
        result = await self.server.gradient(np.concatenate(list(z.values())), labels)
        tally.add(result.loss, result.correct, len(labels))
        return split_rows(result.gradient * np.float32(len(labels)), z)

    async def apply(self, tally: Tally) -> None:
        """L ← L − η ∇L, of the mean loss over the batch."""
        if tally.samples:
            await self.server.apply(self.settings.host_rate)


class Federated(Algorithm):
    """Only T learns, from local losses: what federated algorithms have in common.

    Where the device holds the whole network and computes its loss itself, labels are sent with the samples. Else the host
    segment stays as it is, and carries the gradient of the loss back to the cut.
    """

    async def local(self, member: Member, batches: int, *, batch: int = 0, lr: float = 0.0) -> None:
        """``batches`` steps of T_n on the device's own samples; raises what the device raises."""
        tally = Tally()
        for _ in range(batches):
            await self.local_step(member, tally, batch or self.settings.batch, lr or self.settings.lr)
        if self.bundle.split:
            await self.server.discard()
        await self.report(tally, member)

    async def local_step(self, member: Member, tally: Tally, b: int, lr: float) -> None:
        """One of them: T_n ← T_n − η ∇ mean loss."""
        chosen = member.draw(b)
        if judges(self.bundle):
            loss, correct = await member.device.learn(chosen, lr)
            tally.add(loss, correct, b)
            return
        size = 1 if self.settings.exchange == "sample" else b
        for first in range(0, b, size):
            part = chosen.take(np.arange(first, min(first + size, b)))
            z = await member.device.forward(part.inputs)
            await member.device.backward(await self.local_gradient(part, z, tally))
        await member.device.step(lr)

    async def local_gradient(self, part: Shard, z: Int8, tally: Tally) -> Float:
        """g, each row of its own sample's cross-entropy, through a host segment that does not learn."""
        logits = (await self.server.forward(z, logits=True)).reshape(len(z), -1)
        loss, error = cross_entropy(logits, part.labels)
        tally.add(float(loss.mean()), int((logits.argmax(1) == part.labels).sum()), len(part))
        return await self.server.backward(z, error, logits=True)


def require_outputs(name: str, bundle: Bundle, where: str) -> None:
    """Refuses a bundle whose device computes the loss: then the host sees no smashed data to teach by.

    Raises:
        ConfigError: so it is.
    """
    if not bundle.split or judges(bundle):
        raise ConfigError(
            f"'{name}' makes the gradient on the host, but the device computes its loss",
            where=where,
            remedy="compile with a --cut and without --loss, or take --algorithm fedavg",
        )


def judges(bundle: Bundle) -> bool:
    """Whether the device computes the network's loss; that of a head at the cut is another."""
    return bundle.learning is not None and bundle.learning.loss != "none" and bundle.aux is None


def steps_of(members: Iterable[Member]) -> int:
    """The optimizer steps behind an average: the most that one has done."""
    return max(member.device.steps for member in members)


def cross_entropy(logits: Float, labels: NDArray[Any]) -> tuple[Float, Float]:
    """(samples,) losses, and their gradients at the logits, (samples, classes): p - y."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    rows = np.arange(len(labels))
    error = np.exp(logs).astype(np.float32)
    error[rows, labels] -= 1
    return -logs[rows, labels], error


def split_rows(rows: Float, like: Mapping[Member, NDArray[Any]]) -> dict[Member, Float]:
    """Rows that were joined, to whom they belong."""
    ends = np.cumsum([len(part) for part in like.values()])[:-1]
    return dict(zip(like, np.split(rows, ends), strict=True))


def average_server(states: Sequence[Mapping[str, NDArray[Any]]], shares: Sequence[float]) -> dict[str, NDArray[Any]]:
    """Σ_n p_n L_n of the host segment's copies, in float64, as float32."""
    averaged: Floats = mean(states, shares)
    return {name: value.astype(states[0][name].dtype) for name, value in averaged.items()}


async def _nobody(event: Event) -> None:
    await asyncio.sleep(0)
