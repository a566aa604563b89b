# SPDX-License-Identifier: Apache-2.0
"""``tlc symbolize``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from tlc.commands.common import common, examples
from tlc.commands.options import directory_argument
from tlc.errors import DataError


@click.command(
    "symbolize",
    short_help="Name the source line where a device crashed.",
    epilog=examples(
        "tlc symbolize digits 'tlc fault: bus error; cause 00000003 pc ...'", "tlc symbolize digits crash.txt"
    ),
)
@directory_argument
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
