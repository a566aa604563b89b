# SPDX-License-Identifier: Apache-2.0
"""What a training step costs on emulated boards, in instructions and bytes, beside TinyEngine's training example.

    TLC_DATA=... python benchmarks/training.py [peers|ladder|boards ...] [--pack none|auto|size] [--arithmetic float|int] [--json]

``peers``: networks with the update schemes that others published for them, batch 1, softmax cross-entropy, SGD: TinyEngine's example
(mcunet-5fps, 128 x 128 x 3, 10 classes) and MCUNetV3's MobileNetV2-w0.35. ``ladder``: the first of them with everything learning in
float32, in int8, with the sparse scheme, with updates between the steps of the backward pass, as it is compiled, and with its first
layers in strips of rows. ``boards``: a
small network on three cores.

From ``TLC_DATA``: ``models/peers/*.onnx`` and ``*.json`` (``updates``: layer, kind, slice), ``models/trained/lenet5_mnist.onnx``, and
``cifar10_small.npz`` and ``mnist.npz`` for calibration. Instructions are counted on a random sample by ``tlc bench`` where gradients
are summed up and applied in a step of its own; memory is that of the same project with ``--train-batch 1``, whose ELF ``tlc size``
holds to its certificate. Where 256 KiB do not suffice, the board is QEMU's MPS2 with all of its memory. What TinyEngine takes
was measured once on the same emulated Cortex-M4F: :data:`PEER`.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import itertools
import json
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tlc import boards, toolchain
from tlc import size as sizes
from tlc.frontends import read_model
from tlc.graph import Graph
from tlc.learning import Learning
from tlc.passes.backward import differentiate
from tlc.passes.canonicalize import canonicalize
from tlc.passes.memory import place
from tlc.passes.patches import least
from tlc.passes.quantize import quantize
from tlc.passes.schedule import gradient_name, schedule, scratch_name, sum_name
from tlc.passes.select import parse_spec
from tlc.passes.select_auto import backward_macs
from tlc.pipeline import Options, compile_model
from tlc.program import Program, align
from tlc_host.bench import bench

BOARD = "qemu-m4"
PARTS = ("peers", "ladder", "boards")
CALIBRATION = 8
STRIPS = 16
"""``--patches`` of the rows with strips."""


@dataclasses.dataclass(frozen=True)
class Scheme:
    """A network, and what of it learns."""

    title: str
    model: str
    updates: str


SCHEMES = {
    "mcunet": Scheme("TinyEngine's example", "tinyengine_train_mcunet.onnx", "tinyengine_train_mcunet.json"),
    "mbv2": Scheme("MobileNetV2-w0.35", "mcunetv3_mbv2_w035_128.onnx", "mcunetv3_mbv2_100kb.json"),
}

PEER = {
    "instructions": 120_100_000,
    "forward": 65_300_000,
    "ram_bytes": 230_576,
    "stack_bytes": 21_784,
    "flash_bytes": 668_528,
}
"""TinyEngine's example as generated, -O2 with CMSIS, QEMU mps2-an386 under ``-icount shift=0``: ``forward`` is its inference alone.
Its gradient leaves out the skip connections and the zero points of weights' inputs, and truncates."""

SMALL_BOARDS = ("qemu-m4", "qemu-m0", "qemu-rv32")


def spec_of(path: Path) -> str:
    """``--train`` for an update scheme: kept input channels become slices."""
    words = []
    for update in json.loads(path.read_text())["updates"]:
        word = f"{update['layer']}.{update['kind']}"
        if update["kind"] == "weight" and update["ratio"] != 1:
            first, last = update["slice"][1]
            word += f"[:, {first}:{last}]"
        words.append(word)
    return ", ".join(words)


def images(root: Path, scratch: Path) -> Path:
    """Calibration samples of 128 x 128 x 3 in [-1, 1]."""
    x = np.load(root / "cifar10_small.npz")["x_train"][:CALIBRATION].astype(np.float32) / 127.5 - 1
    path = scratch / "images.npz"
    np.savez(path, x=x.repeat(4, 1).repeat(4, 2).transpose(0, 3, 1, 2))
    return path


