# SPDX-License-Identifier: Apache-2.0
"""``tlc bench``: what one inference costs on the emulated board, counted in instructions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tlc import boards
from tlc import bundle as bundles
from tlc.bundle import Bundle
from tlc_host.devices import open_device

__all__ = ["BenchResult", "Layer", "TrainingCost", "bench"]


ELF_KEYS = ("flash_bytes", "code_bytes", "weight_bytes", "ram_bytes", "origins")


@dataclass(frozen=True)
class Layer:
    """One layer of the forward pass."""

    name: str
    instructions: int


@dataclass(frozen=True)
class TrainingCost:
    """Instructions of one training sample and of one optimizer step; 0: updates stand inside the backward pass."""

    forward: int
    backward: int
    update: int


@dataclass(frozen=True)
class BenchResult:
    """What ``tlc bench`` tells."""

    bundle: Bundle
    instructions: int
    """Of the layers of one forward pass, without the link's work between them."""
    layers: tuple[Layer, ...]
    training: TrainingCost | None
    stack_bytes: int
    elf: dict[str, Any]
    """``tlc size``'s figures, of the linked image."""

    def to_json(self, *, layers: bool = False) -> dict[str, Any]:
        """The keys that scripts rely on."""
        promise = self.bundle.certificate
        result: dict[str, Any] = {
            "instructions_per_inference": self.instructions,
            "instructions_per_mac": round(self.instructions / max(1, self.bundle.macs), 3),
            "macs": self.bundle.macs,
            "arena_bytes": promise.arena_bytes,
            "stack_bytes": self.stack_bytes,
            **self.elf,
        }
        if self.training:
            result["training"] = {
                "forward": self.training.forward,
                "backward": self.training.backward,
                "update": self.training.update,
            }
        if layers:
            result["layers"] = [{"name": layer.name, "instructions": layer.instructions} for layer in self.layers]
        return result


async def bench(directory: Path, cut: str | None = None) -> BenchResult:
    """Boots the project's own emulator, afresh, and counts.

    Args:
        cut: of several cuts the one at which the device's part ends; None: the bundle's own.

    Raises:
        UsageError: the project has no such cut.
        BoardError: the board has no emulator that counts instructions.
    """
    from tlc import toolchain
    from tlc.errors import BoardError
    from tlc.size import measure

    bundle = bundles.load(directory, cut)
    board = boards.of_project(directory)
    if board.emulator is None or not board.emulator.counts_instructions:
        raise BoardError(
            "nothing here counts this board's instructions",
            where=f"board '{board.id}'",
            remedy="compile for an emulated board of the same core, e.g. --board qemu-m4",
        )
    toolchain.pio_run(directory)
    rng = np.random.default_rng(0)
    inputs = [rng.integers(-128, 128, edge.shape[1:]).astype(np.int8) for edge in bundle.inputs]
    with toolchain.Emulator(board, toolchain.firmware_elf(directory, board)) as process:
        async with open_device(directory, process.address, cut=cut) as device:
            await device.infer(inputs)
            # Their sum repeats exactly; a whole pass also holds what the link does in between.
            ticks = await device.layers()
            training = None
            if bundle.trains:
                reply = await device.forward(inputs)
                forward = sum(int(count) for count in await device.layers())
                # As training sends it; a device that learns in integers has no room for floats.
                gradient = np.clip(np.round(32 * rng.standard_normal(reply.outputs[0].size)), -127, 127)
                q = gradient.astype(np.int8)
                if bundle.learning is not None and bundle.learning.interleaved:
                    trained = await device.train(reply, q, 1, 1e-3, scale=1 / 32)
                    training = TrainingCost(forward, trained.ticks, 0)
                else:
                    backward = await device.backward(reply, q, scale=1 / 32)
                    update = await device.step(1, 1e-3)
                    training = TrainingCost(forward, backward.ticks, update.ticks)
            stack = (await device.stats()).stack_bytes
    sizes = measure(directory).to_json()
    layers = tuple(Layer(name, int(count)) for name, count in zip(bundle.layers, ticks, strict=True))
    instructions = sum(layer.instructions for layer in layers)
    return BenchResult(bundle, instructions, layers, training, stack, {key: sizes[key] for key in ELF_KEYS})
