# SPDX-License-Identifier: Apache-2.0
"""``tlc link`` and ``tlc monitor``, and ``--capture`` for every command that speaks to devices."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlc.extras import require
from tlc.report import tables

if TYPE_CHECKING:
    from tlc_host.line import LineReport

__all__ = ["add_link"]

Command = Callable[..., Any]
CAPTURED = ("run", "serve", "train")
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def add_link(
    cli: click.Group, common: Callable[[Command], Command], examples: Callable[..., str], devices: str
) -> None:
    """Adds the commands to the command line, with what all commands share.

    Args:
        cli: the group of all commands; those that speak to devices and are there already get ``--capture``.
        common: the options of all commands.
        examples: how examples are shown.
        devices: what ``--device`` says of devices' names.
    """
    directory = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
    device = click.option("--device", default="twin", show_default=True, help=devices)

    @cli.command(
        "link",
        short_help="Measure what the line to a device carries.",
        epilog=examples(
            "tlc link digits --device /dev/ttyUSB0",
            "tlc link digits --device emulator --seconds 3 --json",
            "tlc link digits --device listen://0.0.0.0:7777 --capture line.pcapng",
        ),
    )
    @directory
    @device
    @click.option("--seconds", type=click.FloatRange(0.1, 86400), default=10.0, show_default=True, help="For how long.")
    @click.option(
        "--size", type=click.IntRange(21, 1 << 20), default=1024, show_default=True, help="Bytes of a message each way."
    )
    @click.option(
        "--parallel", type=click.IntRange(1, 60), default=8, show_default=True, help="Messages under way at once."
    )
    @common
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

    @cli.command(
        "monitor",
        short_help="Show what a device says.",
        epilog=examples("tlc monitor digits --device /dev/ttyUSB0", "tlc monitor digits --device emulator --json"),
    )
    @directory
    @device
    @click.option("--seconds", type=click.FloatRange(0.1), help="For how long.  [default: until Ctrl-C]")
    @click.option(
        "--level", type=click.Choice(list(LEVELS)), default="debug", show_default=True, help="Of the least line shown."
    )
    @common
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

    for name in (*CAPTURED, "link", "monitor"):
        _add_capture(cli.commands[name], common)


def _add_capture(command: click.Command, common: Callable[[Command], Command]) -> None:
    """Gives a command ``--capture FILE``."""
    inner = command.callback
    assert inner is not None

    @functools.wraps(inner)
    def captured(*args: Any, capture: Path | None, **kwargs: Any) -> Any:
        if capture is None:
            return inner(*args, **kwargs)

        def work(*_: Any, **__: Any) -> Any:
            require("cobs")
            from tlc_host.capture import capturing

            with capturing(capture):
                return inner(*args, **kwargs)

        return common(work)(debug=bool(kwargs.get("debug")))

    command.callback = captured
    command.params.append(
        click.Option(
            ["--capture"],
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Write what passes over the link for Wireshark (pcapng; firmware/wireshark/tlc.lua reads it).",
        )
    )


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