def roomy_board(scratch: Path) -> str:
    """qemu-m4 with the 4 MiB of each memory that the emulated MPS2 has."""
    text = boards.path_of(BOARD).read_text()
    reserve = 262_144 - boards.load(BOARD).memory.static_ram_bytes
    for pattern, value in {
        r"^id = .*": 'id = "qemu-m4-4mib"',
        r"^title = .*": 'title = "Emulated Cortex-M4F (QEMU mps2-an386), all of its memory"',
        r"^flash_bytes = .*": "flash_bytes = 4_194_304",
        r"^ram_bytes = .*": "ram_bytes = 4_194_304",
        r"^static_ram_bytes = .*": f"static_ram_bytes = {4_194_304 - reserve}",
        r"^seed_address = .*": "seed_address = 0x203F_FFF8",
    }.items():
        text, count = re.subn(pattern, value, text, count=1, flags=re.MULTILINE)
        assert count == 1, pattern
    path = scratch / "qemu-m4-4mib.toml"
    path.write_text(text)
    return str(path)


def device_graph(model: Path) -> Graph:
    """The whole network in integers; ranges do not matter for bytes and MACs."""
    graph = canonicalize(read_model(model, {}))
    return quantize(graph, dict.fromkeys(graph.tensors, (-1.0, 1.0)))


def measure(options: Options, scratch: Path, roomy: str) -> dict[str, Any]:
    """Instructions and bytes of a step."""
    graph = device_graph(options.model)
    macs = backward_macs(graph, differentiate(graph, parse_spec(graph, options.train)))
    one = compile_model(
        dataclasses.replace(options, board=roomy, out=scratch / "one", learning=Learning(batch="1"))
    ).bundle.certificate
    fits = one.ram_bytes <= boards.load(BOARD).memory.ram_bytes
    if fits and options.board == BOARD:  # the proof is on the board that has just enough
        compile_model(dataclasses.replace(options, out=scratch / "one", learning=Learning(batch="1")))
    toolchain.pio_run(scratch / "one")
    confirmed = sizes.measure(scratch / "one").to_json()
    many = dataclasses.replace(options, board=roomy if options.board == BOARD else options.board, out=scratch / "many")
    compile_model(many)
    result = asyncio.run(bench(scratch / "many"))
    assert result.training is not None
    cost = dataclasses.asdict(result.training)
    report = json.loads((scratch / "one" / "report.json").read_text())
    strips = report["patches"] or {"layers": [], "strips": 0, "recomputed_macs": 0}
    return {
        "strips": strips["strips"],
        "strip_layers": len(strips["layers"]),
        "recomputed_macs": strips["recomputed_macs"],
        "macs": result.bundle.macs,
        "backward_macs": macs,
        **cost,
        "instructions": sum(cost.values()),
        "arena_bytes": one.arena_bytes,
        "state_bytes": one.state_bytes,
        "ram_bytes": one.arena_bytes + one.state_bytes,
        "stack_bytes": confirmed["stack_bytes"]
        or result.stack_bytes,  # proven; without GCC's call graph, as it was seen
        "flash_bytes": confirmed["flash_bytes"],
        "fits": confirmed["fits"],
        "board": BOARD if fits else "qemu-m4-4mib",
    }


# ---- peers --------------------------------------------------------------------------------------------------------------


