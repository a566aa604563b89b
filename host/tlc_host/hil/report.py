# SPDX-License-Identifier: Apache-2.0
"""``tlc hil``: runs scenarios and tells how they went."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tlc.errors import TlcError, UsageError, nearest
from tlc_host.hil.scenarios import SCENARIOS, Broken
from tlc_host.hil.target import MACHINES, NotHere, Target

__all__ = ["HilReport", "Outcome", "run_hil"]


@dataclass(frozen=True)
class Outcome:
    """How one scenario went."""

    scenario: str
    outcome: Literal["passed", "failed", "skipped"]
    detail: str
    seconds: float


@dataclass(frozen=True)
class HilReport:
    """How all went.

    Attributes:
        where: ``qemu`` and so on, or the line to a board.
    """

    board: str
    where: str
    bundle: str
    outcomes: tuple[Outcome, ...]

    @property
    def good(self) -> bool:
        """Nothing failed, and something passed."""
        kinds = {outcome.outcome for outcome in self.outcomes}
        return "failed" not in kinds and "passed" in kinds

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def run_hil(
    directory: Path,
    device: str = "",
    *,
    only: Sequence[str] = (),
    inputs: Sequence[NDArray[np.int8]] | None = None,
    machines: int = MACHINES,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> HilReport:
    """Runs scenarios one after another; one that fails does not keep the next from running.

    Args:
        directory: the project, built.
        device: empty: the board's emulator; else a line to a board, which forgets what it has learned.
        only: names of scenarios; none: all.
        inputs, machines: for :class:`Target`.
        on_outcome: called after each.

    Raises:
        UsageError: no such scenario.
        TlcError: what :class:`Target` raises.
    """
    for name in only:
        if name not in SCENARIOS:
            raise UsageError(f"no such scenario: {name}", where="--only", remedy=nearest(name, SCENARIOS))
    target = Target(directory, device, inputs, machines)
    outcomes = []
    for name, scenario in SCENARIOS.items():
        if only and name not in only:
            continue
        began = time.monotonic()
        outcome: Literal["passed", "failed", "skipped"] = "passed"
        try:
            detail = asyncio.run(_run(scenario(target)))
        except NotHere as error:
            outcome, detail = "skipped", str(error)
        except (Broken, TlcError) as error:
            outcome, detail = "failed", str(error)
        outcomes.append(Outcome(name, outcome, detail, round(time.monotonic() - began, 3)))
        if on_outcome is not None:
            on_outcome(outcomes[-1])
    kind = target.board.emulator.kind if target.board.emulator is not None else ""
    return HilReport(target.board.id, device or kind, target.bundle.hash, tuple(outcomes))


async def _run(scenario: Any) -> str:
    return str(await scenario)
