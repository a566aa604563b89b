# SPDX-License-Identifier: Apache-2.0
"""Training over bad lines for a long time: ``python tests/host/link_soak.py [--minutes N] [--twins N] [--seed N]``.

Twins of the small model (the firmware's device and link) learn by split learning through :class:`Session`, over lines that
lose, damage and break off. Devices are reset at random; the daemon is killed at random, with all its sessions and without a
goodbye, and goes on from what it kept. Afterwards quiet twins do the same steps without any of that: the learned tensors of
every device and of its host half must be the same, bit for bit.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from link_twin import HASH, N, Noisy, SmallTwin, build_twin

from tlc.errors import DeviceReset, DeviceTimeout, LinkError
from tlc_host.session import Session

BATCH = 2
KEEP = 3  # steps after which what was learned is kept
FIRST = bytes(i % 7 for i in range(N))  # small_initial


@dataclass
class Kept:
    """What a daemon keeps of a device: the step, and both halves after it."""

    step: int = 0
    device: bytes = FIRST
    host: npt.NDArray[np.float32] = field(default_factory=lambda: np.full(N, 0.5, np.float32))


@dataclass
class Counts:
    """What happened."""

    resets: int = 0
    kills: int = 0
    sessions: int = 0
    resent: int = 0
    steps: int = 0


async def one_step(
    session: Session, device: int, number: int, host: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Both halves take a step; the host's new half."""
    rng = np.random.default_rng((device, number))
    change = np.zeros(N, np.float32)
    for batch in range(BATCH):
        x = rng.integers(-20, 20, N).astype(np.int8)
        reply = await session.forward(x, step=number, batch=batch)
        z = reply.outputs[0].astype(np.float32)
        error = host * z - rng.integers(-30, 30, N).astype(np.float32)
        done = await session.backward(reply, error * host * np.float32(0.02))
        assert done.samples == batch + 1, "a gradient was lost or taken twice"
        change += error * z
    await session.step(number, 0.2)
    return np.clip(host - np.float32(1e-5) * change, -2, 2).astype(np.float32)


async def learn(
    session: Session, device: int, kept: Kept, wanted: Callable[[Kept], bool], store: Callable[[Kept], None]
) -> None:
    """From what was kept on, as long as ``wanted``; a reset of the device takes both halves back to it."""
    restore = True
    while wanted(kept):
        try:
            if restore:
                await session.reset_state()
                await session.set_params(kept.device, step=kept.step)
                restore = False
            host = kept.host
            for number in range(kept.step + 1, kept.step + KEEP + 1):
                host = await one_step(session, device, number, host)
            kept = Kept(kept.step + KEEP, await session.get_params(), host)
            store(kept)
        except DeviceReset:
            await session.greet()
            restore = True


async def kill(session: Session) -> None:
    """As if the process had died: nobody says goodbye."""
    wire = session._wire
    wire.over = True
    if wire.timer is not None:
        wire.timer.cancel()
    if wire.reader is not None:
        wire.reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await wire.reader
    if wire.transport is not None:
        await wire.transport.close()


async def disturbed(twins: list[SmallTwin], seconds: float, seed: int, counts: Counts, shake: float) -> list[Kept]:
    """What every device has kept after so many seconds; ``shake``: mean time between a device's resets, in seconds."""
    rng = random.Random(seed)
    kept = [Kept() for _ in twins]
    end = time.monotonic() + seconds
    boots = len(twins)

    def until(_: Kept) -> bool:
        return time.monotonic() < end

    async def serve(device: int) -> None:
        twin = twins[device]

        async def opener() -> Any:
            return Noisy(await twin.open(), rng, loss=0.01, breaks=0.002)

        def store(state: Kept) -> None:
            kept[device] = state

        while until(kept[device]):
            session = None
            try:
                session = await Session.connect(opener, HASH, timeout_s=30.0)
                await learn(session, device, kept[device], until, store)
            except (DeviceTimeout, LinkError, DeviceReset):
                pass  # the next session goes on from what was kept
            finally:
                if session is not None:
                    counts.sessions += session.counters.sessions
                    counts.resent += session.counters.resent
                    await kill(session)

    async def shaker() -> None:
        nonlocal boots
        while True:
            await asyncio.sleep(rng.expovariate(len(twins) / shake))
            boots += 1
            counts.resets += 1
            rng.choice(twins).reset(boots)

    while time.monotonic() < end:  # a life of the daemon
        tasks = [asyncio.create_task(serve(device)) for device in range(len(twins))]
        shaking = asyncio.create_task(shaker())
        await asyncio.wait(tasks, timeout=min(rng.expovariate(1 / (2 * shake)) + 0.5, end - time.monotonic()))
        counts.kills += 1
        for task in (*tasks, shaking):
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result
        with contextlib.suppress(asyncio.CancelledError):
            await shaking
    counts.steps = sum(state.step for state in kept)
    return kept


async def quiet(twin: SmallTwin, device: int, steps: int) -> Kept:
    """The same steps, undisturbed."""
    state = Kept()

    def store(following: Kept) -> None:
        nonlocal state
        state = following

    async with await Session.connect(twin.open, HASH) as session:
        await learn(session, device, state, lambda kept: kept.step < steps, store)
    return state


def soak(library: ctypes.CDLL, twins: int, seconds: float, seed: int, shake: float) -> tuple[Counts, int]:
    """Counts, and how many devices differ from the undisturbed run."""
    counts = Counts()
    kept = asyncio.run(disturbed([SmallTwin(library, i + 1) for i in range(twins)], seconds, seed, counts, shake))

    async def again() -> int:
        different = 0
        for device, state in enumerate(kept):
            wanted = await quiet(SmallTwin(library, device + 1), device, state.step)
            different += wanted.device != state.device or wanted.host.tobytes() != state.host.tobytes()
        return different

    return counts, asyncio.run(again())


def main() -> int:
    """The command; 1: a device learned something else."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--twins", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shake", type=float, default=30.0, help="seconds between a device's resets, in the mean")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        library = build_twin(Path(directory))
        counts, different = soak(library, given.twins, 60 * given.minutes, given.seed, given.shake)
    print(
        f"{given.twins} twins, {given.minutes:g} min: {counts.steps:,} steps kept, {counts.resets:,} resets of devices, "
        f"{counts.kills:,} deaths of the daemon, {counts.sessions:,} sessions, {counts.resent:,} frames sent again; "
        f"{different} devices differ from the undisturbed run"
    )
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