def peers(root: Path, pack: Any, scratch: Path, arithmetic: Any = "float") -> list[dict[str, Any]]:
    """Two rows a scheme: the first layers whole, and in strips."""
    rows = []
    for scheme, patches in itertools.product(SCHEMES.values(), ("none", str(STRIPS))):
        print(f"{scheme.title}, --patches {patches} ...", file=sys.stderr)
        spec = spec_of(root / "models" / "peers" / scheme.updates)
        options = Options(
            root / "models" / "peers" / scheme.model,
            BOARD,
            scratch,
            cut="none",
            calib=images(root, scratch),
            pack=pack,
            train=spec,
            train_arithmetic=arithmetic,
            patches=patches,
        )
        rows.append({"scheme": scheme.title, **measure(options, scratch, roomy_board(scratch))})
    return rows


def peers_table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| | MACs: forward | backward | instructions: forward | backward | per MAC | update | a step | arena, B | state, B | "
        "arena + state, B | stack, B | flash, B | board |",
        "| --- |" + " ---: |" * 12 + " --- |",
    ]
    for row in rows:
        how = f", {row['strip_layers']} layers in {row['strips']} strips" if row["strips"] else ""
        lines.append(
            f"| {row['scheme']}, tlc{how} | {row['macs']:,} | {row['backward_macs']:,} | {row['forward']:,} | {row['backward']:,} "
            f"| {row['backward'] / row['backward_macs']:.2f} | {row['update']:,} | **{row['instructions']:,}** "
            f"| {row['arena_bytes']:,} | {row['state_bytes']:,} | **{row['ram_bytes']:,}** | {row['stack_bytes']:,} "
            f"| {row['flash_bytes']:,} | `{row['board']}` |"
        )
    rest = PEER["instructions"] - PEER["forward"]
    lines.append(
        f"| {SCHEMES['mcunet'].title}, TinyEngine | | | {PEER['forward']:,} | {rest:,} with the update | | "
        f"| **{PEER['instructions']:,}** | | | **{PEER['ram_bytes']:,}** | {PEER['stack_bytes']:,} | {PEER['flash_bytes']:,} "
        f"| the same |"
    )
    return "\n".join(lines)


# ---- the ladder ---------------------------------------------------------------------------------------------------------


def _as_float(program: Program) -> int:
    """The arena of a program if activations were float32."""
    own = {gradient_name(name) for name in program.graph.tensors}
    own |= {scratch_name(step.name) for step in [*program.forward, *program.backward]}
    own |= {sum_name(entry.tensor) for entry in program.learned}
    for buffer in program.buffers.values():
        buffer.bytes *= 1 if buffer.name in own else 4
    return place(program.buffers.values())


def ladder(root: Path, pack: Any, scratch: Path) -> list[dict[str, Any]]:
    """From all in float32 to what we compile."""
    scheme = SCHEMES["mcunet"]
    model = root / "models" / "peers" / scheme.model
    graph, spec = device_graph(model), spec_of(root / "models" / "peers" / scheme.updates)
    whole = re.sub(r"\[[^\]]*\]", "", spec)  # all channels of each tensor that learns

    def planned(train: str, batch: Any, *, thrifty: bool) -> Program:
        return schedule(graph, differentiate(graph, parse_spec(graph, train), Learning(batch=batch)), thrifty=thrifty)

    full = planned("full", "many", thrifty=False)
    # A weight and its sum of gradients, as float32; biases as well.
    learned = sum(8 * entry.elements for entry in full.learned)
    rows: list[dict[str, Any]] = []
    int8, sparse = (planned(train, "many", thrifty=False) for train in ("full", whole))
    inner, ours = planned(whole, "1", thrifty=False), planned(spec, "1", thrifty=True)
    plan = differentiate(graph, parse_spec(graph, spec), Learning(batch="1"))
    strips = least(ours, STRIPS, lambda made: schedule(graph, plan, steps=ours.forward, strips=made), {})
    options = Options(
        model, roomy_board(scratch), scratch / "ladder", cut="none", calib=images(root, scratch), pack=pack
    )
    counted: dict[str, dict[str, int]] = {}
    for train in ("full", whole, spec):
        print(f"the ladder: {train[:40]} ...", file=sys.stderr)
        compile_model(dataclasses.replace(options, train=train))
        result = asyncio.run(bench(options.out))
        assert result.training is not None
        counted[train] = dataclasses.asdict(result.training)
    for title, arena, state, learns in (
        ("everything learns, float32 (planned, not run)", _as_float(full), align(learned), None),
        ("+ int8 weights and activations", int8.arena_bytes, int8.state_bytes, "full"),
        ("+ sparse: the scheme's tensors", sparse.arena_bytes, sparse.state_bytes, whole),
        ("+ updates inside the backward pass", inner.arena_bytes, inner.state_bytes, whole),
        ("ours: + slices, masks as bits", ours.arena_bytes, ours.state_bytes, spec),
        ("+ the first layers in strips (planned)", strips.arena_bytes, strips.state_bytes, None),
    ):
        of_step: dict[str, int] = counted[learns] if learns else {}
        rows.append({"step": title, "arena_bytes": arena, "state_bytes": state, **of_step})
    return rows


