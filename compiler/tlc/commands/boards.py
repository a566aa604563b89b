# SPDX-License-Identifier: Apache-2.0
"""``tlc boards``."""

from __future__ import annotations

import json

import click

from tlc.commands.common import common
from tlc.report import tables


@click.command("boards")
@common
def boards_command(as_json: bool) -> None:
    """List the boards."""
    from tlc import boards

    loaded = [boards.load(name) for name in boards.names()]
    if as_json:
        click.echo(json.dumps([board.model_dump(mode="json") for board in loaded]))
        return
    tables.show_boards(loaded)
