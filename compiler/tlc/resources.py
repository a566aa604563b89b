# SPDX-License-Identifier: Apache-2.0
"""Where the files are that tlc copies into projects: packaged with the wheel, or in a checkout."""

from __future__ import annotations

from pathlib import Path

from tlc.errors import ToolchainError

__all__ = ["boards_dir", "firmware_dir", "platform_dir"]

_PACKAGE = Path(__file__).resolve().parent


def _find(name: str) -> Path:
    for place in (_PACKAGE / "_data" / name, _PACKAGE.parents[1] / name):
        if place.is_dir():
            return place
    raise ToolchainError(f"this installation of tlc has no {name} files", remedy="install tlc again")


def firmware_dir() -> Path:
    """The firmware library: ``library.json``, ``include``, ``src``, ``ports``."""
    return _find("firmware")


def boards_dir() -> Path:
    """The board files, ``<id>.toml``, and ``platform``."""
    return _find("boards")


def platform_dir() -> Path:
    """The PlatformIO platform for emulated boards."""
    return boards_dir() / "platform"
