# SPDX-License-Identifier: Apache-2.0
"""``--capture``."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import click

from tlc.commands.common import Command
from tlc.extras import require


def capture_option(command: Command) -> Command:
    """``--capture FILE``, of the commands that speak to devices."""

    @click.option(
        "--capture",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Write what passes over the link for Wireshark (pcapng; firmware/wireshark/tlc.lua reads it).",
    )
    @functools.wraps(command)
    def captured(*args: Any, capture: Path | None, **kwargs: Any) -> Any:
        if capture is None:
            return command(*args, **kwargs)
        require("cobs")
        from tlc_host.capture import capturing

        with capturing(capture):
            return command(*args, **kwargs)

    return captured
