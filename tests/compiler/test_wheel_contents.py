# SPDX-License-Identifier: Apache-2.0
"""The wheel carries what projects are made of, and only that."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_wheel_carries_firmware_boards_and_templates(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("tlc-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for source, target in (("firmware", "tlc/_data/firmware"), ("boards", "tlc/_data/boards"), ("compiler/tlc", "tlc")):
        tracked = subprocess.run(
            ["git", "ls-files", source], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        expected = {target + name.removeprefix(source) for name in tracked.splitlines() if (ROOT / name).is_file()}
        assert expected and expected <= names
    assert "tlc_host/__init__.py" in names
    assert not [name for name in names if name.endswith(".pyc") or name.startswith("tests/")]
