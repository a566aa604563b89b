# SPDX-License-Identifier: Apache-2.0
"""Packages that the base installation goes without."""

from __future__ import annotations

import importlib.util

from tlc.errors import ToolchainError

__all__ = ["EXTRAS", "require"]

EXTRAS = {"cobs": "host", "serial": "host", "zeroconf": "host", "tensorflow": "train"}
"""Module → the extra of ours that brings it."""


def require(module: str) -> None:
    """Says what to install where a module is missing, before any work is begun.

    Args:
        module: a key of ``EXTRAS``.

    Raises:
        ToolchainError: it is not installed.
    """
    if importlib.util.find_spec(module) is None:
        raise ToolchainError(f"{module} is not installed", remedy=f'pip install "tlc[{EXTRAS[module]}]"')
