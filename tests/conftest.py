# SPDX-License-Identifier: Apache-2.0
"""Files that many tests read, made once."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--board", action="append", help="hardware in the loop: only this board; may be repeated")
    parser.addoption("--emulator", choices=["qemu", "process", "renode"], help="... only boards of this emulator")
    parser.addoption("--machines", type=int, default=3, help="... boards in the scenario that has several")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of :func:`small_models.write_all`; nobody writes there."""
    from small_models import write_all

    directory = tmp_path_factory.mktemp("models")
    write_all(directory)
    return directory


@pytest.fixture(scope="session")
def project(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``small.onnx`` on qemu-m4, cut in two, its last device layer learning."""
    from command_line import succeeds

    out = tmp_path_factory.mktemp("projects") / "project"
    calib = models / "x.npz"
    succeeds("compile", models / "small.onnx", "--board", "qemu-m4", "--calib", calib, "--train", "last", "--out", out)
    return out
