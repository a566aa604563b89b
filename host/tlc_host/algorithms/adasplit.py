# SPDX-License-Identifier: Apache-2.0
"""AdaSplit: Chopra et al., "AdaSplit: adaptive trade-offs for resource-constrained distributed deep learning",
arXiv 2112.01637, section 3.

No gradient comes down. Every device has a head of its own at the cut and learns T_n by that head's loss; the server learns L
from the smashed data that a few devices send. Of all the optimizer steps t of a run:

1. Local phase, the first share κ of them: every device, by itself and without waiting for others, draws b of its own samples and
   takes a step of T_n and its head. Nothing is sent.
2. Global phase: the devices go on so. In each step the orchestrator chooses ⌈η N⌉ of them, and only these send the z = T_n(x) of
   their batch, as it was before the step; L takes a step on each, in turn.
3. The orchestrator is an upper confidence bound: it takes the devices with the largest

       A_n = l_n / s_n + √(2 ln τ / s_n),    l_n = Σ_t γ^(τ−t) l_n,t,    s_n = Σ_t γ^(τ−t) S_n,t

   over the steps t up to the last one τ, from the phase's begin. S_n,t is 1 where n was chosen; l_n,t is then L's loss on its z, else the mean of its l_n
   of the two steps before. Who was never chosen comes first.
4. With `sparsity` λ > 0 each device has a mask m_n on the weights θ of L, so that devices which differ share only what suits them:
   L_n = m_n ⊙ θ, G the gradient at it,

       θ ← θ − η m_n ⊙ G,    m_n ← shrink(m_n − η θ ⊙ G, η λ)

   the proximal step of an L1 penalty λ ‖m_n‖₁, from m_n = 1. λ = 0: one L, the same for all.

The paper's local loss compares the samples of a batch with each other (supervised NT-Xent). A device's memory holds one forward
pass, so here it is the cross-entropy of the head, which needs no other sample. T_n are not averaged. With masks the host segment
that is kept after a round, and answers, is θ times the mean of the masks. The steps are written from our knowledge of the paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tlc_host.algorithms import base
from tlc_host.algorithms.base import Float, Split, Tally
from tlc_host.cohort import Member

__all__ = ["AdaSplit", "Orchestrator"]

Int8 = NDArray[np.int8]
Arrays = dict[str, NDArray[Any]]


class Settings(base.Settings):
    """κ, the share of devices, γ and λ."""

    kappa: float = Field(0.6, ge=0, le=1, description="Share κ of the run's steps that are local: nothing is sent.")
    share: float = Field(
        0.6, gt=0, le=1, description="Share η of the devices that send, in a step of the global phase."
    )
    gamma: float = Field(0.87, gt=0, le=1, description="Discount γ of what the orchestrator has seen.")
    sparsity: float = Field(
        0.0, ge=0, lt=math.inf, description="Penalty λ on the devices' masks on the host segment; 0: no masks."
    )


class Orchestrator:
    """Who sends: step 3.

    Args:
        gamma: γ.
    """

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma
        self.steps = 0
        self.seen: dict[int, list[float]] = {}
        """By device: l_n, s_n, and l_n of the last step and of the one before."""

    def advantage(self, device: int) -> float:
        """A_n; infinite for one that was never chosen."""
        loss, chosen, *_ = self.seen.get(device, [0.0, 0.0])
        if not chosen:
            return math.inf
        return loss / chosen + math.sqrt(2 * math.log(max(self.steps, 1)) / chosen)

    def choose(self, devices: Iterable[int], count: int) -> list[int]:
        """The ones with the largest A_n; of equal ones the first."""
        return sorted(sorted(devices, key=lambda device: (-self.advantage(device), device))[:count])

    def note(self, devices: Iterable[int], losses: Mapping[int, float]) -> None:
        """After a step: L's losses on those that sent."""
        self.steps += 1
        for device in devices:
            loss, chosen, last, before = self.seen.get(device, [0.0] * 4)
            new = losses.get(device, (last + before) / 2)
            self.seen[device] = [self.gamma * loss + new, self.gamma * chosen + (device in losses), new, last]


