# SPDX-License-Identifier: Apache-2.0
"""Programs that fit a board: weights packed, the first layers in strips where it must be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tlc.boards import Board
from tlc.cost import Estimate, certificate, frozen_weights, ram_limit
from tlc.errors import FitError
from tlc.graph import Graph
from tlc.learning import Learning
from tlc.passes.backward import Plan, differentiate
from tlc.passes.cuts import cut_parts
from tlc.passes.pack import DecodeCost, Packing, PackMode, pack
from tlc.passes.patches import fewest, least
from tlc.passes.schedule import schedule
from tlc.passes.split import Cut
from tlc.passes.static_scales import with_static_scales
from tlc.pipeline.options import Options
from tlc.program import Program
from tlc.strips import Strips

Scales = Mapping[tuple[str, str, int], int]
"""The exponents of integer gradients, where they are static."""


def require_fit(row: Estimate, board: Board, ram: int | None, *, any_cut: bool = False) -> None:
    """Raises :class:`FitError` where a device segment does not fit the board."""
    if row.fits:
        return
    over = []
    if row.over_flash > 0:
        over.append(f"{row.flash_bytes:,} bytes of flash where {board.memory.flash_bytes:,} are")
    if row.over_ram > 0:
        over.append(f"{row.ram_bytes:,} bytes of RAM where {ram_limit(board, ram):,} are")
    rule = f"the device segment needs {' and '.join(over)}"
    remedy = "choose an earlier cut (tlc plan lists them) or a larger board"
    if any_cut:
        rule = f"no cut fits (the nearest, --cut {row.cut}): {rule}"
        remedy = "choose a larger board, or a smaller model"
    raise FitError(rule, where=f"board '{board.id}'", remedy=remedy)


def _plan(device: Graph, learned: dict[str, str], learning: Learning, scales: Scales | None) -> Plan | None:
    plan = differentiate(device, learned, learning) if learned else None
    return with_static_scales(plan, scales) if plan and scales is not None else plan


def _program(
    device: Graph,
    board: Board,
    mode: PackMode,
    learned: dict[str, str],
    learning: Learning,
    scales: Scales | None = None,
) -> tuple[Program, Packing]:
    plan = _plan(device, learned, learning, scales)
    program = schedule(device, plan)
    packing = pack(frozen_weights(program, board), mode, DecodeCost(**board.decode.model_dump()))
    scratch = row_bytes(packing)
    return (schedule(device, plan, scratch) if scratch else program), packing


def fitted(
    device: Graph,
    board: Board,
    options: Options,
    learned: dict[str, str],
    standalone: bool,
    *,
    scales: Scales | None = None,
    strict: bool = True,
    cuts: Sequence[Cut] = (),
) -> tuple[Program, Packing]:
    """The program, its first layers in strips where it is told, or where it would not fit otherwise; ``strict``: refuses where
    it is told, and does not help. Of several ``cuts`` the first one is behind all strips."""
    program, packing = _program(device, board, options.pack, learned, options.learning, scales)
    program.cuts = cut_parts(program, cuts)
    over = certificate(program, board, packing, standalone).ram_bytes - ram_limit(board, options.ram)
    if options.patches == "none" or (options.patches == "auto" and over <= 0):
        return program, packing
    scratch, plan = row_bytes(packing), _plan(device, learned, options.learning, scales)

    def place(strips: Strips) -> Program:
        return schedule(device, plan, scratch, program.forward, strips=strips)

    if options.patches == "auto":
        made = fewest(program, program.arena_bytes - over, place, scratch)
    else:
        made = least(program, int(options.patches), place, scratch, strict=strict)
    if made.strips is None:
        return program, packing
    # Decoding is done in each strip, so fewer weights may be worth it.
    packing = pack(frozen_weights(made, board), options.pack, DecodeCost(**board.decode.model_dump()))
    result = schedule(device, plan, row_bytes(packing), program.forward, strips=made.strips)
    result.cuts = cut_parts(result, cuts)
    return result, packing


def row_bytes(packing: Packing) -> dict[str, int]:
    """What a row of each packed tensor takes where it is decoded."""
    return {name: packed.scratch_bytes for name, packed in packing.weights.items() if packed.code}
