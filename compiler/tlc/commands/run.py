# SPDX-License-Identifier: Apache-2.0
"""``tlc run``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tlc.commands.capture import capture_option
from tlc.commands.common import common, examples, progress
from tlc.commands.options import cut_option, device_option, directory_argument, exit_option
from tlc.extras import require


@click.command(
    "run",
    short_help="Run a file of samples through device and host.",
    epilog=examples(
        "tlc run digits --input x.npy --output y.npy",
        "tlc run digits --device emulator --input test.npz --output y.npz",
        "tlc run digits --device /dev/ttyUSB0 --input x_int8.npy --output smashed.npy --raw",
        "tlc run digits --device emulator --input test.npz --output y.npy --exit 0.9",
    ),
)
@directory_argument
@device_option
@click.option(
    "--input",
    "source",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Samples: .npy, or .npz with x or x_test.",
)
@click.option(
    "--output",
    "target",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Results: .npy (the first output) or .npz (all).",
)
@click.option("--raw", is_flag=True, help="int8 in and out: what the device computes, without the host.")
@click.option("--trained", is_flag=True, help="With the host's part as `tlc train` left it.")
@cut_option
@exit_option
@common
@capture_option
def run_command(
    directory: Path,
    device: str,
    source: Path,
    target: Path,
    raw: bool,
    trained: bool,
    cut: str | None,
    exit: float | None,
    as_json: bool,
) -> None:
    """Run a file of samples through the device and the host.

    The leading axis is the samples, the rest the model's own input layout; float in and out.
    """
    import asyncio

    from tlc_host.run import run_file

    if device != "twin":
        require("cobs")
    with progress(as_json) as say:
        result = asyncio.run(
            run_file(directory, device, source, target, raw=raw, trained=trained, cut=cut, exit=exit, progress=say)
        )
    if as_json:
        click.echo(json.dumps(result.to_json()))
    else:
        counted = f", {result.ticks:,} ticks each" if result.ticks else ""
        click.echo(f"{result.samples:,} samples on {device}{counted}: {result.output}")
        if result.exits is not None:
            share = f"{result.exits / result.samples:.1%}"
            click.echo(
                f"answered by the device itself: {result.exits:,} ({share}), by the host: {result.samples - result.exits:,}"
            )
        if result.accuracy is not None:
            click.echo(f"right: {result.accuracy:.1%}")
