# SPDX-License-Identifier: Apache-2.0
"""``tlc runs``: what trainings have been kept."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from tlc.commands.common import common, examples
from tlc.commands.options import directory_argument
from tlc.report import tables

number_argument = click.argument("number", metavar="[RUN]", type=int, required=False)


class RunsGroup(click.Group):
    """``tlc runs DIR`` is ``tlc runs list DIR``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts ``list`` before a first word that is no command."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(
    "runs",
    cls=RunsGroup,
    short_help="List, show and export what tlc serve has trained.",
    epilog=examples(
        "tlc runs digits", "tlc runs show digits", "tlc runs export digits 3 --format tensorboard --out logs/3"
    ),
)
def runs() -> None:
    """List, show and export what `tlc serve` has trained: rounds, metrics, devices and events.

    `tlc runs DIR` lists them. DIR is a project; the store is DIR/runs. It can be read while a daemon writes.
    """


@runs.command("list", short_help="List the runs.", epilog=examples("tlc runs digits", "tlc runs list digits --json"))
@directory_argument
@common
def list_command(directory: Path, as_json: bool) -> None:
    """List the runs of a project, newest first."""
    from tlc_host.store import Store

    with Store(directory) as store:
        found = store.runs()
    if as_json:
        click.echo(json.dumps([asdict(run) for run in found]))
        return
    rows = [[str(r.id), clock(r.started), r.status, r.algorithm, str(r.rounds), r.bundle[:16]] for r in found]
    tables.table(f"runs of {directory}", ["run", "began", "status", "algorithm", "rounds", "bundle"], rows)


@runs.command(
    "show", short_help="Show a run.", epilog=examples("tlc runs show digits", "tlc runs show digits 3 --json")
)
@directory_argument
@number_argument
@common
def show_command(directory: Path, number: int | None, as_json: bool) -> None:
    """Show a run, by default the newest: its settings, rounds, devices and events."""
    from tlc_host.store import Store

    with Store(directory) as store:
        run = store.run(number)
        rounds, devices, events = store.rounds(run.id), store.devices(run.id), store.events(run.id)
    if as_json:
        shown = asdict(run) | {"rounds": rounds, "devices": devices, "events": events}
        click.echo(json.dumps(shown))
        return
    settings = ", ".join(f"{key} = {value}" for key, value in run.settings.items())
    click.echo(f"run {run.id}: {run.algorithm}, {run.status}, began {clock(run.started)}\n{settings}")
    columns = list(dict.fromkeys(name for row in rounds for name in row if name != "time"))
    tables.table("rounds", columns, [[cell(row.get(name)) for name in columns] for row in rounds])
    tables.table(
        "devices", ["device", "board", "last seen"], [[d["name"], d["board"], clock(d["last"])] for d in devices]
    )
    if events:
        rows = [[clock(e["time"]), str(e["round"]), e["kind"], e["text"]] for e in events]
        tables.table("events", ["time", "round", "", ""], rows)


@runs.command(
    "export",
    short_help="Write a run's rounds as CSV or for TensorBoard.",
    epilog=examples(
        "tlc runs export digits --out rounds.csv", "tlc runs export digits 3 --format tensorboard --out logs/3"
    ),
)
@directory_argument
@number_argument
@click.option(
    "--format",
    "kind",
    type=click.Choice(["csv", "tensorboard"]),
    default="csv",
    show_default=True,
    help="One line a round, or a directory of event files.",
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), metavar="PATH", help="The file, or the directory."
)
@common
def export_command(directory: Path, number: int | None, kind: str, out: Path, as_json: bool) -> None:
    """Write a run's rounds, by default the newest one's."""
    from tlc_host.export import write_csv, write_tensorboard
    from tlc_host.store import Store

    with Store(directory) as store:
        run = store.run(number)
        rounds = store.rounds(run.id)
    write = write_csv if kind == "csv" else write_tensorboard
    write(out, rounds)
    told: Mapping[str, Any] = {"run": run.id, "rounds": len(rounds), "out": str(out)}
    click.echo(json.dumps(told) if as_json else f"run {run.id}, {len(rounds)} rounds: {out}")


def clock(seconds: float) -> str:
    """A local date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def cell(value: Any) -> str:
    """A number in a table."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}"
