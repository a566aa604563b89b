# SPDX-License-Identifier: Apache-2.0
"""The base installation goes without the extras, and says which one a command wants."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tlc.extras import EXTRAS

ROOT = Path(__file__).resolve().parents[2]
OPTIONAL = ["tensorflow", "cobs", "serial", "mlxtend", "sklearn", "hypothesis", "tflite_micro"]
HOST = 'pip install "tlc[host]"'
TRAIN = 'pip install "tlc[train]"'


def tlc_without(modules: list[str], *arguments: object) -> subprocess.CompletedProcess[str]:
    """A process in which some modules cannot be imported."""
    code = f"import sys; sys.modules.update(dict.fromkeys({modules!r})); from tlc.cli import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_compile_needs_no_extra(models: Path, tmp_path: Path) -> None:
    for model, options in (("small.onnx", ["--calib", models / "x.npz", "--train", "last"]), ("small.tflite", [])):
        out = tmp_path / model
        done = tlc_without(OPTIONAL, "compile", models / model, "--board", "qemu-m4", "--out", out, *options)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        assert (out / "bundle.json").exists()
    for command in (("plan", models / "small.onnx", "--board", "esp32"), ("boards",)):
        assert tlc_without(OPTIONAL, *command).returncode == 0


def test_the_twin_needs_no_extra(project: Path, models: Path, tmp_path: Path) -> None:
    target = tmp_path / "y.npy"
    done = tlc_without(OPTIONAL, "run", project, "--input", models / "x.npy", "--output", target)
    assert done.returncode == 0 and target.exists(), done.stderr


@pytest.mark.parametrize("device", ["native", "emulator", "tcp://127.0.0.1:1", "/dev/ttyUSB0"])
def test_run_needs_host(project: Path, models: Path, tmp_path: Path, device: str) -> None:
    options = ("--input", models / "x.npy", "--output", tmp_path / "y.npy", "--device", device)
    done = tlc_without(["cobs"], "run", project, *options)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"tlc: cobs is not installed; {HOST}\n")


@pytest.mark.parametrize("command", ["serve", "bench"])
def test_serve_and_bench_need_host(project: Path, command: str) -> None:
    done = tlc_without(["cobs"], command, project)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"tlc: cobs is not installed; {HOST}\n")


def test_a_serial_line_needs_host(project: Path, models: Path, tmp_path: Path) -> None:
    options = ("--input", models / "x.npy", "--output", tmp_path / "y.npy", "--device", "/dev/ttyUSB0")
    done = tlc_without(["serial"], "run", project, *options)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and HOST in done.stderr


def test_training_needs_train(project: Path, models: Path) -> None:
    """Said before any device is opened."""
    options = ("--train", models / "x.npz", "--once", "--device", "tcp://127.0.0.1:1")
    done = tlc_without(["tensorflow"], "serve", project, *options)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"tlc: tensorflow is not installed; {TRAIN}\n")


def test_extras_are_the_projects() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for module, extra in EXTRAS.items():
        packages = " ".join(settings["optional-dependencies"][extra]).replace("-", "_")
        assert module.replace("serial_asyncio", "pyserial_asyncio") in packages
        assert module not in " ".join(settings["dependencies"])
