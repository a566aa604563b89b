# SPDX-License-Identifier: Apache-2.0
"""What a person sees of a training run: lines or a live table while it runs, a table and curves at the end."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from tlc.errors import OutputError
from tlc_host.algorithms.base import BatchDone, Event, RoundDone

__all__ = ["Progress", "size", "table", "write_curves"]

SHOWN_ROUNDS = 12
LINES = 120
"""About so many lines of batches are printed where there is no terminal."""


class Progress:
    """Shows events as they come: on a terminal a table that is drawn anew, else lines.

    Args:
        total: batches that are to come, about.
        quiet: shows nothing, and only remembers.
    """

    def __init__(self, total: int, *, quiet: bool = False) -> None:
        self.rounds: list[RoundDone] = []
        self.batches: list[BatchDone] = []
        self._every = max(1, total // LINES)
        self._quiet = quiet
        self._live: Live | None = None
        self._console = Console(file=sys.stdout)

    def __enter__(self) -> Self:
        if not self._quiet and self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=4)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def __call__(self, event: Event) -> None:
        """Takes an event."""
        if isinstance(event, RoundDone):
            self.rounds.append(event)
        else:
            self.batches.append(event)
        if self._quiet or self._live is not None:
            return
        if isinstance(event, RoundDone):
            print(_round_line(event), flush=True)
        elif (len(self.batches) - 1) % self._every == 0:
            device = f"device {event.device}  " if event.device >= 0 else ""
            print(f"step {event.step:5}  {device}loss {event.loss:.4f}  accuracy {event.accuracy:.0%}", flush=True)

    def _render(self) -> Table:
        shown = table(self.rounds[-SHOWN_ROUNDS:])
        if self.batches:
            last = self.batches[-1]
            who = f"device {last.device}" if last.device >= 0 else "all"
            shown.caption = (
                f"round {last.round + 1}, step {last.step}, {who}: loss {last.loss:.4f}, {last.accuracy:.0%}"
            )
        return shown


def _round_line(done: RoundDone) -> str:
    out = "".join(f"; left out: {left.name} ({left.reason})" for left in done.left_out)
    slow = f"; slowest {done.slowest}, {done.slowest_s:.1f} s" if done.slowest else ""
    more = "".join(f"; {name} {value:g}" for name, value in done.metrics.items())
    return (
        f"round {done.round + 1}: loss {done.loss:.4f}, accuracy {done.accuracy:.1%}, {len(done.devices)} devices, "
        f"{size(done.bytes_up)} up, {size(done.bytes_down)} down, {done.seconds:.1f} s{slow}{more}{out}"
    )


def table(rounds: Sequence[RoundDone]) -> Table:
    """Rounds, one a row."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("round", "loss", "accuracy", "devices", "up", "down", "s"):
        shown.add_column(name, justify="right")
    shown.add_column("slowest")
    shown.add_column("left out")
    for done in rounds:
        shown.add_row(
            str(done.round + 1),
            f"{done.loss:.4f}",
            f"{done.accuracy:.1%}",
            str(len(done.devices)),
            size(done.bytes_up),
            size(done.bytes_down),
            f"{done.seconds:.1f}",
            f"{done.slowest} {done.slowest_s:.1f} s" if done.slowest else "",
            ", ".join(left.name for left in done.left_out),
        )
    return shown


def size(count: float) -> str:
    """Bytes, in units of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return ""


# ---- curves ----

WIDTH, HEIGHT, MARGIN = 640, 300, 52


def write_curves(path: Path, title: str, batches: Sequence[BatchDone], rounds: Sequence[RoundDone]) -> None:
    """Loss and accuracy over the run, as ``.svg``, or as ``.png`` where matplotlib is installed.

    Raises:
        OutputError: another kind of file, or it cannot be written.
    """
    points: Sequence[Any] = rounds if len(rounds) > 2 else batches
    unit = "round" if len(rounds) > 2 else "step"
    series = {
        "loss": [(n + 1, point.loss) for n, point in enumerate(points) if math.isfinite(point.loss)],
        "accuracy": [(n + 1, point.accuracy) for n, point in enumerate(points) if math.isfinite(point.accuracy)],
    }
    scratch = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        if path.suffix == ".svg":
            scratch.write_text(_svg(title, unit, series))
        elif path.suffix == ".png":
            _png(scratch, title, unit, series)
        else:
            raise OutputError("curves go to .svg or .png", where=str(path), remedy="name it so")
        os.replace(scratch, path)
    except OSError as error:
        raise OutputError(f"cannot be written ({error.strerror})", where=str(path), remedy="choose another") from None
    finally:
        scratch.unlink(missing_ok=True)


def _png(path: Path, title: str, unit: str, series: dict[str, list[tuple[int, float]]]) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise OutputError(
            "PNG takes matplotlib, which is not installed", where=str(path), remedy="name a .svg, or install it"
        ) from None
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    figure.suptitle(title)
    for axes, (name, values) in zip(figure.subplots(1, 2), series.items(), strict=True):
        axes.plot([x for x, _ in values], [y for _, y in values])
        axes.set_xlabel(unit)
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
    figure.savefig(path)


def _svg(title: str, unit: str, series: dict[str, list[tuple[int, float]]]) -> str:
    panels = [
        _panel(index * WIDTH, name, unit, values, 1.0 if name == "accuracy" else None)
        for index, (name, values) in enumerate(series.items())
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH * len(panels)} {HEIGHT + 30}" '
        'font-family="sans-serif" font-size="13">\n<rect width="100%" height="100%" fill="#fff"/>\n'
        f'<text x="{MARGIN}" y="20" font-weight="bold">{_escape(title)}</text>\n{"".join(panels)}</svg>\n'
    )


def _panel(left: int, name: str, unit: str, values: list[tuple[int, float]], most: float | None) -> str:
    top = most or max((y for _, y in values), default=1.0) or 1.0
    last = max((x for x, _ in values), default=1)
    inner_w, inner_h = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - 1) / (last - 1) if last > 1 else 0.5
        return left + MARGIN + across * inner_w, 30 + MARGIN + inner_h * (1 - min(y / top, 1.0))

    lines = []
    for part in range(5):
        y = place(1, top * part / 4)[1]
        lines.append(
            f'<line x1="{left + MARGIN}" y1="{y:.1f}" x2="{left + WIDTH - MARGIN}" y2="{y:.1f}" stroke="#ddd"/>'
            f'<text x="{left + MARGIN - 6}" y="{y + 4:.1f}" text-anchor="end">{top * part / 4:.2f}</text>\n'
        )
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*value) for value in values))
    lines.append(f'<polyline points="{path}" fill="none" stroke="#1565c0" stroke-width="2"/>\n')
    below = 30 + HEIGHT - MARGIN + 34
    lines.append(
        f'<text x="{left + WIDTH / 2}" y="{below}" text-anchor="middle">{unit} 1 to {last}</text>'
        f'<text x="{left + MARGIN}" y="{30 + MARGIN - 10}">{name}</text>\n'
    )
    return "".join(lines)


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
