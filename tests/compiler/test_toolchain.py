# SPDX-License-Identifier: Apache-2.0
"""PlatformIO's core directory is prepared once, whole, and what PlatformIO has put there stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tlc import emulator, toolchain
from tlc.errors import ToolchainError


def snapshot(directory: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()}


def test_find_tool() -> None:
    assert toolchain.find_tool("sh").is_file()
    with pytest.raises(ToolchainError, match="is not installed; apt-get install gcc-arm-none-eabi"):
        toolchain.find_tool("arm-none-eabi-does-not-exist")
    with pytest.raises(ToolchainError, match="put it on the PATH"):
        toolchain.find_tool("does-not-exist")


def test_prepare_is_idempotent(tmp_path: Path) -> None:
    assert toolchain.prepare_platformio(tmp_path) == tmp_path
    before = snapshot(tmp_path / "packages") | snapshot(tmp_path / "platforms")
    assert any(path.endswith("platforms/tlc/builder/tlc_emulator.py") for path in before)
    assert any(path.endswith("platforms/tlc/boards/qemu-m4.json") for path in before)
    assert any(path.endswith("packages/tool-scons/scons.py") for path in before)
    toolchain.prepare_platformio(tmp_path)
    assert snapshot(tmp_path / "packages") | snapshot(tmp_path / "platforms") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tlc.lock", "packages", "platforms"]


def test_a_changed_platform_is_renewed(tmp_path: Path) -> None:
    toolchain.prepare_platformio(tmp_path)
    stamp = tmp_path / "platforms" / "tlc" / ".tlc-digest"
    digest = stamp.read_text()
    stamp.write_text("of another version")
    toolchain.prepare_platformio(tmp_path)
    assert stamp.read_text() == digest


def test_platformios_own_scons_stays(tmp_path: Path) -> None:
    required = toolchain._required_scons()
    assert required is not None
    own = tmp_path / "packages" / "tool-scons"
    own.mkdir(parents=True)
    (own / ".piopm").write_text(json.dumps({"version": required[0]}))
    toolchain.prepare_platformio(tmp_path)
    assert [path.name for path in own.iterdir()] == [".piopm"]


def test_an_older_scons_is_left_beside_ours(tmp_path: Path) -> None:
    own = tmp_path / "packages" / "tool-scons"
    own.mkdir(parents=True)
    (own / ".piopm").write_text(json.dumps({"version": "4.40400.0"}))
    toolchain.prepare_platformio(tmp_path)
    assert [path.name for path in own.iterdir()] == [".piopm"]
    assert len(list((tmp_path / "packages").glob("tool-scons@*/scons.py"))) == 1


def test_unwritable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ToolchainError, match=r"cannot be written .*set PLATFORMIO_CORE_DIR"):
        toolchain.prepare_platformio(tmp_path / "file" / "core")


@pytest.mark.parametrize(
    ("text", "port"), [("", 0), ("0", 0), ("5000", 5000), ("127.0.0.1:5000", 5000), ("socket://127.0.0.1:5000", 5000)]
)
def test_upload_port(text: str, port: int) -> None:
    assert emulator.parse_port(text) == port


@pytest.mark.parametrize("text", ["/dev/ttyUSB0", "70000", "-1"])
def test_upload_port_that_is_none(text: str) -> None:
    with pytest.raises(ToolchainError, match="is a TCP port"):
        emulator.parse_port(text)


def test_a_state_file_of_a_recycled_process(tmp_path: Path) -> None:
    state = tmp_path / "tlc-emulator.json"
    state.write_text(json.dumps({"pid": 1, "host": "127.0.0.1", "port": 1, "elf": "x", "started": "0"}))
    assert emulator.read_state(state) is None
    assert not emulator.stop_state(state)  # process 1 is not ours
    assert not state.exists()
    state.write_text("{")
    assert emulator.read_state(state) is None
