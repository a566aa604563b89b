# SPDX-License-Identifier: Apache-2.0
"""``tlc fleet``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from tlc.commands.common import common, examples
from tlc.commands.options import cut_option, directory_argument
from tlc.commands.training import training_options, training_plan
from tlc.extras import require
from tlc.report import tables


@click.command(
    "fleet",
    short_help="Train many twins in one process, and measure.",
    epilog=examples(
        "tlc fleet digits --devices 1000 --algorithm epsl --set phi=1 --batches 1 --batch 4",
        "tlc fleet digits --devices 50 --algorithm edgesplit --data labelled.npz --deal dirichlet --rounds 10",
    ),
)
@directory_argument
@click.option("--devices", type=click.IntRange(1), default=100, show_default=True, help="Twins.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Labelled samples, dealt out.  [default: random ones, to measure only]",
)
@training_options
@cut_option
@common
def fleet_command(
    directory: Path,
    devices: int,
    data: Path | None,
    deal: Any,
    curves: Path | None,
    cut: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Train many twins of a project together, each through the real link code, and measure rounds per second.

    A first round, in which TensorFlow builds its functions, is not counted.
    """
    import asyncio

    require("cobs")
    from tlc_host.fleet import fleet
    from tlc_host.live import Progress, write_curves

    plan = training_plan(given)

    def say(text: str) -> None:
        click.echo(text, err=True)

    with Progress((plan.settings.rounds + 1) * plan.settings.batches, quiet=as_json) as shown:
        result = asyncio.run(fleet(directory, devices, plan, data=data, how=deal, cut=cut, say=say, on_event=shown))
    if curves:
        write_curves(
            curves, f"{plan.algorithm.title}, {devices} twins of {directory.name}", shown.batches, shown.rounds
        )
    if as_json:
        click.echo(json.dumps(result.to_json()))
    else:
        tables.show_fleet(result)
