# SPDX-License-Identifier: Apache-2.0
"""A device by its name, ready to speak with.

======================  ==========================================================================================
``twin``                the generated C as a shared library in this process
``native``              the project's firmware built for this machine, a process on TCP
``emulator``            the board's own: the one that ``pio run -t upload`` booted, else one booted here
``/dev/tty...``         a serial port
``tcp://HOST:PORT``     a device that listens
``listen://HOST:PORT``  a device that connects to this port of ours; loopback where no host is named
======================  ==========================================================================================
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from tlc import boards
from tlc import bundle as bundles
from tlc.emulator import EmulatorProcess, read_state
from tlc.errors import DeviceTimeout, LinkError
from tlc_host.session import Session
from tlc_host.transports import Transport

__all__ = ["open_device"]

STATE_FILE = Path(".pio") / "tlc-emulator.json"
TIMEOUT_S = 30.0
_boots = itertools.count(1)


@asynccontextmanager
async def open_device(
    directory: Path, device: str, *, cut: str | None = None, **options: Any
) -> AsyncIterator[Session]:
    """A greeted session with a device; what was started for it ends with it.

    Args:
        directory: the project that ``tlc compile`` wrote.
        device: a name from the table above.
        cut: of several cuts the one at which its part ends; None: the bundle's own.
        options: for :meth:`Session.connect`.

    Raises:
        UsageError: the project has no such cut.
        BundleError: the project's bundle is damaged, or the device holds another.
        LinkError: the device cannot be opened, or does not greet.
        ToolchainError: it cannot be built or booted.
    """
    bundle = bundles.load(directory, cut)
    board = boards.of_project(directory)
    process: EmulatorProcess | None = None
    opener: str | Callable[[], Awaitable[Transport]] = device
    sensor: Callable[[Any, int], None] | None = None
    stack = ExitStack()
    if device == "twin":
        opener, sensor = _twin_opener(directory, stack)  # the session tells it the cut
    elif device in ("native", "emulator"):
        address, process = await asyncio.to_thread(_boot, directory, device, board)
        opener = address
    options = {"timeout_s": TIMEOUT_S, "baud": board.link.uart_baud, "cut": bundle.cut_index, **options}
    try:
        session = await Session.connect(opener, bytes.fromhex(bundle.hash), name=options.pop("name", device), **options)
        session.sensor = sensor
        try:
            yield session
        finally:
            await session.close()
    except (LinkError, DeviceTimeout) as error:
        if process is not None and process.returncode is not None:
            said = process.output().splitlines()
            raise LinkError(
                f"the device ended with code {process.returncode}: {said[-1] if said else error}", where=device
            ) from None
        raise
    finally:
        stack.close()
        if process is not None:
            process.stop()


def _twin_opener(
    directory: Path, stack: ExitStack
) -> tuple[Callable[[], Awaitable[Transport]], Callable[[Any, int], None]]:
    from tlc.twin import kept_twin
    from tlc_host.transports.memory import MemoryTransport

    twin = stack.enter_context(kept_twin(directory, boot=next(_boots)))

    async def opener() -> Transport:
        return MemoryTransport(twin.receive, twin.send, twin.poll)

    return opener, twin.sample


def _native_flash(directory: Path) -> Path | None:
    """Where the native device keeps what it learns; None where nothing learns, or the project cannot be written."""
    from tlc.twin import FLASH_DIR

    if bundles.load(directory).learned_sha256 is None:
        return None
    path = Path(directory) / FLASH_DIR / "native.bin"
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError:
        return None
    return path


def _boot(directory: Path, device: str, board: boards.Board) -> tuple[str, EmulatorProcess | None]:
    from tlc import toolchain

    if device == "native":
        from tlc.hostbuild import build_native

        process = toolchain.start(boards.load("native"), build_native(directory), flash=_native_flash(directory))
    else:
        running = read_state(directory / STATE_FILE)
        if running is not None:
            return str(running["address"]), None
        board.emulator_spec()  # raises where nothing emulates it, before anything is built
        toolchain.pio_run(directory)
        process = toolchain.start(board, toolchain.firmware_elf(directory, board))
    return process.address, process
