# SPDX-License-Identifier: Apache-2.0
"""``tlc hil``: whether a board's firmware does what it should."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tlc.commands.common import common, examples
from tlc.commands.options import directory_argument
from tlc.extras import require

if TYPE_CHECKING:
    from tlc_host.hil.report import Outcome


@click.command(
    "hil",
    short_help="Put a project's firmware through the scenarios of hardware in the loop.",
    epilog=examples(
        "tlc hil digits",
        "tlc hil digits --only power-cut --json",
        "tlc hil digits --device /dev/ttyUSB0 --input x.npy",
    ),
)
@directory_argument
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
