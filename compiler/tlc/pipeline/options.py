# SPDX-License-Identifier: Apache-2.0
"""What ``tlc compile`` is told, and what it tells."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tlc.boards import Board
from tlc.bundle import Bundle
from tlc.cost import Estimate
from tlc.learning import Learning
from tlc.passes.pack import Packing, PackMode
from tlc.passes.select_auto import Training

CHOSEN = ("auto", "random")
"""Forms of ``--train`` that choose by cost."""

Progress = Callable[[str, int, int], None]
"""Called with what is going on, and how much of it is done."""


@dataclass(frozen=True)
class Options:
    """What ``tlc compile`` is told."""

    model: Path
    board: str
    out: Path
    cut: str = "auto"
    calib: Path | None = None
    pack: PackMode = "auto"
    train: str = "none"
    transport: str | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    seed: int = 0
    train_ram: int | None = None
    """Bytes of RAM that training may take beyond inference; None: what the board has left."""
    train_macs: int | None = None
    learning: Learning = field(default_factory=Learning)
    """How what learns does; its arithmetic follows from the next."""
    train_arithmetic: Literal["auto", "float", "int"] = "auto"
    """``auto``: in float32 where the board's core has an FPU, else in integers."""
    tail: str | None = None
    """Of a U-shaped split: the tensor with which the device goes on behind the host's part."""
    aux_head: bool = False
    """A classifier at the cut, on the device."""
    patches: str = "auto"
    """Whether the first layers are computed in strips of rows: ``none``; ``auto``, where the RAM does not suffice; or in at most so
    many, whatever takes least."""
    ram: int | None = None
    """The most RAM that the device segment may take, bytes; None: what the board has."""
    cuts: tuple[str, ...] = ()
    """Several cuts instead of ``cut``; the device begins with the first."""


@dataclass(frozen=True)
class Compiled:
    """What ``tlc compile`` tells."""

    bundle: Bundle
    board: Board
    estimate: Estimate
    packing: Packing
    warnings: tuple[str, ...]
    training: Training | None = None
    """Where what learns was chosen, or held to a budget."""
    cuts: tuple[Estimate, ...] = ()
    """Of several cuts what each costs; flash and RAM are those of all."""

    def to_json(self) -> dict[str, Any]:
        """The keys that scripts rely on, and the certificate."""
        promise = self.bundle.certificate
        return {
            "board": self.bundle.board,
            "cut": self.bundle.cut,
            "macs": self.bundle.macs,
            "weight_bytes": promise.weight_bytes,
            "packed_bytes": promise.packed_bytes,
            "flash_bytes": promise.flash_bytes,
            "arena_bytes": promise.arena_bytes,
            "ram_bytes": promise.ram_bytes,
            "bundle_hash": self.bundle.hash,
            "warnings": list(self.warnings),
            "link_bytes": self.estimate.link_bytes,
            "instructions_estimate": self.estimate.instructions,
            "strips": self.estimate.strips,
            "certificate": promise.model_dump(),
            "packing": [dataclasses.asdict(row) for row in self.packing.report],
            "training": self.training.to_json() if self.training else None,
            **({"cuts": [row.to_json() for row in self.cuts]} if self.cuts else {}),
        }
