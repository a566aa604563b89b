# SPDX-License-Identifier: Apache-2.0
"""Generated projects for Arduino boards, as programs of this machine: they infer and learn as the twin does, over the
serial line and over TCP, and what they learned outlives a reset: in ESP32's own partition, ESP8266's file system's area,
the last sectors of the others."""

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
from test_arduino_port import free_port, secrets

from command_line import succeeds
from tlc import boards
from tlc import bundle as bundles
from tlc.bundle import Bundle
from tlc_host import messages as m
from tlc_host import weights
from tlc_host.devices import open_device
from tlc_host.session import Session

pytestmark = pytest.mark.slow


BOARDS = ["esp32", "esp32-c3", "esp32-s3", "esp8266", "nano33ble", "nucleo-f446re", "pico", "stm32f746-disco"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the objects are that several boards share."""
    return tmp_path_factory.mktemp("arduino")


def compiled(models: Path, out: Path, name: str, transport: str) -> Path:
    """A project in which something learns."""
    project = out / f"{name}-{transport}"
    succeeds(
        "compile", models / "small.onnx", "--board", name, "--calib", models / "x.npz",
        "--cut", "conv2d_1_out", "--transport", transport, "--train", "last", "--out", project,
    )  # fmt: skip
    return project


@pytest.fixture(scope="module", params=BOARDS)
def board(request: pytest.FixtureRequest, models: Path, out: Path) -> tuple[str, Path, Path]:
    """A board's id, a project for it in which something learns, and its firmware as a program of this machine."""
    project = compiled(models, out, request.param, "uart")
    return request.param, project, arduino_host.build(project, out=out)


@pytest.fixture(scope="module")
def twins() -> dict[str, list[bytes]]:
    """What :func:`train` saw of a twin, for each arithmetic."""
    return {}


async def train(device: Session) -> list[bytes]:
    """Three steps: what the device computed in each, and what it has learned then."""
    rng = np.random.default_rng(7)
    seen = []
    for step in (1, 2, 3):
        reply = await device.forward(rng.integers(-128, 128, (1, 8, 8, 1)).astype(np.int8))
        await device.backward(reply, rng.integers(-127, 128, reply.outputs[0].size, np.int8), scale=1e-3)
        await device.step(step, 0.05)
        seen.append(reply.outputs[0].tobytes())
    return [*seen, await device.get_params()]


async def train_twin(project: Path) -> list[bytes]:
    async with open_device(project, "twin") as device:
        return await train(device)


def of_twin(twins: dict[str, list[bytes]], project: Path) -> list[bytes]:
    """What a twin of the project sees; projects that differ in their boards alone share one."""
    learning = bundles.load(project).learning
    assert learning is not None
    if learning.arithmetic not in twins:
        twins[learning.arithmetic] = asyncio.run(train_twin(project))
    return twins[learning.arithmetic]


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
        target = f"serial://{line}"
        async with await Session.connect(target, bytes.fromhex(bundle.hash), timeout_s=20, baud=921600) as device:
            return await work(device)
    finally:
        process.kill()
        process.wait()


def test_learns_as_the_twin_does(board: tuple[str, Path, Path], twins: dict[str, list[bytes]], tmp_path: Path) -> None:
    name, project, program = board
    bundle = bundles.load(project)
    assert bundle.learning is not None
    assert bundle.learning.arithmetic == ("float" if "fpu" in boards.load(name).cpu.features else "int")
    assert asyncio.run(run(program, bundle, tmp_path, None, train)) == of_twin(twins, project)


@pytest.mark.parametrize("name", ["esp32-c3", "esp8266"])
def test_learns_as_the_twin_does_over_tcp(
    models: Path, out: Path, twins: dict[str, list[bytes]], tmp_path: Path, name: str
) -> None:
    project, port = compiled(models, out, name, "wifi"), free_port()
    program = arduino_host.build(project, out=out, include=secrets(tmp_path, port))

    async def serve() -> list[bytes]:
        target = f"listen://127.0.0.1:{port}"
        async with await Session.connect(target, bytes.fromhex(bundles.load(project).hash), timeout_s=20) as device:
            return await train(device)

    settings = {"TLC_SHIM_PASSWORD": "sesame", "TLC_SHIM_SPEED": "5"}
    with (tmp_path / "console").open("wb") as console:
        process = subprocess.Popen([program], env={**os.environ, **settings}, stdout=console, stdin=subprocess.DEVNULL)
    try:
        assert asyncio.run(serve()) == of_twin(twins, project)
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
            await device.backward(reply, rng.integers(-127, 128, reply.outputs[0].size, np.int8), scale=1e-3)
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
    if name.startswith("esp32"):  # a board whose partition table has no such partition

        async def keeps_nothing(device: Session) -> bool:
            return not device.hello.capabilities & m.Capability.SAVE

        assert asyncio.run(run(program, bundle, tmp_path, None, keeps_nothing))


def test_the_project_makes_room_for_it(board: tuple[str, Path, Path]) -> None:
    name, project, _ = board
    settings = arduino_host.settings(project)
    promise = bundles.load(project).certificate
    memory = boards.load(name).memory
    if name.startswith("esp32"):
        assert settings["board_build.partitions"] == "tlc_partitions.csv"
        rows = [line.replace(" ", "").split(",") for line in (project / "tlc_partitions.csv").read_text().splitlines()]
        table = {row[0]: (int(row[3], 16), int(row[4], 16)) for row in rows if len(row) == 5 and row[0][0] != "#"}
        assert table["tlc"][1] == promise.journal_bytes
        assert table["app0"][1] == table["app1"][1] == memory.flash_bytes
        end = 0x9000
        for offset, size in table.values():  # they follow each other, without a gap, to the end of 4 or 8 MB
            assert offset == end and size > 0 and size % 4096 == 0
            end = offset + size
        assert end == (8 if name == "esp32-s3" else 4) << 20
    elif memory.journal_apart:
        assert "board_upload.maximum_size" not in settings
        ours = promise.arena_bytes + promise.state_bytes + promise.values_bytes + promise.link_bytes
        constants = promise.packed_bytes + promise.table_bytes
        assert promise.ram_bytes == ours + constants + promise.stack_bytes + promise.sdk_ram_budget
    else:
        assert int(settings["board_upload.maximum_size"]) == memory.flash_bytes - promise.journal_bytes
        assert promise.journal_bytes >= 2 * memory.journal_sector_bytes
        assert promise.flash_bytes > promise.journal_bytes
