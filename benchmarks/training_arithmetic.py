# SPDX-License-Identifier: Apache-2.0
"""A training step in float32 and in integers, with dynamic and static scales, side by side: instructions per backward MAC, and RAM.

    python benchmarks/training_arithmetic.py [demo|mcunet|mbv2 ...] [--board qemu-m4] [--pack none] [--json]

``demo`` is the digits network of examples/digits: its two convolutions, of which the second learns (as ``make demo`` has it), and
all of both. ``mcunet`` and ``mbv2`` are the networks and update schemes of benchmarks/training.py; they want ``TLC_DATA``, and run
on the board with all of the emulated machine's memory. Instructions are those that ``tlc bench`` counts on one random sample,
apart where gradients are summed up (``many``), and of the whole step where updates stand inside the backward pass (``1``), which is
where static scales are those of weights' gradients too. RAM is arena and state, from the certificate. Classes of the calibration
samples are random: they decide shifts, not how many.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from training import SCHEMES, images, roomy_board, spec_of

from tlc import toolchain
from tlc.builder import Builder
from tlc.frontends import read_model
from tlc.frontends.onnx_writer import write_onnx
from tlc.learning import Learning
from tlc.ops.base import Activation
from tlc.passes.backward import differentiate
from tlc.passes.canonicalize import canonicalize
from tlc.passes.quantize import quantize
from tlc.passes.select import parse_spec
from tlc.passes.select_auto import backward_macs
from tlc.passes.split import cut_named, split
from tlc.pipeline import Options, compile_model
from tlc_host.bench import bench

NAMES = ("demo", "mcunet", "mbv2")
BATCHES: tuple[Literal["1", "many"], ...] = ("1", "many")
ARITHMETICS: dict[str, tuple[Literal["float", "int"], Literal["dynamic", "static"]]] = {
    "float": ("float", "dynamic"),
    "int": ("int", "dynamic"),
    "int, static scales": ("int", "static"),
}


def demo(scratch: Path) -> tuple[Path, Path]:
    """The digits network, untrained, and samples: weights' values change no count but that of zeros."""
    net = Builder("digits", (1, 28, 28, 1), seed=0)
    net.conv2d(8, 3, stride=2, activation=Activation.RELU)
    net.conv2d(16, 3, stride=2, activation=Activation.RELU)
    net.flatten()
    net.dense(64, activation=Activation.RELU)
    net.dense(10)
    net.softmax()
    model, samples = scratch / "digits.onnx", scratch / "digits.npz"
    onnx.save(write_onnx(net.graph()), model)
    rng = np.random.default_rng(0)
    np.savez(samples, x=rng.random((32, 28, 28, 1), np.float32), y=rng.integers(0, 10, 32))
    return model, samples


def cases(name: str, board: str, scratch: Path) -> list[tuple[str, Options]]:
    """Title and options of each network and choice."""
    if name == "demo":
        model, samples = demo(scratch)
        options = Options(model, board, scratch, cut="conv2d_1_out/nchw", calib=samples)
        titles = {"last": "demo, second convolution", "full": "demo, both convolutions"}
        return [(title, dataclasses.replace(options, train=spec)) for spec, title in titles.items()]
    root = Path(os.environ["TLC_DATA"])
    scheme = SCHEMES[name]
    peers = root / "models" / "peers"
    options = Options(
        peers / scheme.model, roomy_board(scratch), scratch, cut="none", calib=labelled(images(root, scratch)),
        train=spec_of(peers / scheme.updates),
    )  # fmt: skip
    return [(scheme.title, options)]


def labelled(samples: Path) -> Path:
    """With classes, any ones."""
    x = np.load(samples)["x"]
    np.savez(samples, x=x, y=np.random.default_rng(0).integers(0, 2, len(x)))
    return samples


def count_macs(options: Options) -> int:
    """Of one backward pass."""
    graph = canonicalize(read_model(options.model, {}))
    device, _ = split(graph, cut_named(graph, options.cut))
    device = quantize(device, dict.fromkeys(device.tensors, (-1.0, 1.0)))
    return backward_macs(device, differentiate(device, parse_spec(device, options.train)))


def measure(name: str, board: str, pack: Any, scratch: Path) -> list[dict[str, Any]]:
    """A row for each choice and arithmetic."""
    rows = []
    for title, options in cases(name, board, scratch):
        for way, (arithmetic, scales) in ARITHMETICS.items():
            print(f"{title}, {way} ...", file=sys.stderr)
            results, promises = [], []
            for batch in BATCHES:
                learning = Learning(batch, scales=scales)
                made = dataclasses.replace(
                    options,
                    pack=pack,
                    train_arithmetic=arithmetic,
                    learning=learning,
                    out=scratch / f"{arithmetic}{batch}",
                )
                promises.append(compile_model(made).bundle.certificate)
                results.append(asyncio.run(bench(made.out)))
            result, (once, promise) = results[1], promises
            assert result.training is not None and results[0].training is not None
            rows.append(
                {
                    "title": title,
                    "arithmetic": way,
                    "macs": result.bundle.macs,
                    "backward_macs": count_macs(options),
                    **dataclasses.asdict(result.training),
                    "ram_bytes": promise.arena_bytes + promise.state_bytes,
                    "once": sum(dataclasses.asdict(results[0].training).values()),
                    "once_bytes": once.arena_bytes + once.state_bytes,
                    "stack_bytes": result.stack_bytes,
                }
            )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| | arithmetic | backward MACs | instructions: forward | backward | per MAC | update | a step | with `--train-batch 1` "
        "| arena + state, B | with `--train-batch 1` | stack, B |",
        "| --- | --- |" + " ---: |" * 10,
    ]
    for row in rows:
        step = row["forward"] + row["backward"] + row["update"]
        lines.append(
            f"| {row['title']} | {row['arithmetic']} | {row['backward_macs']:,} | {row['forward']:,} | {row['backward']:,} "
            f"| {row['backward'] / row['backward_macs']:.2f} | {row['update']:,} | {step:,} | {row['once']:,} | {row['ram_bytes']:,} "
            f"| {row['once_bytes']:,} | {row['stack_bytes']:,} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; demo without")
    parser.add_argument("--board", default="qemu-m4", help="of the demo (default: qemu-m4)")
    parser.add_argument("--pack", default="none", choices=["none", "auto", "size"])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = options.names or ["demo"]
    for name in names:
        if name not in NAMES:
            parser.error(f"no network '{name}': there are {', '.join(NAMES)}")
        if name != "demo" and not os.environ.get("TLC_DATA"):
            parser.error("TLC_DATA must name a directory with models/peers, but is not set")
    toolchain.prepare_platformio()
    rows = []
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            rows += measure(name, options.board, options.pack, Path(scratch))
    print(json.dumps(rows) if options.json else table(rows))


if __name__ == "__main__":
    main()
