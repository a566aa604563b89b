# SPDX-License-Identifier: Apache-2.0
"""``tlc weights``: what a device has learned."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tlc.commands.common import Command, common, examples
from tlc.commands.options import device_option, directory_argument
from tlc.extras import require
from tlc.report import tables


@click.group("weights", short_help="Read, replace and compare what a device has learned.")
def weights_group() -> None:
    """Read, replace and compare what a device has learned."""


def weights_command(name: str, help_text: str, *epilog: str) -> Callable[[Command], Command]:
    """A command of ``tlc weights``. Its function is given the bundle, the project and its own options, before a device is
    opened; it returns what to do with the session. That returns what ``--json`` prints, and a function that shows it to a
    person."""

    def decorate(prepare: Command) -> Command:
        @weights_group.command(name, help=help_text, short_help=help_text.split(".")[0] + ".", epilog=examples(*epilog))
        @directory_argument
        @device_option
        @common
        @functools.wraps(prepare)
        def command(directory: Path, device: str, as_json: bool, **options: Any) -> None:
            import asyncio

            from tlc import bundle as bundles

            require("cobs")
            from tlc_host import weights
            from tlc_host.devices import open_device

            bundle = bundles.load(directory)
            weights.require_learned(bundle, directory)
            work = prepare(bundle, directory, **options)

            async def run() -> tuple[dict[str, Any], Callable[[], None]]:
                async with open_device(directory, device) as session:
                    found: tuple[dict[str, Any], Callable[[], None]] = await work(session)
                    return found

            result, show = asyncio.run(run())
            if as_json:
                click.echo(json.dumps({"device": device, **result}))
            else:
                show()

        return prepare

    return decorate


@weights_command(
    "pull",
    "Read the learned tensors into a file: .npz, integers as on the device; bundle.json has their scales.",
    "tlc weights pull digits --device /dev/ttyUSB0 --output learned.npz",
)
@click.option("--output", "target", required=True, type=click.Path(path_type=Path), metavar="FILE", help=".npz")
def weights_pull(bundle: Any, directory: Path, target: Path) -> Any:
    """``tlc weights pull``."""
    from tlc_host import weights

    weights.check_writable(target)

    async def work(session: Any) -> Any:
        arrays = await weights.pull(session, bundle, directory)
        weights.write_file(target, arrays)
        rows = [{"name": name, "shape": list(array.shape), "dtype": str(array.dtype)} for name, array in arrays.items()]
        return {"output": str(target), "tensors": rows}, lambda: click.echo(f"{len(rows)} tensors: {target}")

    return work


@weights_command(
    "push",
    "Replace learned tensors by those of a file: all, or some.",
    "tlc weights push digits --device /dev/ttyUSB0 --input learned.npz --save",
)
@click.option("--input", "source", required=True, type=click.Path(path_type=Path), metavar="FILE", help=".npz")
@click.option("--save", is_flag=True, help="Then into the device's journal, so that they outlive a reset.")
def weights_push(bundle: Any, directory: Path, source: Path, save: bool) -> Any:
    """``tlc weights push``."""
    from tlc_host import weights

    arrays = weights.read_file(source, bundle)

    async def work(session: Any) -> Any:
        if save:
            weights.require_journal(session)
        sent = await weights.push(session, bundle, directory, arrays)
        saved = await session.save() if save else False
        kept = "kept in its journal" if save else "until its next reset (--save keeps them)"
        text = f"{len(arrays)} tensors, {sent:,} bytes on the link; {kept}"
        return {"tensors": list(arrays), "bytes": sent, "saved": saved}, lambda: click.echo(text)

    return work


@weights_command(
    "diff",
    "Compare the learned tensors with the values they were compiled with, or with a file.",
    "tlc weights diff digits --device /dev/ttyUSB0",
    "tlc weights diff digits --against learned.npz --json",
)
@click.option("--against", type=click.Path(path_type=Path), metavar="FILE", help=".npz of `tlc weights pull`.")
def weights_diff(bundle: Any, directory: Path, against: Path | None) -> Any:
    """``tlc weights diff``."""
    from tlc_host import weights

    other = weights.read_file(against, bundle) if against else weights.initial_arrays(bundle, directory)

    async def work(session: Any) -> Any:
        rows = weights.differences(bundle, await weights.pull(session, bundle, directory), other)
        title = f"{session.name} against {against or 'the values it was compiled with'}, in steps of the integers"
        result = {"against": str(against) if against else None, "tensors": [row.to_json() for row in rows]}
        return result, lambda: tables.show_differences(title, rows)

    return work


@weights_command(
    "reset",
    "Go back to the values the device was compiled with, and erase its journal.",
    "tlc weights reset digits --device /dev/ttyUSB0",
)
def weights_reset(bundle: Any, directory: Path) -> Any:
    """``tlc weights reset``."""

    async def work(session: Any) -> Any:
        await session.reset_state()
        return {"reset": True}, lambda: click.echo("as compiled; the journal is empty")

    return work


@weights_command(
    "save",
    "Write what the device has learned into its journal, so that it outlives a reset.",
    "tlc weights save digits --device /dev/ttyUSB0",
)
def weights_save(bundle: Any, directory: Path) -> Any:
    """``tlc weights save``."""
    from tlc_host import weights

    async def work(session: Any) -> Any:
        weights.require_journal(session)
        saved = await session.save()
        return {"saved": saved}, lambda: click.echo("kept" if saved else "its journal holds that already")

    return work


@weights_command(
    "status",
    "Show what the device's journal holds, and how worn its flash is.",
    "tlc weights status digits --device /dev/ttyUSB0",
)
def weights_status(bundle: Any, directory: Path) -> Any:
    """``tlc weights status``."""
    from tlc_host import weights

    async def work(session: Any) -> Any:
        result = await weights.status(session)
        return result, lambda: tables.show_journal(session.name, result)

    return work
