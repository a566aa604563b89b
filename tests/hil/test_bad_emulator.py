# SPDX-License-Identifier: Apache-2.0
"""Emulators that are too old, or die: each is one clear line. The emulator is a script that plays one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tlc import boards, toolchain
from tlc.errors import ToolchainError

ARM_ELF = b"\x7fELF\x01\x01\x01".ljust(16, b"\0") + b"\x02\0" + b"\x28\0"

OLD = """
import re, socket, sys
fd = int(re.search(r"id=monitor,fd=(\\d+)", " ".join(sys.argv))[1])
monitor = socket.socket(fileno=fd)
monitor.sendall(b'{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 5}}, "capabilities": []}}\\n')
monitor.recv(1)
"""
DYING = """
import sys
print("qemu-system-arm: unsupported machine type", file=sys.stderr)
sys.exit(1)
"""
NO_QEMU = """
import re, socket, sys
monitor = socket.socket(fileno=int(re.search(r"id=monitor,fd=(\\d+)", " ".join(sys.argv))[1]))
monitor.sendall(b"hello\\n")
print("this is no emulator")
"""


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (OLD, r"board 'qemu-m4': the emulator is QEMU 5\.2, and 7\.0 is the oldest that will do; Debian 12"),
        (DYING, r"the emulator ended with code 1: qemu-system-arm: unsupported machine type; check that the image"),
        (NO_QEMU, r"the emulator ended with code .*; check that the image"),
    ],
    ids=["too old", "dying", "something else"],
)
def test_one_line(script: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "qemu-system-arm"
    program.write_text(f"#!{sys.executable}\n{script}")
    program.chmod(0o755)
    image = tmp_path / "firmware.elf"
    image.write_bytes(ARM_ELF)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError, match=says) as caught:
        toolchain.start(boards.load("qemu-m4"), image)
    assert "\n" not in str(caught.value)