class AdaSplit(Split):
    """Devices learn by a loss of their own, a few send smashed data, and no gradient comes back."""

    name = "adasplit"
    title = "AdaSplit"
    paper = "Chopra et al., arXiv 2112.01637"
    exits = True
    Settings: ClassVar[type[base.Settings]] = Settings

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.orchestrator = Orchestrator(self.settings.gamma)
        self.theta: Arrays = {}
        self.masks: dict[int, Arrays] = {}

    @classmethod
    def host_steps(cls, settings: Any, devices: int) -> int:
        """One for each that sends, in the global phase."""
        steps = settings.rounds * settings.batches - local_steps(settings)
        return int(steps * math.ceil(settings.share * devices))

    async def round(self) -> None:
        """``batches`` steps, of whichever phases they are in."""
        settings, done = self.settings, self.number * self.settings.batches
        local = min(max(local_steps(settings) - done, 0), settings.batches)
        self.metrics["local steps"] = local
        await self.cohort.each(self.cohort.present, lambda member: self.alone(member, local))
        served = Tally()
        for _ in range(settings.batches - local):
            await self.together(self.cohort.present, served)
        if self.masks:
            kept = {name: value * self.mean_mask(name) for name, value in self.theta.items()}
            await self.server.call(self.server.model.set_weights, kept)
        if served.samples:
            self.metrics |= {"host loss": served.mean_loss, "host accuracy": served.accuracy}

    async def alone(self, member: Member, steps: int) -> None:
        """Step 1 of one device."""
        for _ in range(steps):
            tally, batch = Tally(), member.draw(self.settings.batch)
            loss, correct = await member.device.learn(batch, self.settings.lr)
            tally.add(loss, correct, len(batch))
            await self.report(tally, member)

    async def together(self, members: Sequence[Member], served: Tally) -> None:
        """Step 2: one optimizer step of every device, and L's on what the chosen ones send."""
        settings = self.settings
        batches = {member: member.draw(settings.batch) for member in members}
        chosen = self.orchestrator.choose(
            (member.index for member in members), math.ceil(settings.share * len(members))
        )

        async def call(member: Member) -> tuple[Int8 | None, float, int]:
            if member.index in chosen:
                return await member.device.share(batches[member], settings.lr)
            return (None, *(await member.device.learn(batches[member], settings.lr)))

        losses: dict[int, float] = {}
        tally = Tally()
        answers = await self.cohort.each(members, call)
        for member, (z, loss, correct) in answers.items():
            tally.add(loss, correct, len(batches[member]))
            if z is not None:
                losses[member.index] = await self.teach(member, z, batches[member].labels, served)
        self.orchestrator.note((member.index for member in answers), losses)
        await self.report(tally)

    async def teach(self, member: Member, z: Int8, labels: NDArray[Any], served: Tally) -> float:
        """A step of L on one device's z: its loss there before."""
        if self.settings.sparsity:
            return await self.teach_masked(member, z, labels, served)
        result = await self.server.gradient(z, labels)
        served.add(result.loss, result.correct, len(labels))
        await self.server.apply(self.settings.host_rate)
        return result.loss

    async def teach_masked(self, member: Member, z: Int8, labels: NDArray[Any], served: Tally) -> float:
        """Step 4."""
        call, model, lr = self.server.call, self.server.model, np.float32(self.settings.host_rate)
        theta = self.theta = self.theta or await call(model.weights)
        masks = self.masks.setdefault(member.index, {})
        await call(model.set_weights, {name: value * masks.get(name, np.float32(1)) for name, value in theta.items()})
        result = await self.server.gradient(z, labels)
        served.add(result.loss, result.correct, len(labels))
        gradients: dict[str, Float] = await call(model.gradients)
        await self.server.discard()
        for name, gradient in gradients.items():
            mask, value = masks.get(name, np.ones_like(theta[name])), theta[name]
            theta[name] = value - lr * mask * gradient
            moved = mask - lr * value * gradient
            masks[name] = np.sign(moved) * np.maximum(np.abs(moved) - lr * np.float32(self.settings.sparsity), 0)
        return result.loss

    def mean_mask(self, name: str) -> NDArray[Any] | np.float32:
        """Over the devices that have one."""
        found = [masks[name] for masks in self.masks.values() if name in masks]
        return np.mean(found, axis=0, dtype=np.float32) if found else np.float32(1)

    def state(self) -> dict[str, Any]:
        """As of the base; with what the orchestrator has seen, θ and the masks."""
        return {
            **super().state(),
            "steps": self.orchestrator.steps,
            "seen": [[index, *values] for index, values in self.orchestrator.seen.items()],
            "theta": _listed(self.theta),
            "masks": [[index, _listed(masks)] for index, masks in self.masks.items()],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """As of the base."""
        super().restore(state)
        self.orchestrator.steps = state["steps"]
        self.orchestrator.seen = {int(index): list(values) for index, *values in state["seen"]}
        self.theta = _arrays(state["theta"])
        self.masks = {int(index): _arrays(masks) for index, masks in state["masks"]}


def local_steps(settings: Any) -> int:
    """The steps of a run that are local."""
    return int(settings.kappa * settings.rounds * settings.batches + 0.5)


def _listed(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    return {name: (value.dtype.str, value.tolist()) for name, value in arrays.items()}


def _arrays(listed: Mapping[str, Any]) -> Arrays:
    return {name: np.array(value, dtype) for name, (dtype, value) in listed.items()}
