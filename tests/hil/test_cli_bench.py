# SPDX-License-Identifier: Apache-2.0
"""The command line's contract with scripts: bench and size, run on an emulator; and a machine without the tools."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import refused, succeeds
from tlc import bundle as bundles
from tlc import toolchain

pytestmark = pytest.mark.hil

BENCH_KEYS = {
    "instructions_per_inference", "instructions_per_mac", "arena_bytes", "stack_bytes", "ram_bytes", "flash_bytes",
    "code_bytes", "weight_bytes",
}  # fmt: skip


@pytest.fixture(scope="module")
def built(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, with its firmware."""
    copy = tmp_path_factory.mktemp("built") / "project"
    shutil.copytree(project, copy)
    toolchain.pio_run(copy)
    return copy


@pytest.fixture(scope="module")
def counted(built: Path) -> Any:
    """What ``tlc bench --json`` says of it."""
    done = succeeds("bench", built, "--json")
    assert done.err == ""
    return done.json


def test_bench_json(built: Path, counted: Any) -> None:
    answer = counted
    assert answer.keys() >= BENCH_KEYS and "layers" not in answer
    bundle = bundles.load(built)
    promise = bundle.certificate
    instructions = answer["instructions_per_inference"]
    assert bundle.macs < instructions < 100 * bundle.macs
    assert answer["instructions_per_mac"] == pytest.approx(instructions / bundle.macs, abs=1e-3)
    assert answer["arena_bytes"] == promise.arena_bytes
    assert 0 < answer["stack_bytes"] <= promise.stack_bytes
    assert promise.arena_bytes < answer["ram_bytes"] <= promise.ram_bytes
    assert answer["code_bytes"] + answer["weight_bytes"] <= answer["flash_bytes"] <= promise.flash_bytes
    assert promise.packed_bytes <= answer["weight_bytes"] <= promise.packed_bytes + promise.table_bytes
    assert answer["training"].keys() == {"forward", "backward", "update"}  # the last layer of this one learns


def test_bench_counts_the_same_again(built: Path, counted: Any) -> None:
    """To the instruction; and layer by layer."""
    again = succeeds("bench", built, "--layers", "--json").json
    layers = again.pop("layers")
    assert again == counted
    assert [layer["name"] for layer in layers] == list(bundles.load(built).layers)
    inside = sum(layer["instructions"] for layer in layers)
    assert 0.9 * counted["instructions_per_inference"] < inside <= counted["instructions_per_inference"]


def test_bench_draws_tables(built: Path) -> None:
    done = succeeds("bench", built, "--layers")
    assert "instructions per inference" in done.out and "share" in done.out and done.err == ""


def test_size_json(built: Path) -> None:
    answer = succeeds("size", built, "--json").json
    assert answer["fits"] is True and answer["board"] == "qemu-m4"
    assert answer.keys() >= {"flash_bytes", "ram_bytes", "code_bytes", "weight_bytes", "stack_bytes", "rows"}


@pytest.mark.parametrize("raw", [False, True])
def test_twin_and_emulator_are_equal(built: Path, models: Path, tmp_path: Path, raw: bool) -> None:
    x = np.load(models / "x.npy")[:5]
    np.save(tmp_path / "x.npy", bundles.load(built).inputs[0].quant.quantize(x) if raw else x)
    answers: dict[str, Any] = {}
    for device in ("twin", "emulator"):
        target = tmp_path / f"{device}.npy"
        options = ("--input", tmp_path / "x.npy", "--output", target, "--device", device, *(["--raw"] if raw else []))
        answers[device] = succeeds("run", built, *options, "--json").json
    assert np.array_equal(np.load(tmp_path / "twin.npy"), np.load(tmp_path / "emulator.npy"))
    assert answers["emulator"]["samples"] == 5 and answers["emulator"]["ticks"] > bundles.load(built).macs


# ---- a machine, or a board, that cannot ----


