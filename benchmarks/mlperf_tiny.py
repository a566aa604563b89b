# SPDX-License-Identifier: Apache-2.0
"""The int8 models of MLPerf Tiny, unsplit, on an emulated board: ``tlc bench`` beside TFLite Micro with CMSIS-NN.

    TLC_DATA=... python benchmarks/mlperf_tiny.py [MODEL ...] [--board qemu-m4] [--pack auto|size|none] [--patches N] [--json]

Each is compiled with ``--cut none`` from ``models/mlperf_tiny/<MODEL>_int8.tflite`` in ``TLC_DATA``, built and booted. Prints a
Markdown table. TFLite Micro's figures were measured once, on the same emulated Cortex-M4F: see :data:`PEER`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlc import toolchain
from tlc.pipeline import Options, compile_model
from tlc_host.bench import bench

BOARD = "qemu-m4"


@dataclass(frozen=True)
class Peer:
    """TFLite Micro with CMSIS-NN at -O2: instructions of one Invoke, bytes of the arena and of flash.

    Flash is code, constants, weights and the model's format, without start-up code; a link is not part of it.
    """

    instructions: int
    arena_bytes: int
    flash_bytes: int


PEER = {
    "ad_autoencoder": Peer(582_880, 2_580, 304_772),
    "kws": Peer(7_699_640, 22_820, 107_068),
    "ic_resnet8": Peer(29_863_680, 54_996, 149_432),
    "vww_mobilenet": Peer(24_101_520, 100_708, 386_420),
}
"""QEMU mps2-an386 under ``-icount shift=0``, arm-none-eabi-gcc 12.2."""


def measure(name: str, root: Path, board: str, pack: Any, patches: str = "auto") -> dict[str, Any]:
    """``tlc bench`` of one model."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "project"
        model = root / "models" / "mlperf_tiny" / f"{name}_int8.tflite"
        compile_model(Options(model, board, out, cut="none", pack=pack, patches=patches))
        return {"model": name, "board": board, "pack": pack, **asyncio.run(bench(out)).to_json()}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    beside = rows[0]["board"] == BOARD
    lines = [
        "| model | MACs | instructions | per MAC | flash, B | arena, B | RAM in all, B | stack, B |"
        + (" TFLM + CMSIS-NN: instructions | per MAC | flash, B | arena, B |" if beside else "")
    ]
    lines.append("| --- |" + " ---: |" * (11 if beside else 7))
    for row in rows:
        line = (
            f"| {row['model']} | {row['macs']:,} | {row['instructions_per_inference']:,} | {row['instructions_per_mac']:.2f} "
            f"| {row['flash_bytes']:,} | {row['arena_bytes']:,} | {row['ram_bytes']:,} | {row['stack_bytes']:,} |"
        )
        if beside:
            peer = PEER[row["model"]]
            per_mac = peer.instructions / row["macs"]
            line += f" {peer.instructions:,} | {per_mac:.2f} | {peer.flash_bytes:,} | {peer.arena_bytes:,} |"
        lines.append(line)
    return "\n".join(lines)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(PEER)}; all without")
    parser.add_argument("--board", default=BOARD)
    parser.add_argument("--pack", default="auto", choices=["auto", "size", "none"])
    parser.add_argument("--patches", default="auto", help="as of tlc compile: auto, none, or a number of strips")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    root = os.environ.get("TLC_DATA")
    if not root:
        parser.error("TLC_DATA must name a directory with models/mlperf_tiny/*_int8.tflite, but is not set")
    for name in options.models:
        if name not in PEER:
            parser.error(f"no model '{name}': there are {', '.join(PEER)}")
    toolchain.prepare_platformio()
    rows = []
    for name in options.models or PEER:
        print(f"{name} ...", file=sys.stderr)
        rows.append(measure(name, Path(root), options.board, options.pack, options.patches))
    print(json.dumps(rows) if options.json else table(rows))


if __name__ == "__main__":
    main()
