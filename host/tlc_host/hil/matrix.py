# SPDX-License-Identifier: Apache-2.0
"""Which scenario runs on which board, in which emulator: ``python -m tlc_host.hil.matrix`` prints the table of docs/hil.md.

The tests hold the firmware to it: what is promised here must pass, and what is not must be skipped for the reason given.
"""

from __future__ import annotations

from tlc import boards
from tlc.boards import Board
from tlc_host.hil.scenarios import SCENARIOS

__all__ = ["matrix", "why_not"]

KINDS = {"qemu": "QEMU", "process": "a process", "renode": "Renode"}


def why_not(board: Board, scenario: str) -> str:
    """Why a scenario is skipped on a board with a model that learns; empty: it must pass.

    Raises:
        BoardError: nothing here emulates the board.
    """
    kind = board.emulator_spec()["kind"]
    if scenario in ("keeping", "power-cut") and (kind == "process" or not board.memory.journal_sector_bytes):
        return "keeps no journal"
    if scenario == "power-cut" and kind != "qemu":
        return "only QEMU stops"
    if scenario == "counts" and (board.emulator is None or not board.emulator.counts_instructions):
        return "nothing counts"
    return ""


def matrix() -> str:
    """The table, in Markdown."""
    emulated = [board for name in boards.names() if (board := boards.load(name)).emulator is not None]
    lines = [
        f"| board | core | emulator | {' | '.join(SCENARIOS)} |",
        f"| --- | --- | --- |{' :-: |' * len(SCENARIOS)}",
    ]
    for board in emulated:
        assert board.emulator is not None
        must = "R" if board.emulator.kind == "renode" else "✓"
        cells = ["–" if why_not(board, scenario) else must for scenario in SCENARIOS]
        machine = f"{KINDS[board.emulator.kind]} {board.emulator.machine}".strip()
        lines.append(f"| `{board.id}` | {board.cpu.core} | {machine} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(matrix(), end="")
