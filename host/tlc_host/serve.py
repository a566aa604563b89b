# SPDX-License-Identifier: Apache-2.0
"""``tlc serve``: the daemon. Greets devices, answers their samples, and trains with them where it is given data."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tlc import bundle as bundles
from tlc.bundle import Bundle
from tlc.data import InputSpec, samples_for
from tlc.errors import ConfigError, DataError, DeviceReset, LinkError, TlcError
from tlc.extras import require
from tlc_host.algorithms import vsl
from tlc_host.devices import open_device
from tlc_host.server_model import ServerModel
from tlc_host.session import Session, SmashedReply

__all__ = ["Training", "load_shard", "prepare_shards", "serve"]

log = logging.getLogger("tlc.serve")

RETRY_S = 1.0
WATCH_S = 0.25


@dataclass(frozen=True)
class Training:
    """What to train on, and how."""

    data: Path
    rounds: int
    batches: int
    batch: int
    learning_rate: float
    seed: int


async def serve(
    directory: Path,
    devices: Sequence[str],
    *,
    training: Training | None = None,
    say: Callable[[str], None] = log.info,
    on_batch: Callable[[vsl.Progress], None] | None = None,
    once: bool = False,
) -> None:
    """Serves devices until it is cancelled, or, with ``once``, until the training is done.

    A device's own samples are answered with the network's outputs. With ``training`` the devices first train together
    by vanilla split learning, each on its part of the data. A device that resets is greeted again, and gets back what it
    had learned at the end of the last batch that it finished.

    Raises:
        DataError: the training data does not fit.
        ConfigError: nothing learns in this project, or a setting of the training breaks a rule.
        BundleError: a device holds another bundle.
        LinkError: a device cannot be opened at the start.
    """
    bundle = bundles.load(directory)
    server = ServerModel(directory)
    shards = prepare_shards(training, server, len(devices)) if training else []

    async def answer(reply: SmashedReply) -> NDArray[np.float32]:
        smashed = reply.outputs[0].reshape(1, *bundle.outputs[0].shape[1:])
        outputs = await asyncio.to_thread(server.infer, smashed)
        return outputs[0].astype(np.float32).ravel()

    async with AsyncExitStack() as stack:
        sessions = []
        for device in devices:
            session = await stack.enter_async_context(open_device(directory, device, on_sample=answer))
            say(f"{device}: {session.hello.board.decode(errors='replace')}, bundle {bundle.hash[:16]}")
            sessions.append(session)
        if training:
            await _train(sessions, server, shards, training, say, on_batch)
        if once:
            return
        async with asyncio.TaskGroup() as tasks:
            for session in sessions:
                tasks.create_task(_watch(session, say))


def load_shard(path: Path, bundle: Bundle, part: str = "train") -> vsl.Shard:
    """A labelled file as a device's shard.

    Raises:
        DataError: it has no labels, or does not fit.
    """
    if len(bundle.inputs) != 1:
        raise DataError("training takes a model with one input", where=str(path))
    edge = bundle.inputs[0]
    samples = samples_for(path, [InputSpec(edge.file_name, edge.file_shape)], part=part, labelled=True)
    assert samples.labels is not None
    return vsl.Shard(edge.to_device(samples.inputs[edge.file_name]), samples.labels)


def prepare_shards(training: Training, server: ServerModel, count: int) -> list[vsl.Shard]:
    """Every device's share, dealt in turn; all that can be wrong is found before a device is opened."""
    require("tensorflow")
    if not 0 < training.learning_rate < math.inf:
        raise ConfigError(
            f"the learning rate must be positive, but is {training.learning_rate}", where="--lr", remedy="try 0.05"
        )
    server.require_trainable()
    whole = load_shard(training.data, server.bundle)
    server.check_labels(whole.labels, str(training.data))
    if len(whole.labels) < count:
        raise DataError(
            f"holds {len(whole.labels)} samples for {count} devices",
            where=str(training.data),
            remedy="give more samples",
        )
    return [vsl.Shard(whole.inputs[number::count], whole.labels[number::count]) for number in range(count)]


async def _train(
    sessions: Sequence[Session],
    server: ServerModel,
    shards: Sequence[vsl.Shard],
    training: Training,
    say: Callable[[str], None],
    on_batch: Callable[[vsl.Progress], None] | None,
) -> None:
    async for progress in vsl.train(
        sessions,
        server,
        shards,
        rounds=training.rounds,
        batches=training.batches,
        batch=training.batch,
        learning_rate=training.learning_rate,
        seed=training.seed,
    ):
        if on_batch:
            on_batch(progress)
    say("training is done")


async def _watch(session: Session, say: Callable[[str], None]) -> None:
    """Keeps a session alive: greets a device that reset, and gives it back what it had learned."""
    learned = await session.get_params() if session.hello.param_bytes else b""
    step = (await session.stats()).last_step
    while True:
        await asyncio.sleep(WATCH_S)
        try:
            await session.stats()
        except DeviceReset as reset:
            say(str(reset))
            await session.greet()
            if learned:
                await session.set_params(learned, step=step)
            say(f"{session.name}: back" + (", its learned tensors restored" if learned else ""))
        except (LinkError, TlcError) as error:
            say(f"{error}; trying again")
            await asyncio.sleep(RETRY_S)
