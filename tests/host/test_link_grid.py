# SPDX-License-Identifier: Apache-2.0
"""benchmarks/link_grid.py in seconds: every fault, and goodput near the bound."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import link_grid as grid


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return grid.build(tmp_path_factory.mktemp("grid"))


def test_no_message_is_lost_or_comes_twice(library: Any) -> None:
    results = grid.run(library, grid.fault_cells(), 1800, 9)
    assert sum(result.messages for result in results) >= 1700
    assert all(result.resent for result in results if "loss" in result.cell.faults and "all" in result.cell.name)


@pytest.mark.parametrize(("line", "loss", "error"), [("UART 921,600", 0.3, 0.0), ("UART 921,600, 8 x 256", 0.1, 0.0)])
def test_goodput_is_near_the_bound(library: Any, line: str, loss: float, error: float) -> None:
    wanted = {"loss": loss, "bit_error": error}
    (cell,) = (cell for cell in grid.goodput_cells() if cell.name == line and cell.faults == wanted)
    result = grid.Exchange(library, cell, 700, 2).run()
    assert grid.SHARE <= result.share <= 1.05, result


def test_the_ideal_sender() -> None:
    assert grid.ideal(1.0, 0.5, 30) == pytest.approx(1.0, abs=0.01)
    assert grid.ideal(0.7, 0.5, 30) == pytest.approx(0.7, abs=0.02)
    assert grid.ideal(1.0, 3.0, 4) == pytest.approx(
        4 / 8.5, abs=0.04
    )  # its time, twice the delay, a wait, the report's
    assert grid.ideal(0.3, 20.0, 30) < 0.25  # one that is lost again and again holds all others up
    assert grid.ideal(0.7, 0.1, 3, repeats=True) > grid.ideal(0.7, 0.1, 3) + 0.02  # it would wait
