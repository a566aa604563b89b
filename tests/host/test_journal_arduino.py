# SPDX-License-Identifier: Apache-2.0
"""Learned tensors outlive a reset on the Arduino port: ESP32's own partition, STM32F4's last two sectors, in a shim."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import arduino_host
import numpy as np
import pytest

from command_line import succeeds
from tlc import bundle as bundles
from tlc.bundle import Bundle
from tlc_host import messages as m
from tlc_host import weights
from tlc_host.session import Session

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["esp32", "nucleo-f446re"])
def board(
    request: pytest.FixtureRequest, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Path]:
    """A board's id, a project for it in which something learns, and its firmware as a program of this machine."""
    root = tmp_path_factory.mktemp(request.param)
    project = root / "project"
    succeeds(
        "compile", models / "small.onnx", "--board", request.param, "--calib", models / "x.npz",
        "--cut", "conv2d_1_out", "--transport", "uart", "--train", "last", "--out", project,
    )  # fmt: skip
    return request.param, project, arduino_host.build(project, out=root / "out")


async def run(
    program: Path, bundle: Bundle, place: Path, flash: Path | None, work: Callable[[Session], Awaitable[Any]]
) -> Any:
    """Starts the program, speaks with it over its serial line, and ends it."""
    line = place / "tty"
    line.unlink(missing_ok=True)
    settings = {"TLC_SHIM_SERIAL": str(line), **({"TLC_SHIM_FLASH": str(flash)} if flash else {})}
    with (place / "console").open("ab") as console:
        process = subprocess.Popen([program], env={**os.environ, **settings}, stdout=console, stdin=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 20
        while not line.exists():
            assert time.monotonic() < end and process.poll() is None, "no serial line"
            await asyncio.sleep(0.005)
        async with await Session.connect(
            f"serial://{line}", bytes.fromhex(bundle.hash), timeout_s=20, baud=921600
        ) as device:
            return await work(device)
    finally:
        process.kill()
        process.wait()


def test_what_is_saved_outlives_a_reset(board: tuple[str, Path, Path], tmp_path: Path) -> None:
    name, project, program = board
    bundle = bundles.load(project)
    flash = tmp_path / "flash.bin"

    async def learn(device: Session) -> bytes:
        assert device.hello.capabilities & m.Capability.SAVE
        assert (await weights.status(device))["journal"] == "empty"
        rng = np.random.default_rng(0)
        for step in (1, 2, 3):
            reply = await device.forward(rng.integers(-128, 128, (1, 8, 8, 1)).astype(np.int8))
            await device.backward(reply, rng.normal(0, 0.02, reply.outputs[0].size).astype(np.float32))
            assert (await device.step(step, 0.05, save=True)).flags & m.DoneFlag.SAVED
        return await device.get_params()

    async def look(device: Session) -> tuple[int, list[int], bytes]:
        return device.hello.last_step, (await weights.status(device))["erasures"], await device.get_params()

    async def forget(device: Session) -> None:
        await device.reset_state()

    kept = asyncio.run(run(program, bundle, tmp_path, flash, learn))
    assert kept != weights.initial_params(project)
    assert asyncio.run(run(program, bundle, tmp_path, flash, look)) == (3, [2, 1], kept)
    asyncio.run(run(program, bundle, tmp_path, flash, forget))
    assert asyncio.run(run(program, bundle, tmp_path, flash, look))[2] == weights.initial_params(project)
    if name == "esp32":  # a board whose partition table has no such partition

        async def keeps_nothing(device: Session) -> bool:
            return not device.hello.capabilities & m.Capability.SAVE

        assert asyncio.run(run(program, bundle, tmp_path, None, keeps_nothing))


def test_the_project_makes_room_for_it(board: tuple[str, Path, Path]) -> None:
    name, project, _ = board
    settings = arduino_host.settings(project)
    promise = bundles.load(project).certificate
    if name == "esp32":
        assert settings["board_build.partitions"] == "tlc_partitions.csv"
        rows = [line.replace(" ", "").split(",") for line in (project / "tlc_partitions.csv").read_text().splitlines()]
        table = {row[0]: (int(row[3], 16), int(row[4], 16)) for row in rows if len(row) == 5 and row[0][0] != "#"}
        assert table["tlc"][1] == promise.journal_bytes
        end = 0x9000
        for offset, size in table.values():  # they follow each other, without a gap, to the end of 4 MB
            assert offset == end and size > 0 and size % 4096 == 0
            end = offset + size
        assert end == 4 << 20
    else:
        assert int(settings["board_upload.maximum_size"]) == 512 * 1024 - promise.journal_bytes == 256 * 1024
        assert promise.flash_bytes > promise.journal_bytes
