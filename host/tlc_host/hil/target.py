# SPDX-License-Identifier: Apache-2.0
"""What the scenarios run on: a project's firmware in its emulator, as a process, or on a board at the end of a line."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc import boards, emulator_renode, toolchain
from tlc import bundle as bundles
from tlc.debugger import Debugger
from tlc.emulator import EmulatorProcess
from tlc.errors import BundleError, ToolchainError
from tlc.image import read_image
from tlc.twin import Twin
from tlc_host.hil.noise import Noisy
from tlc_host.session import Session
from tlc_host.transports import Transport, open_transport

__all__ = ["NotHere", "Target", "image_of"]

TIMEOUT_S = 30.0
NOISE = 5e-4
MACHINES = 3
FLASH_FUNCTIONS = ("tlc_hw_flash_erase", "tlc_hw_flash_write")


class NotHere(Exception):
    """A scenario that this device, or this way to it, does not have; the text says why."""


class Target:
    """One device. On an emulator every scenario gets a freshly booted one.

    Args:
        directory: the project, built.
        device: empty: its emulator, or a process for the native board; else a name of a line to a board.
        inputs: the device's integers to infer, (samples, ...) for each input; None: seeded random ones.
        machines: boards in the scenario that has several.

    Raises:
        BundleError: no project, or a damaged one, or one built for another board than its bundle.
        ToolchainError: it has not been built.
        BoardError: nothing here emulates the board.
    """

    def __init__(
        self,
        directory: Path,
        device: str = "",
        inputs: Sequence[NDArray[np.int8]] | None = None,
        machines: int = MACHINES,
    ) -> None:
        self.directory = directory
        self.device = device
        self.bundle = bundles.load(directory)
        self.board = boards.of_project(directory)
        if self.board.id != self.bundle.board:
            raise BundleError(
                f"the bundle is for board '{self.bundle.board}', but board.toml is of '{self.board.id}'",
                where=str(directory),
                remedy="compile the model again",
            )
        self._given = inputs
        self.machines = machines
        self._process: EmulatorProcess | None = None
        self._debugger: Debugger | None = None
        self.seed = 0
        if not device:
            if self.board.emulator_spec()["kind"] == "renode":
                emulator_renode.renode()  # raises where there is none, once and not for every scenario
            self.elf = image_of(directory, self.board)

    @cached_property
    def metal(self) -> bool:
        """A board at the end of a line: nobody here can press its button."""
        return bool(self.device)

    @property
    def hash(self) -> bytes:
        """What the device greets with."""
        return bytes.fromhex(self.bundle.hash)

    def inputs(self, count: int, seed: int) -> list[list[NDArray[np.int8]]]:
        """So many samples, each a list of the model's inputs: the user's, repeated, or seeded random ones."""
        if self._given is not None:
            have = len(self._given[0])
            return [[array[i % have] for array in self._given] for i in range(seed, seed + count)]
        rng = np.random.default_rng(seed)
        return [[rng.integers(-128, 128, edge.shape[1:], np.int8) for edge in self.bundle.inputs] for _ in range(count)]

    def twin(self) -> Twin:
        """The same device in this process, as it leaves the factory."""
        return Twin(self.directory)

    @contextlib.asynccontextmanager
    async def session(self, *, seed: int = 1, noise: int | None = None) -> AsyncIterator[Session]:
        """A greeted session with a device that has learned nothing.

        Args:
            seed: what an emulated device's entropy starts from.
            noise: the seed of a bad line; None: a good one.

        Raises:
            LinkError, ToolchainError: it does not start or does not answer.
        """
        self.seed = seed
        address = self.device
        if not self.metal:
            self._process = await asyncio.to_thread(toolchain.start, self.board, self.elf, seed=seed)
            address = self._process.address

        async def opener() -> Transport:
            line = await open_transport(address, baud=self.board.link.uart_baud)
            return line if noise is None else Noisy(line, noise, NOISE)

        try:
            session = await Session.connect(
                opener, self.hash, name=self.board.id, timeout_s=TIMEOUT_S, cut=self.bundle.cut_index
            )
            try:
                if self.metal and self.bundle.learned:
                    await session.reset_state()
                yield session
            finally:
                await session.close()
        finally:
            if self._debugger is not None:
                self._debugger.close()
                self._debugger = None
            if self._process is not None:
                self._process.stop()
                self._process = None

    @property
    def in_one(self) -> bool:
        """The emulator has several boards in one emulation."""
        return not self.metal and self.board.emulator_spec()["kind"] == "renode"

    @contextlib.asynccontextmanager
    async def sessions(self) -> AsyncIterator[list[Session]]:
        """Greeted sessions with as many fresh boards as were asked for, which run at once.

        Raises:
            NotHere: on metal.
            LinkError, ToolchainError: one does not start or does not answer.
        """
        if self.metal:
            raise NotHere("there is one board at the end of the line")
        at_once = self.machines if self.in_one else 1
        async with contextlib.AsyncExitStack() as stack:
            addresses: list[str] = []
            while len(addresses) < self.machines:
                process = await asyncio.to_thread(
                    toolchain.start, self.board, self.elf, seed=1 + len(addresses), machines=at_once
                )
                stack.callback(process.stop)
                addresses += process.addresses
            baud, sessions = self.board.link.uart_baud, []
            for address in addresses:
                session = await Session.connect(address, self.hash, name=self.board.id, baud=baud, timeout_s=TIMEOUT_S)
                stack.push_async_callback(session.close)
                sessions.append(session)
            yield sessions

    async def instructions(self) -> int | None:
        """Instructions that the emulated CPU has run; None: nobody tells."""
        return await asyncio.to_thread(self._process.instructions) if self._process is not None else None

    async def reset(self) -> None:
        """Presses the button; a process is replaced by another on the same port.

        Raises:
            NotHere: on metal.
        """
        if self._process is None:
            raise NotHere("nobody here can press the button of a board on a line")
        if self.board.id != "native":
            await asyncio.to_thread(self._process.reset)
            return
        port = self._process.port
        self._process.stop()
        self.seed += 1
        self._process = await asyncio.to_thread(toolchain.start, self.board, self.elf, port=port, seed=self.seed)

    def debugger(self) -> tuple[Debugger, list[int]]:
        """A debugger that holds the emulated CPU, and the addresses of the functions that change flash.

        Raises:
            NotHere: a process, or metal.
        """
        if self._process is None or self.board.emulator_spec()["kind"] != "qemu":
            raise NotHere("only QEMU stops at an instruction here")
        image = read_image(self.elf, self.directory)
        found = [symbol.address for name in FLASH_FUNCTIONS if (symbol := image.symbol(name)) is not None]
        if len(found) < len(FLASH_FUNCTIONS):
            raise NotHere("its flash is not written by the bare-metal port")
        thumb = self.board.cpu.isa.startswith("arm")
        if self._debugger is None:
            self._debugger = Debugger(self._process, 2 if thumb else 4)
        else:
            self._debugger.hold()
        return self._debugger, [address & ~1 if thumb else address for address in found]

    def as_message(self, params: dict[str, NDArray[Any]]) -> bytes:
        """A twin's learned tensors as they lie in a message."""
        raw = bytearray(max(entry.offset + params[entry.name].nbytes for entry in self.bundle.learned))
        for entry in self.bundle.learned:
            raw[entry.offset : entry.offset + params[entry.name].nbytes] = params[entry.name].tobytes()
        return bytes(raw)


def image_of(directory: Path, board: boards.Board) -> Path:
    """The image in a project, of this board and no other.

    Raises:
        ToolchainError: it has not been built, or for another board.
    """
    if board.id == "native":
        from tlc.hostbuild import build_native

        return build_native(directory)
    others = sorted(path.parent.name for path in Path(directory).glob(".pio/build/*/firmware.elf"))
    if others and board.id not in others:
        raise ToolchainError(
            f"it was built for {', '.join(others)}, not for '{board.id}'",
            where=str(directory),
            remedy=f"build it: pio run -d {directory}",
        )
    return toolchain.firmware_elf(directory, board)
