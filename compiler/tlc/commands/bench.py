# SPDX-License-Identifier: Apache-2.0
"""``tlc bench``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tlc.commands.common import common, examples, progress
from tlc.commands.options import cut_option, directory_argument
from tlc.extras import require
from tlc.report import tables


@click.command(
    "bench",
    short_help="Count instructions, stack, RAM and flash in the emulator.",
    epilog=examples("tlc bench digits --layers"),
)
@directory_argument
@click.option("--layers", is_flag=True, help="Count each layer by itself, too.")
@cut_option
@common
def bench_command(directory: Path, layers: bool, cut: str | None, as_json: bool) -> None:
    """Count instructions, stack, RAM and flash of DIR's firmware on its emulated board.

    Builds and boots it; needs a board whose emulator counts instructions (qemu-m4, qemu-m0, qemu-rv32). Instructions are
    not cycles, but repeat exactly.
    """
    import asyncio

    require("cobs")
    from tlc_host.bench import bench

    with progress(as_json) as say:
        say("building and running", 0, 1)
        result = asyncio.run(bench(directory, cut))
    if as_json:
        click.echo(json.dumps(result.to_json(layers=layers)))
    else:
        tables.show_bench(result, layers)
