# SPDX-License-Identifier: Apache-2.0
"""Results as tables in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .methods import METHODS
from .task import Task

__all__ = ["tables"]


def tables(results: Sequence[Mapping[str, Any]], tasks: Mapping[str, Task], batch: int) -> str:
    """Accuracies (mean ± standard deviation over the seeds), then bytes and MACs, then learning rates."""
    methods = [name for name in METHODS if any(row["method"] == name for row in results)]
    by = {
        (task, method): [row for row in results if (row["task"], row["method"]) == (task, method)]
        for task in tasks
        for method in methods
    }
    titles = [METHODS[name].title for name in methods]
    text = _table(["accuracy, %", *titles], _accuracies(by, tasks, methods))
    text += "\n" + _table(["beyond inference", *titles], _costs(by, tasks, methods))
    rates = [
        [
            f"{tasks[task].title} ({tasks[task].steps} steps of {batch})",
            *(f"{by[task, m][0]['rate']:g}" if by[task, m] and by[task, m][0]["rate"] else "" for m in methods),
        ]
        for task in tasks
    ]
    return text + "\n" + _table(["learning rate", *titles], rates)


def _accuracies(
    by: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]], tasks: Mapping[str, Task], methods: Sequence[str]
) -> list[list[str]]:
    rows = []
    seeds = max(len(found) for found in by.values())
    for name, task in tasks.items():
        figures = next(list(by[name, m][0]["accuracy"]) for m in methods if by[name, m])
        for number, figure in enumerate(figures):
            title = task.title if len(figures) == 1 else f"{task.title}: {figure}"
            cells = [_spread([row["accuracy"][figure] for row in by[name, m]], seeds) for m in methods]
            rows.append([title, *cells] if number == 0 else [f"… {figure}", *cells])
    if any(len(found) < seeds for found in by.values()):
        return rows  # a mean of some would compare different tasks
    means = [np.mean([next(iter(row["accuracy"].values())) for name in tasks for row in by[name, m]]) for m in methods]
    return [*rows, ["**mean of the tasks**", *(f"**{mean:.1f}**" for mean in means)]]


def _costs(
    by: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]], tasks: Mapping[str, Task], methods: Sequence[str]
) -> list[list[str]]:
    rows = []
    for name, task in tasks.items():
        for key, unit in (("extra_ram", "RAM, B"), ("backward_macs", "backward MACs a sample")):
            cells = []
            for m in methods:
                values = [row[key] for row in by[name, m] if key in row]
                cells.append(f"{np.mean(values):,.0f}" if values else "")
            rows.append([f"{task.title}: {unit}" if key == "extra_ram" else f"… {unit}", *cells])
    return rows


def _spread(values: Sequence[float], seeds: int) -> str:
    """With the number of seeds, where it is smaller than elsewhere."""
    if not values:
        return ""
    deviation = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{deviation}" + (f" ({len(values)})" if len(values) < seeds else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
