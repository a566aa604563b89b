# SPDX-License-Identifier: Apache-2.0
"""``tlc monitor``: what a device says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from tlc.commands.capture import capture_option
from tlc.commands.common import common, examples
from tlc.commands.options import device_option, directory_argument
from tlc.extras import require

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


@click.command(
    "monitor",
    short_help="Show what a device says.",
    epilog=examples("tlc monitor digits --device /dev/ttyUSB0", "tlc monitor digits --device emulator --json"),
)
@directory_argument
@device_option
@click.option("--seconds", type=click.FloatRange(0.1), help="For how long.  [default: until Ctrl-C]")
@click.option(
    "--level", type=click.Choice(list(LEVELS)), default="debug", show_default=True, help="Of the least line shown."
)
@common
@capture_option
def monitor_command(directory: Path, device: str, seconds: float | None, level: str, as_json: bool) -> None:
    """Show a device's log lines as they come; with --json one JSON object a line.

    A device has one host at a time: who served it is told that another took it over.
    """
    import asyncio

    require("cobs")
    from tlc_host.line import monitor

    names = {number: name for name, number in LEVELS.items()}

    def on_line(at: float, of: int, text: str) -> None:
        name = names.get(of, str(of))
        if as_json:
            click.echo(json.dumps({"seconds": round(at, 3), "level": name, "text": text}))
        else:
            click.echo(f"{at:9.3f}  {name:7}  {text}")
        sys.stdout.flush()

    asyncio.run(monitor(directory, device, on_line=on_line, seconds=seconds, level=LEVELS[level]))
