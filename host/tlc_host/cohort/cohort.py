# SPDX-License-Identifier: Apache-2.0
"""Many devices at once; a round with them always ends."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from tlc.errors import DataError, LinkError
from tlc_host.cohort.device import Device
from tlc_host.cohort.member import Left, Member
from tlc_host.shards import Shard

__all__ = ["BEGIN", "Cohort"]

R = TypeVar("R")

BEGIN = 8
"""Calls that begin in one turn of the event loop."""
SEED_STRIDE = 0x9E3779B1
"""Devices round differently, so that what rounding does to them averages out; the first one by the seed itself."""


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
