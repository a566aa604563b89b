# SPDX-License-Identifier: Apache-2.0
"""``tlc size``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tlc.commands.common import common, examples
from tlc.commands.options import directory_argument
from tlc.report import tables


@click.command(
    "size",
    short_help="Hold a built firmware to the memory its bundle promised.",
    epilog=examples("pio run -d digits && tlc size digits"),
)
@directory_argument
@common
def size_command(directory: Path, as_json: bool) -> None:
    """Hold the firmware built in DIR to the memory that its bundle promised.

    Weights, tables, arena, link and our own stack are proven at compile time; code and the board's SDK are budgets. Exit
    code 1 where the firmware takes more.
    """
    from tlc.size import measure, require

    report = measure(directory)
    if as_json:
        click.echo(json.dumps(report.to_json()))
    else:
        tables.show_size(report)
    require(report)
