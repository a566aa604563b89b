# SPDX-License-Identifier: Apache-2.0
"""Projects for boards, and sessions with what runs there."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from tlc import boards, hostbuild, resources, toolchain
from tlc import bundle as bundles
from tlc.boards import Board
from tlc.bundle import Bundle
from tlc.frontends.onnx_writer import write_onnx
from tlc.graph import Graph
from tlc.learning import Learning
from tlc.pipeline import Options, compile_model
from tlc_host.session import Session

EMULATED = [
    "qemu-m0",
    "qemu-m3",
    "qemu-m33",
    "qemu-m4",
    "qemu-m55",
    "qemu-m7",
    "qemu-rv32",
    "qemu-stm32f4",
    "qemu-xtensa",
]
RENODE = ["renode-nano33ble", "renode-rv32", "renode-stm32f4-discovery", "renode-stm32f746"]
"""Built everywhere, run where there is a Renode."""
ALL = [*EMULATED, "native"]


def bare_project(name: str, directory: Path, *sources: Path, text: dict[str, str] | None = None) -> Path:
    """A project with a board's port and our library, and some files for ``src/``, but no model."""
    project = directory / name
    for path, content in boards.load(name).project_files().items():
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text(content)
    library = project / "lib" / "tlc"
    library.mkdir(parents=True)
    shutil.copy(resources.firmware_dir() / "library.json", library)
    for part in ("include", "ports", "src"):
        shutil.copytree(resources.firmware_dir() / part, library / part)
    (project / "src").mkdir()
    for source in sources:
        shutil.copy(source, project / "src")
    for path, content in (text or {}).items():
        (project / "src" / path).write_text(content)
    return project


@dataclass(frozen=True)
class Built:
    """A model's project and its firmware for one board."""

    board: Board
    directory: Path
    bundle: Bundle
    elf: Path

    @property
    def hash(self) -> bytes:
        """What the device greets with."""
        return bytes.fromhex(self.bundle.hash)

    def inputs(self, count: int, seed: int = 0) -> NDArray[np.int8]:
        """Random integers of the (one) input's whole range, (count, ...)."""
        shape = (count, *self.bundle.inputs[0].shape[1:])
        return np.random.default_rng(seed).integers(-128, 128, shape, np.int8)


def build(
    graph: Graph,
    name: str,
    directory: Path,
    *,
    cut: str,
    train: str = "none",
    learning: Learning | None = None,
    arithmetic: Literal["auto", "float", "int"] = "auto",
) -> Built:
    """Compiles a float graph for a board, calibrated on random inputs, and builds its firmware."""
    directory.mkdir()
    model, calibration, out = directory / "model.onnx", directory / "x.npy", directory / "project"
    onnx.save(write_onnx(graph), model)
    (input_name,) = graph.inputs
    np.save(
        calibration, np.random.default_rng(1).standard_normal((64, *graph[input_name].shape[1:])).astype(np.float32)
    )
    compile_model(
        Options(
            model,
            name,
            out,
            cut=cut,
            calib=calibration,
            train=train,
            learning=learning or Learning(),
            train_arithmetic=arithmetic,
        )
    )
    board = boards.load(name)
    if name == "native":
        elf = hostbuild.build_native(out)
    else:
        toolchain.pio_run(out)
        elf = toolchain.firmware_elf(out, board)
    return Built(board, out, bundles.load(out), elf)


@asynccontextmanager
async def running(built: Built, *, seed: int = 1) -> AsyncIterator[tuple[Session, Callable[[], None]]]:
    """A greeted session with a freshly started board, and a function that resets the board."""
    process = toolchain.start(built.board, built.elf, seed=seed)

    def reset() -> None:
        nonlocal process
        if built.board.id == "native":  # no button: another process takes its place
            process.stop()
            process = toolchain.start(built.board, built.elf, port=process.port, seed=seed + 1)
        else:
            process.reset()

    try:
        address = process.address
        session = await Session.connect(address, built.hash, name=built.board.id, timeout_s=30.0)
        try:
            yield session, reset
        finally:
            await session.close()
    finally:
        process.stop()