def ladder_table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| | arena, B | state, B | both, B | instructions: forward | backward | update |",
        "| --- |" + " ---: |" * 6,
    ]
    for row in rows:
        counts = [f"{row[key]:,}" if key in row else "" for key in ("forward", "backward", "update")]
        both = row["arena_bytes"] + row["state_bytes"]
        lines.append(
            f"| {row['step']} | {row['arena_bytes']:,} | {row['state_bytes']:,} | {both:,} | {' | '.join(counts)} |"
        )
    return "\n".join(lines)


# ---- boards -------------------------------------------------------------------------------------------------------------


def small(root: Path, pack: Any, scratch: Path) -> list[dict[str, Any]]:
    """A small network whose last layer learns, on three cores."""
    samples = scratch / "digits.npz"
    np.savez(samples, x=np.load(root / "mnist.npz")["x_train"][:100, ..., None].astype(np.float32) / 255)
    model = root / "models" / "trained" / "lenet5_mnist.onnx"
    rows = []
    for board in SMALL_BOARDS:
        print(f"{board} ...", file=sys.stderr)
        out: Path = scratch / board
        compile_model(Options(model, board, out, cut="none", calib=samples, pack=pack, train="last"))
        result = asyncio.run(bench(out))
        assert result.training is not None
        promise = result.bundle.certificate
        rows.append(
            {
                "board": board,
                **dataclasses.asdict(result.training),
                "arena_bytes": promise.arena_bytes,
                "state_bytes": promise.state_bytes,
                "stack_bytes": result.stack_bytes,
                "flash_bytes": result.elf["flash_bytes"],
            }
        )
    return rows


def small_table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| board | instructions: forward | backward | update | arena, B | state, B | stack, B | flash, B |",
        "| --- |" + " ---: |" * 7,
    ]
    keys = ("forward", "backward", "update", "arena_bytes", "state_bytes", "stack_bytes", "flash_bytes")
    lines += [f"| `{row['board']}` | {' | '.join(f'{row[key]:,}' for key in keys)} |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all without")
    parser.add_argument("--pack", default="none", choices=["none", "auto", "size"])
    parser.add_argument("--arithmetic", default="float", choices=["float", "int"], help="of the peers' schemes")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    root = os.environ.get("TLC_DATA")
    if not root:
        parser.error("TLC_DATA must name a directory with models/peers, but is not set")
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"no part '{part}': there are {', '.join(PARTS)}")
    toolchain.prepare_platformio()
    made: dict[str, tuple[Any, Any]] = {
        "peers": (peers, peers_table),
        "ladder": (ladder, ladder_table),
        "boards": (small, small_table),
    }
    found: dict[str, Any] = {}
    for part in options.parts or PARTS:
        run, table = made[part]
        with tempfile.TemporaryDirectory() as scratch:
            told: tuple[Any, ...] = (options.arithmetic,) if part == "peers" else ()
            found[part] = run(Path(root), options.pack, Path(scratch), *told)
        if not options.json:
            print(table(found[part]), end="\n\n")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
