# SPDX-License-Identifier: Apache-2.0
"""``tlc link``: what the line to a device carries."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tlc.commands.capture import capture_option
from tlc.commands.common import common, examples
from tlc.commands.options import device_option, directory_argument
from tlc.extras import require
from tlc.report import tables

if TYPE_CHECKING:
    from tlc_host.line import LineReport


@click.command(
    "link",
    short_help="Measure what the line to a device carries.",
    epilog=examples(
        "tlc link digits --device /dev/ttyUSB0",
        "tlc link digits --device emulator --seconds 3 --json",
        "tlc link digits --device listen://0.0.0.0:7777 --capture line.pcapng",
    ),
)
@directory_argument
@device_option
@click.option("--seconds", type=click.FloatRange(0.1, 86400), default=10.0, show_default=True, help="For how long.")
@click.option(
    "--size", type=click.IntRange(21, 1 << 20), default=1024, show_default=True, help="Bytes of a message each way."
)
@click.option(
    "--parallel", type=click.IntRange(1, 60), default=8, show_default=True, help="Messages under way at once."
)
@common
@capture_option
def link_command(directory: Path, device: str, seconds: float, size: int, parallel: int, as_json: bool) -> None:
    """Measure what the line to a device carries: bytes that mean nothing go both ways at once, as fast as they can.

    Shown live where stderr is a terminal: throughput, frames sent again, round-trip time, the deepest buffer. The
    model does not run, and what the device has learned stays.
    """
    import asyncio

    require("cobs")
    from tlc_host.line import measure_line

    with _live(as_json) as show:
        report = asyncio.run(
            measure_line(directory, device, seconds=seconds, size=size, parallel=parallel, on_report=show)
        )
    if as_json:
        click.echo(json.dumps(report.to_json()))
    else:
        tables.table(f"{report.device} ({report.board}), {report.seconds:.1f} s", ["", "down", "up"], _rows(report))


def _rows(report: LineReport) -> list[list[str]]:
    return [
        ["throughput, kB/s", f"{report.down_bytes_per_second / 1000:.1f}", f"{report.up_bytes_per_second / 1000:.1f}"],
        ["frames", f"{report.frames_down:,}", f"{report.frames_up:,}"],
        [
            "sent again",
            f"{report.resent_down:,} ({report.loss_down:.2%})",
            f"{report.resent_up:,} ({report.loss_up:.2%})",
        ],
        ["came damaged", f"{report.bad_down:,}", f"{report.bad_up:,}"],
        ["round trip of a frame, ms", f"{report.rtt_ms:.1f}", ""],
        ["asked and answered, ms", f"{report.trip_ms:.1f}", f"95%: {report.trip_95_ms:.1f}"],
        ["deepest buffer", f"{report.deepest_bytes:,} B", f"{report.deepest_messages} messages"],
        ["refused by the device", f"{report.refused:,}", ""],
    ]


@contextlib.contextmanager
def _live(silent: bool) -> Iterator[Callable[[LineReport], None] | None]:
    """A table on stderr that is kept up to date, where a person can see it."""
    if silent or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    with Live(console=Console(stderr=True), transient=True, auto_refresh=False) as live:

        def show(report: LineReport) -> None:
            table = Table("", "down", "up", title=f"{report.device}, {report.seconds:.0f} s")
            for row in _rows(report):
                table.add_row(*row)
            live.update(table, refresh=True)

        yield show
