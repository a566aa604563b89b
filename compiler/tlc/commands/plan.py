# SPDX-License-Identifier: Apache-2.0
"""``tlc plan``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from tlc.commands.common import common, examples
from tlc.commands.options import model_options
from tlc.report import tables


@click.command(
    "plan",
    short_help="List where a model can be cut, and what each cut costs.",
    epilog=examples("tlc plan model.onnx --board esp32 --transport wifi", "tlc plan model.onnx --board qemu-m0 --json"),
)
@model_options
@common
def plan_command(
    model: Path,
    board: str,
    pack: Any,
    train: str,
    patches: str,
    ram: int | None,
    transport: str | None,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    as_json: bool,
) -> None:
    """List every legal cut of MODEL on a board.

    For each: multiply-accumulates and instructions of the device's part, flash, RAM, bytes on the link per inference, and
    the time of both. * marks the Pareto-optimal ones, (+n) how many bytes too many. Instructions and time are estimates
    from the board file; `tlc bench` counts.
    """
    from tlc.pipeline import Options, plan_model

    options = Options(
        model, board, Path(), pack=pack, train=train, transport=transport, shapes=dict(shapes), patches=patches, ram=ram
    )
    rows = plan_model(options)
    if as_json:
        click.echo(json.dumps([row.to_json() for row in rows]))
    else:
        tables.show_plan(rows)
