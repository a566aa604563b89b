# SPDX-License-Identifier: Apache-2.0
"""``tlc symbolize`` and ``tlc hil``: what a board said when it crashed, and whether its firmware does what it should."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlc.errors import DataError
from tlc.extras import require

if TYPE_CHECKING:
    from tlc_host.hil.report import Outcome

__all__ = ["add_boards"]

Command = Callable[..., Any]


def add_boards(cli: click.Group, common: Callable[[Command], Command], examples: Callable[..., str]) -> None:
    """Adds the commands to the command line, with what all commands share.

    Args:
        cli: the group of all commands.
        common: the options of all commands.
        examples: how examples are shown.
    """
    directory = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))

    @cli.command(
        "symbolize",
        short_help="Name the source line where a device crashed.",
        epilog=examples(
            "tlc symbolize digits 'tlc fault: bus error; cause 00000003 pc ...'", "tlc symbolize digits crash.txt"
        ),
    )
    @directory
    @click.argument("dump", metavar="DUMP|FILE|-")
    @common
    def symbolize_command(directory: Path, dump: str, as_json: bool) -> None:
        """Name function, file and line of a crash: of the line that a device says when it dies, from DUMP itself, a FILE
        with it, or standard input.

        The project in DIR must be built as it was on the device; the line tells the build, and another is refused.
        """
        from tlc.fault import parse_dump, symbolize

        text = dump
        if dump == "-":
            text = sys.stdin.read()
        elif len(dump) < 256 and Path(dump).is_file():
            try:
                text = Path(dump).read_text(errors="replace")
            except OSError as error:
                raise DataError(f"it cannot be read ({error.strerror})", where=dump) from error
        crash = parse_dump(text)
        places = symbolize(directory, crash)
        if as_json:
            click.echo(json.dumps({"what": crash.what, "places": [asdict(place) for place in places]}))
            return
        click.echo(crash.what)
        for place in places:
            click.echo(str(place))

    @cli.command(
        "hil",
        short_help="Put a project's firmware through the scenarios of hardware in the loop.",
        epilog=examples(
            "tlc hil digits",
            "tlc hil digits --only power-cut --json",
            "tlc hil digits --device /dev/ttyUSB0 --input x.npy",
        ),
    )
    @directory
    @click.option(
        "--device",
        metavar="LINE",
        help="A board that runs the project: /dev/tty..., or tcp://HOST:PORT. It forgets what it has learned.  "
        "[default: build the firmware and boot it in the board's emulator]",
    )
    @click.option(
        "--only", multiple=True, metavar="SCENARIO", help="May be repeated.  [default: all, as docs/hil.md lists them]"
    )
    @click.option(
        "--input",
        "source",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Real samples, as of `tlc run`.  [default: seeded random integers]",
    )
    @click.option(
        "--machines",
        type=click.IntRange(1, 16),
        default=3,
        show_default=True,
        help="Boards in the scenario `several`; in Renode they are in one emulation.",
    )
    @common
    def hil_command(
        directory: Path,
        device: str | None,
        only: tuple[str, ...],
        source: Path | None,
        machines: int,
        as_json: bool,
    ) -> None:
        """Put the firmware of the project in DIR through scenarios: greeting, inference and training bit-equal to the twin,
        a reset in the middle, a power cut in the journal's write, noise on the line, several boards at once, memory within
        the certificate.

        Exit code 1 where one fails. Some need an emulator and are skipped on a board.
        """
        require("cobs")
        from tlc import boards, bundle, toolchain
        from tlc_host.hil.report import run_hil
        from tlc_host.run import device_inputs

        inputs = device_inputs(source, bundle.load(directory)) if source is not None else None
        board = boards.of_project(directory)
        if device is None:
            board.emulator_spec()  # raises where nothing emulates it, before anything is built
            if board.id != "native":
                toolchain.pio_run(directory)

        def show(outcome: Outcome) -> None:
            if not as_json:
                line = f"{outcome.outcome:8}{outcome.scenario:11}{outcome.seconds:6.1f} s  {outcome.detail}"
                click.echo(line)
                sys.stdout.flush()

        report = run_hil(directory, device or "", only=only, inputs=inputs, machines=machines, on_outcome=show)
        if as_json:
            click.echo(json.dumps(report.to_json()))
        else:
            passed = sum(outcome.outcome == "passed" for outcome in report.outcomes)
            click.echo(f"{report.board} ({report.where}): {passed} of {len(report.outcomes)} passed")
        if not report.good:
            sys.exit(1)
