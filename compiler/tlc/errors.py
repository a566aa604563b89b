# SPDX-License-Identifier: Apache-2.0
"""Every error that tlc raises on purpose.

::

    TlcError                    exit code 1: the job failed
    ├── UsageError              exit code 2: the command line asks for something that does not exist
    │   ├── BoardError          an unknown board, or a board file that breaks a rule
    │   └── ConfigError         a setting or an option that breaks a rule
    ├── ModelError              the model file cannot be read, or breaks a rule
    │   └── UnsupportedOperator an operator that would run on the device and cannot
    ├── DataError               an array file (calibration, input, labels) that does not fit
    ├── FitError                no cut of the model fits the board, or the ELF exceeds the promise
    ├── ToolchainError          a compiler, emulator or PlatformIO is missing or failed
    ├── OutputError             the output cannot be written
    ├── BundleError             bundle.json is missing, damaged, or of another version
    │   └── BundleMismatch      host and device hold different bundles
    └── LinkError               the link to a device cannot be opened, or broke
        ├── DeviceTimeout       the device does not answer
        ├── DeviceReset         the device restarted: greet it again
        │   └── DeviceFault     it crashed, and said where
        ├── DeviceError         the device answered with a status other than OK
        └── ProtocolError       the peer breaks the protocol or speaks another version

A message is one line made of four parts: *where* (node, tensor, file:line, board), *which rule*, *which value broke
it*, and *what to do*. A traceback is shown only with ``--debug``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BoardError",
    "BundleError",
    "BundleMismatch",
    "ConfigError",
    "DataError",
    "DeviceError",
    "DeviceFault",
    "DeviceReset",
    "DeviceTimeout",
    "FitError",
    "LinkError",
    "ModelError",
    "OutputError",
    "ProtocolError",
    "TlcError",
    "ToolchainError",
    "UnsupportedOperator",
    "UsageError",
    "nearest",
]


class TlcError(Exception):
    """A job that failed, with a message for the person who started it.

    Args:
        rule: what must hold, and the value that broke it.
        where: node, tensor, ``file:line``, board or device; empty when the message has only one possible place.
        remedy: what to do about it.
    """

    exit_code = 1

    def __init__(self, rule: str, *, where: str = "", remedy: str = "") -> None:
        self.rule = rule
        self.where = where
        self.remedy = remedy
        text = f"{where}: {rule}" if where else rule
        if remedy:
            text = f"{text}; {remedy}"
        super().__init__(" ".join(text.split()))


class UsageError(TlcError):
    """The command line asks for something that does not exist."""

    exit_code = 2


class BoardError(UsageError):
    """An unknown board, or a board file that breaks a rule."""


class ConfigError(UsageError):
    """A setting or an option that breaks a rule."""


class ModelError(TlcError):
    """The model file cannot be read, or breaks a rule."""


class UnsupportedOperator(ModelError):
    """An operator that would run on the device and cannot."""


class DataError(TlcError):
    """An array file that does not fit the model."""


class FitError(TlcError):
    """Something does not fit the board."""


class ToolchainError(TlcError):
    """A compiler, an emulator or PlatformIO is missing, or failed."""


class OutputError(TlcError):
    """The output cannot be written."""


class BundleError(TlcError):
    """``bundle.json`` is missing, damaged, or of another version."""


class BundleMismatch(BundleError):
    """Host and device hold different bundles."""


class LinkError(TlcError):
    """The link to a device cannot be opened, or broke."""


class DeviceTimeout(LinkError):
    """The device does not answer."""


class DeviceReset(LinkError):
    """The device restarted; greet it again."""


class DeviceFault(DeviceReset):
    """The device crashed."""

    dump: str = ""
    """Its last words, for ``tlc symbolize``."""


class DeviceError(LinkError):
    """The device answered with a status other than OK."""

    status: int = 0
    """The ``tlc_status_t`` that it gave; 0: none."""


class ProtocolError(LinkError):
    """The peer breaks the protocol, or speaks another version."""


def nearest(wanted: str, known: Iterable[str], count: int = 3) -> str:
    """The known names nearest to a wanted one, for a remedy: ``"did you mean conv1, conv2?"``."""
    names = sorted(set(known))
    close = difflib.get_close_matches(wanted, names, n=count, cutoff=0.5)
    if close:
        return f"did you mean {', '.join(close)}?"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"known: {shown}" if names else "none is known"