@pytest.fixture
def bare(project: Path, tmp_path: Path) -> Path:
    """A project that was never built."""
    shutil.copytree(project, tmp_path / "project")
    return tmp_path / "project"


def tools(tmp_path_factory: pytest.TempPathFactory, *names: str) -> str:
    """A PATH with a shell and some programs, and nothing else."""
    place = tmp_path_factory.mktemp("bin")
    for name in ("sh", "env", "setpriv", *names):
        found = shutil.which(name)
        if found:
            (place / name).symlink_to(found)
    return str(place)


def test_no_cross_compiler(
    bare: Path, models: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", tools(tmp_path_factory))
    says = (
        "pio run -d",
        "arm-none-eabi-gcc is not installed",
        "apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi",
    )
    keep = tmp_path_factory.mktemp("keep")  # PlatformIO itself leaves .pio in the project
    refused(keep, 1, "bench", bare, says=says)
    options = ("--input", models / "x.npy", "--output", keep / "y.npy", "--device", "emulator")
    refused(keep, 1, "run", bare, *options, says=says)
    command = [sys.executable, "-m", "platformio", "run", "-d", str(bare)]
    environment = toolchain.platformio_environment()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode != 0
    assert "Error: arm-none-eabi-gcc is not installed; apt-get install gcc-arm-none-eabi" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_no_emulator(
    built: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cross = [path.name for path in Path(shutil.which("arm-none-eabi-gcc") or "").parent.glob("arm-none-eabi-*")]
    monkeypatch.setenv("PATH", tools(tmp_path_factory, *cross))
    refused(tmp_path, 1, "bench", built, says=("qemu-system-arm is not installed", "apt-get install qemu-system-arm"))


def test_no_platformio(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "platformio", None)
    refused(tmp_path, 1, "bench", bare, says=("PlatformIO is not installed", "pip install platformio"))


def test_no_place_for_platformio(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLATFORMIO_CORE_DIR", "/dev/null/core")
    refused(tmp_path, 1, "bench", bare, says=("/dev/null/core", "cannot be written", "PLATFORMIO_CORE_DIR"))


def test_not_built(bare: Path, tmp_path: Path) -> None:
    refused(tmp_path, 1, "size", bare, says=("no image", "firmware.elf", f"pio run -d {bare}"))


def test_a_board_that_nothing_counts_for(models: Path, tmp_path: Path) -> None:
    for board in ("esp32", "native"):
        succeeds("compile", models / "small.tflite", "--board", board, "--cut", "none", "--out", tmp_path / board)
        refused(tmp_path, 2, "bench", tmp_path / board, says=(f"board '{board}'", "counts", "--board qemu-m4"))
    options = ("--input", models / "x.npy", "--output", tmp_path / "y.npy", "--device", "emulator")
    says = ("board 'esp32'", "no emulator is known", "boards with one: native, qemu-")
    refused(tmp_path, 2, "run", tmp_path / "esp32", *options, says=says)


def test_source_that_does_not_compile(bare: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The user's own mistake: the compiler's first error, where it is."""
    (bare / "src" / "app.c").write_text("#include <tlc_model.h>\nint main(void) { return nonsense; }\n")
    refused(
        tmp_path_factory.mktemp("keep"), 1, "bench", bare, says=("pio run -d", "src/app.c:2", "error", "nonsense")
    )  # fmt: skip


def test_image_of_another_bundle(built: Path, models: Path, tmp_path: Path) -> None:
    """Compiled again, not built again."""
    shutil.copytree(built, tmp_path / "p")
    path = tmp_path / "p" / "bundle.json"
    other = bundles.Bundle.model_validate({**json.loads(path.read_text()), "seed": 99}).sealed()
    path.write_text(other.to_json())
    refused(tmp_path, 1, "size", tmp_path / "p", says=(bundles.load(built).hash[:16], other.hash[:16], "pio run -d"))
