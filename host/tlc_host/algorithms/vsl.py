# SPDX-License-Identifier: Apache-2.0
"""Vanilla split learning: Gupta and Raskar, "Distributed learning of deep neural network over multiple agents"
(JNCA 2018, arXiv 1810.06060); Vepakomma et al., arXiv 1812.00564, the simple configuration with labels on the server.

Devices take turns. In a turn, for each batch:

1. the device runs its part T on a sample and sends the smashed data z = T(x) with the label's place;
2. the server runs its part L, takes the gradient of the loss, and returns g = dloss/dz;
3. the device propagates g into its own gradient;
4. after the batch both sides take an SGD step.

Then T goes to the next device.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.errors import DeviceReset
from tlc_host.server_model import ServerModel
from tlc_host.session import Session

__all__ = ["Progress", "Shard", "train"]


KEEP = 8
"""Batches after which both sides' learned tensors are kept, to go back to after a device's reset."""


@dataclass(frozen=True)
class Shard:
    """The samples of one device: inputs as its integers (samples, ...), labels (samples,)."""

    inputs: NDArray[np.int8]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Progress:
    """After each batch."""

    round: int
    device: int
    step: int
    loss: float
    accuracy: float
    samples: int


async def train(
    devices: Sequence[Session],
    server: ServerModel,
    shards: Sequence[Shard],
    *,
    rounds: int,
    batches: int,
    batch: int,
    learning_rate: float,
    seed: int = 0,
    max_norm: float = 0.0,
) -> AsyncIterator[Progress]:
    """Trains both parts; yields after each batch.

    Args:
        devices: in the order of their turns.
        shards: each device's own samples.
        rounds: how often every device has its turn.
        batches: in a turn.
        batch: samples in a step, drawn without replacement within a pass over the shard.
        learning_rate: of both parts.
        seed: of the draws and of the devices' stochastic rounding.
        max_norm: a step whose mean gradient on the device has a larger norm is refused; 0: the device's own bound.

    Raises:
        DeviceError: status NUMERIC when training diverged on the device.
    """
    rng = np.random.default_rng(seed)
    orders = [_Order(len(shard.labels), rng) for shard in shards]
    step = devices[0].hello.last_step
    learned = b""
    for turn in range(rounds):
        for number, (device, shard) in enumerate(zip(devices, shards, strict=True)):
            if learned:
                await device.set_params(learned)
            plan = [orders[number].take(batch) for _ in range(batches)]
            async for done in _turn(device, server, shard, plan, step, learning_rate, seed, max_norm):
                yield dataclasses.replace(done, round=turn, device=number)
            step += batches
            learned = await device.get_params() if len(devices) > 1 else b""


async def _turn(
    device: Session,
    server: ServerModel,
    shard: Shard,
    plan: Sequence[NDArray[Any]],
    step: int,
    learning_rate: float,
    seed: int,
    max_norm: float,
) -> AsyncIterator[Progress]:
    """One device's turn. Where the device resets, both sides go back to where they last agreed and the batches since
    are done again, so that the trajectory is the undisturbed one."""
    done = kept = 0
    learned, weights = await device.get_params(), server.snapshot()
    while done < len(plan):
        if done - kept == KEEP:
            kept, learned, weights = done, await device.get_params(), server.snapshot()
        try:
            number = step + done + 1
            loss, correct = await _batch(device, server, shard, plan[done], number, learning_rate, seed, max_norm)
        except DeviceReset:
            await device.greet()
            await device.set_params(learned)
            server.restore(weights)
            done = kept
            continue
        done += 1
        yield Progress(0, 0, number, loss, correct / len(plan[done - 1]), len(plan[done - 1]))


async def _batch(
    device: Session,
    server: ServerModel,
    shard: Shard,
    chosen: NDArray[Any],
    step: int,
    learning_rate: float,
    seed: int,
    max_norm: float,
) -> tuple[float, int]:
    """One optimizer step on both sides: mean loss, and how many were right."""
    loss, correct = 0.0, 0
    for place in chosen:
        sent = await device.forward(shard.inputs[place], step=step, batch=step)
        smashed = sent.outputs[0].reshape(1, *server.bundle.outputs[0].shape[1:])
        # In a thread: TensorFlow's first call takes seconds, and the link must not fall silent.
        result = await asyncio.to_thread(server.gradient, smashed, shard.labels[place : place + 1])
        quantized, scale = quantize_gradient(result.gradient)
        await device.backward(sent, quantized, scale=scale, step=step)
        loss += result.loss / len(chosen)
        correct += result.correct
    server.apply(learning_rate)
    await device.step(step, learning_rate, seed, max_norm=max_norm)
    return loss, correct


def quantize_gradient(gradient: NDArray[np.float32]) -> tuple[NDArray[np.int8], float]:
    """A gradient as int8 with one scale: a quarter of its bytes on the link."""
    scale = np.float32(np.abs(gradient).max() / 127.0)
    if not scale > 0:
        return np.zeros(gradient.size, np.int8), 1.0
    return np.rint(gradient.ravel() / scale).astype(np.int8), float(scale)


class _Order:
    """Samples in a fresh random order, pass after pass."""

    def __init__(self, count: int, rng: np.random.Generator) -> None:
        self._count, self._rng = count, rng
        self._left: NDArray[Any] = np.empty(0, np.int64)

    def take(self, wanted: int) -> NDArray[Any]:
        while len(self._left) < wanted:
            self._left = np.concatenate([self._left, self._rng.permutation(self._count)])
        taken, self._left = self._left[:wanted], self._left[wanted:]
        return taken
