# SPDX-License-Identifier: Apache-2.0
"""By which algorithm to train, and how much: options of every command that trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tlc.commands.common import Command


def training_options(command: Command) -> Command:
    """By which algorithm to train, and how much."""
    for option in reversed(
        [
            click.option("--algorithm", metavar="NAME", help="How devices and host learn together.  [default: vsl]"),
            click.option(
                "--rounds", type=click.IntRange(1), help="Rounds; in each, every device has its turn.  [default: 1]"
            ),
            click.option("--batches", type=click.IntRange(1), help="Optimizer steps in a turn.  [default: 100]"),
            click.option("--batch", type=click.IntRange(1), help="Samples in a step.  [default: 16]"),
            click.option("--lr", type=float, help="Learning rate of both halves.  [default: 0.05]"),
            click.option("--seed", type=int, help="Of the draws and the device's rounding.  [default: 0]"),
            click.option(
                "--set",
                "settings",
                multiple=True,
                metavar="KEY=VALUE",
                help="Any key of `tlc config --explain`. May be repeated.",
            ),
            click.option(
                "--config",
                type=click.Path(path_type=Path),
                metavar="FILE",
                help="Settings; options of the command line go before.  [default: ./tlc.toml, if there is one]",
            ),
            click.option(
                "--deal",
                type=click.Choice(["turns", "iid", "dirichlet"]),
                default="turns",
                show_default=True,
                help="Who gets which samples of the file: each device the next one, random parts, or by class unevenly.",
            ),
            click.option(
                "--curves",
                type=click.Path(path_type=Path),
                metavar="FILE",
                help="Draw loss and accuracy: .svg, or .png.",
            ),
        ]
    ):
        command = option(command)
    return command


def training_plan(given: dict[str, Any]) -> Any:
    """Settings from a file, overridden by ``--set``, overridden by options."""
    from tlc_host import config

    path = given.pop("config")
    if path is None and Path(config.CONFIG_FILE).exists():
        path = Path(config.CONFIG_FILE)
    values = config.read(path) if path else {}
    places = dict.fromkeys(values, str(path))
    for text in given.pop("settings"):
        key, value = config.parse_value(text)
        values[key], places[key] = value, "--set"
    for key, value in given.items():
        if value is not None:
            values[key], places[key] = value, f"--{key}"
    return config.plan(values, places)
