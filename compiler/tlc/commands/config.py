# SPDX-License-Identifier: Apache-2.0
"""``tlc config``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tlc.commands.common import common, examples
from tlc.report import tables


@click.command(
    "config",
    short_help="Explain every setting of a training.",
    epilog=examples("tlc config --explain", "tlc config --explain --algorithm epsl"),
)
@click.option("--explain", is_flag=True, help="Every key of [train] in tlc.toml, with its default.")
@click.option("--algorithm", default="", metavar="NAME", help="Only the keys of this one.")
@click.option(
    "--config",
    "source",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Check this file, and show what it means.",
)
@common
def config_command(explain: bool, algorithm: str, source: Path | None, as_json: bool) -> None:
    """Explain the settings of a training, or check a tlc.toml."""
    from dataclasses import asdict

    from tlc_host import config

    if source is None and not explain:
        source = Path(config.CONFIG_FILE)
    if source is not None:
        values = config.read(source)
        plan = config.plan(values, dict.fromkeys(values, str(source)))
        shown = {"algorithm": plan.algorithm.name, **plan.settings.model_dump()}
        click.echo(json.dumps(shown) if as_json else "\n".join(f"{key} = {value!r}" for key, value in shown.items()))
        return
    keys = list(config.explain(algorithm))
    if as_json:
        click.echo(json.dumps([asdict(key) for key in keys]))
    else:
        tables.show_config(keys)
