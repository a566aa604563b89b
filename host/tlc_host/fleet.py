# SPDX-License-Identifier: Apache-2.0
"""``tlc fleet``: many twins of a project through the real link code, in one process.

Each twin has its own state and its own link session: frames, acknowledgements, credit and parameters are those of a device on
a wire. The twins' clocks are slowed down with the host's timers alike, so that a thousand sessions do not spend their time on
keep-alives: a machine that takes a second for what a thousand devices do in a millisecond each would else give them up.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tlc.bundle import Bundle
from tlc.errors import DataError
from tlc.extras import require
from tlc.twin import Twin, TwinLibrary
from tlc_host.algorithms.base import Event, RoundDone
from tlc_host.cohort import LinkDevice
from tlc_host.config import Plan
from tlc_host.link import Link
from tlc_host.serve import assemble, device_steps
from tlc_host.server_model import ServerModel
from tlc_host.server_worker import ServerWorker
from tlc_host.session import Session
from tlc_host.shards import Deal, Shard, deal, load_shard
from tlc_host.transports.memory import MemoryTransport

__all__ = ["FleetResult", "fleet", "made_up"]

SLOWER = 50
"""Milliseconds of this machine in one of a twin's; its link gives up after 10 s of its own."""
IDLE_MS = 2000.0
TIMEOUT_S = 600.0
AT_ONCE = 64
"""Sessions that are greeted at a time."""
SAMPLES = 32
"""Of a device, where no file is given."""
LAG_S = 0.05


@dataclass(frozen=True)
class FleetResult:
    """What ``tlc fleet`` tells."""

    devices: int
    algorithm: str
    rounds: int
    connect_s: float
    """Until all were greeted."""
    seconds: float
    """Of the rounds; the first one, in which TensorFlow builds its functions, apart."""
    first_s: float
    cpu_s: float
    """Processor time of the rounds, all threads together: what a loaded machine does not change."""
    rounds_per_s: float
    samples_per_s: float
    bytes_up: int
    bytes_down: int
    """In the rounds, all devices together, as framed."""
    twin_bytes: int
    """Memory of a twin."""
    peak_bytes: int
    """Most memory that the process has had."""
    longest_lag_s: float
    """Longest time in the measured rounds that the event loop did not get to its timers."""
    left_out: int
    """Devices left out of a round, over all rounds."""
    loss: float
    accuracy: float

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


async def fleet(
    directory: Path,
    count: int,
    plan: Plan,
    *,
    data: Path | None = None,
    how: Deal = "turns",
    cut: str | None = None,
    say: Callable[[str], None] = lambda text: None,
    on_event: Callable[[Event], None] | None = None,
) -> FleetResult:
    """Trains with so many twins, and measures.

    Args:
        directory: the project that ``tlc compile`` wrote.
        count: twins.
        plan: the algorithm; its rounds are those that are measured, after a first one.
        data: a labelled file, dealt out; None: random samples, to measure only.
        cut: of several cuts the one at which the twins' parts end; None: the bundle's own.

    Raises:
        UsageError: the project has no such cut.
        ConfigError: the algorithm cannot work with this project.
        DataError: the file has fewer samples than there are devices.
    """
    library, model = TwinLibrary(directory, cut=cut), ServerModel(directory, cut=cut)
    plan.algorithm.require(library.bundle, str(directory))
    if library.bundle.split:
        require("tensorflow")
    shards = _shards(library.bundle, model, count, data, how, plan.settings.seed)
    longer = Plan(plan.algorithm, plan.settings.model_copy(update={"rounds": plan.settings.rounds + 1}))
    rounds: list[RoundDone] = []
    lag = Lag()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(ServerWorker(model))
        began = time.monotonic()
        twins = [library.create(number + 1) for number in range(count)]
        devices = await stack.enter_async_context(greeted(directory, twins, longer))
        connected = time.monotonic() - began
        say(f"{count:,} twins greeted in {connected:.1f} s")
        loop = assemble(longer, server, devices, shards)
        watch = asyncio.ensure_future(lag.run())
        stack.callback(watch.cancel)
        before = time.process_time()
        events = await stack.enter_async_context(aclosing(loop.events()))
        async for event in events:
            if on_event:
                on_event(event)
            if isinstance(event, RoundDone):
                if not rounds:  # it had TensorFlow's import in it
                    lag.longest, before = 0.0, time.process_time()
                rounds.append(event)
        cpu = time.process_time() - before
        watch.cancel()
    measured = rounds[1:]
    seconds = sum(done.seconds for done in measured)
    return FleetResult(
        count,
        plan.algorithm.name,
        len(measured),
        connected,
        seconds,
        rounds[0].seconds,
        cpu,
        len(measured) / seconds,
        sum(done.samples for done in measured) / seconds,
        sum(done.bytes_up for done in measured),
        sum(done.bytes_down for done in measured),
        library.instance_bytes,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        lag.longest,
        sum(len(done.left_out) for done in measured),
        measured[-1].loss,
        measured[-1].accuracy,
    )


@asynccontextmanager
async def greeted(directory: Path, twins: list[Twin], plan: Plan) -> AsyncIterator[list[LinkDevice]]:
    """A session with each twin."""
    bundle, told = twins[0].bundle, device_steps(plan)
    gate = asyncio.Semaphore(AT_ONCE)
    sessions: list[Session] = []

    async def one(number: int, twin: Twin) -> LinkDevice:
        async def opener() -> MemoryTransport:
            return MemoryTransport(twin.receive, twin.send, lambda now: twin.poll(now // SLOWER), idle_ms=IDLE_MS)

        async with gate:
            link = Link(keepalive_ms=1000 * SLOWER, dead_ms=10_000 * SLOWER)
            name = f"twin {number + 1}"
            session = await Session.connect(
                opener,
                bytes.fromhex(bundle.hash),
                name=name,
                link=link,
                timeout_s=TIMEOUT_S,
                on_log=lambda *_: None,
                cut=bundle.cut_index,
            )
        session.sensor = twin.sample
        sessions.append(session)
        small = bundle.param_bytes <= link.peer_max_message // 2
        return LinkDevice(session, bundle, None if small else directory, gradient=plan.settings.gradient, told=told)

    try:
        yield await asyncio.gather(*(one(number, twin) for number, twin in enumerate(twins)))
    finally:
        for session in sessions:
            await session.close()


class Lag:
    """How long the event loop could not look at its timers."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(LAG_S)
            self.longest = max(self.longest, time.monotonic() - before - LAG_S)


def _shards(bundle: Bundle, model: ServerModel, count: int, data: Path | None, how: Deal, seed: int) -> list[Shard]:
    if data is None:
        return made_up(bundle, model.classes, count, seed)
    whole = load_shard(data, bundle)
    model.check_labels(whole.labels, str(data))
    if len(whole) < count:
        raise DataError(f"holds {len(whole)} samples for {count} devices", where=str(data), remedy="give more samples")
    return deal(whole, count, how, seed=seed)


def made_up(bundle: Bundle, classes: int, count: int, seed: int) -> list[Shard]:
    """Random samples with random labels for each device."""
    rng = np.random.default_rng([seed & 0xFFFFFFFF, 0xF1EE7])
    shape = bundle.inputs[0].shape[1:]
    inputs = rng.integers(-128, 128, (SAMPLES, *shape)).astype(np.int8)
    return [Shard(inputs, rng.integers(0, max(classes, 1), SAMPLES)) for _ in range(count)]
