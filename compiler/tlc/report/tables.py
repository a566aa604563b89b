# SPDX-License-Identifier: Apache-2.0
"""The short tables that commands end in, on stdout. Warnings go to stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlc.names import first_name

if TYPE_CHECKING:
    from tlc.boards import Board
    from tlc.cost import Estimate
    from tlc.passes.select_auto import Training
    from tlc.pipeline import Compiled
    from tlc.size import SizeReport
    from tlc_host.algorithms.base import RoundDone
    from tlc_host.bench import BenchResult
    from tlc_host.config import Key
    from tlc_host.fleet import FleetResult
    from tlc_host.weights import Difference

__all__ = [
    "share",
    "show_bench",
    "show_boards",
    "show_compiled",
    "show_config",
    "show_differences",
    "show_fleet",
    "show_journal",
    "show_plan",
    "show_rounds",
    "show_size",
    "show_training",
    "table",
]


def show_compiled(compiled: Compiled, directory: Path) -> None:
    """The table at the end of ``tlc compile``."""
    bundle, promise, memory = compiled.bundle, compiled.bundle.certificate, compiled.board.memory
    rows = [
        ["cut", first_name(bundle.cut), ""],
        ["MACs on the device", f"{bundle.macs:,}", f"about {compiled.estimate.instructions:,} instructions"],
        ["weights", f"{promise.packed_bytes:,} B", f"{promise.weight_bytes:,} B before packing"],
        ["flash", f"{promise.flash_bytes:,} B", share(promise.flash_bytes, memory.flash_bytes)],
        ["arena", f"{promise.arena_bytes:,} B", _strips(compiled.estimate)],
        ["RAM", f"{promise.ram_bytes:,} B", share(promise.ram_bytes, memory.ram_bytes)],
        ["on the link", f"{compiled.estimate.link_bytes:,} B", "per inference"],
        ["bundle", bundle.hash[:16], ""],
    ]
    table(f"{bundle.name} on {bundle.board}", ["", "", ""], rows)
    if compiled.cuts:
        table(
            "cuts",
            ["", "cut", "MACs", "instructions", "link B", "ms", "learn"],
            [
                [
                    "*" if row.cut == bundle.cut else "",
                    first_name(row.cut),
                    f"{row.macs:,}",
                    f"{row.instructions:,}",
                    f"{row.link_bytes:,}",
                    f"{1000 * row.seconds:,.1f}",
                    f"{entry.learned} of {len(bundle.learned)}",
                ]
                for row, entry in zip(compiled.cuts, bundle.cuts, strict=True)
            ],
        )
    if compiled.training:
        show_training(compiled.training)
    for warning in compiled.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"\nnext:  pio run -d {directory} -t upload\n       tlc serve {directory} --device ...")


def _strips(row: Estimate) -> str:
    return f"the first layers in {row.strips} strips" if row.strips else ""


def show_training(training: Training) -> None:
    """What learns, and what it costs."""
    budget, used, following = training.budget, training.used, training.next
    table(
        "what learns",
        ["", "tensor", "score", "RAM B", "backward MACs"],
        [
            [
                "*" if row.chosen else "",
                row.tensor,
                "" if row.score is None else f"{row.score:.3g}",
                f"{row.bytes:,}",
                f"{row.macs:,}",
            ]
            for row in training.rows
        ],
    )
    macs = "" if budget.macs is None else f" of {budget.macs:,}"
    click.echo(f"training takes {used.bytes:,} of {budget.bytes:,} bytes and {used.macs:,}{macs} backward MACs")
    if following:
        added, removed = ", ".join(following["added"]), ", ".join(following["removed"])
        bought = f"{added}{f' instead of {removed}' if removed else ''}, score +{following['gain']:.3g}"
        click.echo(f"10% more RAM would buy {bought if added else 'nothing'}")


def show_plan(rows: list[Estimate]) -> None:
    """The table of ``tlc plan``."""

    def excess(bytes_over: int) -> str:
        return f" (+{bytes_over:,})" if bytes_over > 0 else ""

    table(
        "cuts",
        ["", "cut", "MACs", "instructions", "flash B", "RAM B", "link B", "ms", "fits"],
        [
            [
                "*" if row.pareto else "",
                first_name(row.cut),
                f"{row.macs:,}",
                f"{row.instructions:,}",
                f"{row.flash_bytes:,}{excess(row.over_flash)}",
                f"{row.ram_bytes:,}{excess(row.over_ram)}",
                f"{row.link_bytes:,}",
                f"{1000 * row.seconds:,.1f}",
                f"{'yes' if row.fits else 'no'}{f', in {row.strips} strips' if row.strips else ''}",
            ]
            for row in rows
        ],
    )


def show_size(report: SizeReport) -> None:
    """The table of ``tlc size``."""
    table(
        f"{report.elf.name} on {report.board}",
        ["memory", "what", "promise", "ELF", "spare", ""],
        [
            [
                row.memory,
                row.what,
                "" if row.promise is None else f"{row.promise:,}",
                "?" if row.elf is None else f"{row.elf:,}",
                "" if row.promise is None or row.elf is None else f"{row.promise - row.elf:,}",
                "" if row.promise is None else "not known" if row.elf is None else "ok" if row.fits else "exceeds",
            ]
            for row in report.rows
        ],
    )
    if report.stack.bytes is None:
        click.echo(f"stack: no bound is known: {report.stack.reason}")
    else:
        path = " > ".join(f"{name} {frame}" for name, frame in report.stack.path)
        click.echo(f"stack: at most {report.stack.bytes:,} bytes: {path}")


def show_differences(title: str, rows: Sequence[Difference]) -> None:
    """The table of ``tlc weights diff``."""
    table(
        title,
        ["tensor", "elements", "changed", "mean |difference|", "largest"],
        [[row.name, f"{row.elements:,}", f"{row.changed:,}", f"{row.mean:.3f}", f"{row.largest:,}"] for row in rows],
    )


def show_journal(device: str, status: dict[str, Any]) -> None:
    """The table of ``tlc weights status``."""

    def text(value: Any) -> str:
        if isinstance(value, list):
            return ", ".join(map(text, value))
        return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)

    table(device, ["", ""], [[key.replace("_", " "), text(value)] for key, value in status.items()])


def show_bench(result: BenchResult, layers: bool) -> None:
    """The table of ``tlc bench``."""
    figures = result.to_json()
    if layers:
        total = max(1, sum(layer.instructions for layer in result.layers))
        rows = [
            [first_name(layer.name), f"{layer.instructions:,}", f"{layer.instructions / total:.1%}"]
            for layer in result.layers
        ]
        table("layers", ["layer", "instructions", "share"], rows)
    rows = [
        ["instructions per inference", f"{result.instructions:,}", f"{figures['instructions_per_mac']:.2f} per MAC"],
    ]
    if result.training:
        rows += [
            ["... of a backward pass", f"{result.training.backward:,}", ""],
            ["... of an optimizer step", f"{result.training.update:,}", ""],
        ]
    rows += [
        [
            "flash",
            f"{figures['flash_bytes']:,} B",
            f"code {figures['code_bytes']:,}, weights {figures['weight_bytes']:,}",
        ],
        ["RAM", f"{figures['ram_bytes']:,} B", f"arena {figures['arena_bytes']:,}"],
        ["stack, deepest seen", f"{figures['stack_bytes']:,} B", ""],
    ]
    table(f"{result.bundle.name} on {result.bundle.board}", ["", "", ""], rows)


def show_boards(boards: Sequence[Board]) -> None:
    """The table of ``tlc boards``."""
    table(
        "boards",
        ["board", "", "clock MHz", "flash KB", "RAM KB", "transports"],
        [
            [
                b.id,
                b.title,
                f"{b.cpu.clock_hz / 1e6:g}",
                f"{b.memory.flash_bytes / 1000:,.0f}",
                f"{b.memory.ram_bytes / 1000:,.0f}",
                ", ".join(b.transports),
            ]
            for b in boards
        ],
    )


def share(used: int, there: int) -> str:
    """``12% of 400,000``."""
    return f"{used / there:.0%} of {there:,}"


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A short table on stdout; numbers to the right."""
    from rich.console import Console
    from rich.table import Table

    drawn = Table(title=title, title_justify="left", show_header=any(columns))
    for index, column in enumerate(columns):
        cells = [row[index] for row in rows]
        numeric = all(cell[:1].isdigit() or not cell for cell in cells)
        drawn.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(drawn)


def show_rounds(rounds: Sequence[RoundDone]) -> None:
    """The table at the end of a training of several rounds."""
    from tlc_host.live import size

    table(
        "",
        ["round", "loss", "accuracy", "devices", "up", "down", "s", "slowest", "left out"],
        [
            [
                str(done.round + 1),
                f"{done.loss:.4f}",
                f"{done.accuracy:.1%}",
                str(len(done.devices)),
                size(done.bytes_up),
                size(done.bytes_down),
                f"{done.seconds:.1f}",
                done.slowest,
                ", ".join(left.name for left in done.left_out),
            ]
            for done in rounds
        ],
    )


def show_config(keys: Sequence[Key]) -> None:
    """Every key of ``[train]``."""
    for key in keys:
        only = f"  ({key.algorithm} only)" if key.algorithm else ""
        click.echo(f"{key.name} = {key.default!r}{only}\n    {key.kind}\n    {key.description}")


def show_fleet(result: FleetResult) -> None:
    """The table at the end of ``tlc fleet``."""
    from tlc_host.live import size

    table(
        f"{result.devices:,} twins, {result.algorithm}",
        ["", ""],
        [
            ["rounds per second", f"{result.rounds_per_s:.3g}"],
            ["processor time per round", f"{result.cpu_s / result.rounds:.2f} s"],
            ["samples per second", f"{result.samples_per_s:,.0f}"],
            [
                "on the link per round and device",
                f"{_per(result, result.bytes_up, size)} up, {_per(result, result.bytes_down, size)} down",
            ],
            ["greeted in", f"{result.connect_s:.1f} s"],
            ["memory of a twin", size(result.twin_bytes)],
            ["most memory of the process", size(result.peak_bytes)],
            ["longest pause of the event loop", f"{result.longest_lag_s:.2f} s"],
            ["left out", f"{result.left_out:,}"],
            ["loss of the last round", f"{result.loss:.4f}"],
        ],
    )


def _per(result: FleetResult, count: int, size: Callable[[float], str]) -> str:
    return size(count / result.rounds / result.devices)
