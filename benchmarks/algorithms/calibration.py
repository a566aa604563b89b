# SPDX-License-Identifier: Apache-2.0
"""The split-learning algorithms on twins of the compiled int8 device.

    TLC_DATA=<data directory> python benchmarks/algorithms/calibration.py [--seeds 5] [--only psl,epsl-0.5] [--column fashion-iid]

``TLC_DATA`` holds ``fashion_mnist.npz`` and ``mnist.npz`` (x_train, y_train, x_test, y_test; uint8 images of 28 x 28).

Network: conv 3x3x8 stride 2, ReLU, conv 3x3x16 stride 2, ReLU | cut: 7x7x16 int8 | dense 64, ReLU, dense 10. He initialisation, zero
biases, inputs x/255. Five devices, each a random fifth (IID), or of each class a part by Dirichlet(0.3); batch 16, SGD 0.05 on both
halves; a round is 100 batches a device; 10 rounds on Fashion-MNIST, 8 on MNIST. Both convolutions learn on the device: float32
gradients on int8 weights whose scales are those at the start, with stochastic rounding; activations are int8 throughout, gradients come as
int8. Accuracy is the mean over the devices' T with the one L, on the whole test set.

Results are appended to ``--results`` (JSON lines); what is there is not run again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tlc.builder import Builder
from tlc.frontends.onnx_writer import write_onnx
from tlc.ops.base import Activation
from tlc.pipeline import Options, compile_model
from tlc.twin import TwinLibrary
from tlc_host.averaging import Weights
from tlc_host.cohort import TwinDevice
from tlc_host.config import plan
from tlc_host.loop import Loop
from tlc_host.serve import assemble
from tlc_host.server_model import ServerModel
from tlc_host.server_worker import ServerWorker
from tlc_host.shards import Shard, deal
from tlc_host.weights import pack

DEVICES = 5
COLUMNS: dict[str, tuple[str, str, int]] = {
    "fashion-iid": ("fashion_mnist.npz", "iid", 10),
    "fashion-dir": ("fashion_mnist.npz", "dirichlet", 10),
    "mnist-dir": ("mnist.npz", "dirichlet", 8),
}
ROWS: dict[str, dict[str, Any]] = {
    "central": {"algorithm": "vsl", "batches": 500},
    "vsl": {"algorithm": "vsl"},
    "psl": {"algorithm": "psl"},
    "edgesplit": {"algorithm": "edgesplit"},
    "splitfed-v1": {"algorithm": "splitfed-v1"},
    "splitfed-v2": {"algorithm": "splitfed-v2"},
    "epsl-0.5": {"algorithm": "epsl", "phi": 0.5},
    "epsl-1": {"algorithm": "epsl", "phi": 1.0},
}


def project(work: Path, data: str, images: np.ndarray, seed: int) -> Path:
    """The compiled network with a seed's initial weights."""
    out = work / f"{Path(data).stem}-{seed}"
    if out.exists():
        return out
    net = Builder("calibration", (1, 28, 28, 1), seed=seed)
    net.conv2d(8, 3, stride=2, activation=Activation.RELU)
    cut = net.conv2d(16, 3, stride=2, activation=Activation.RELU)
    net.flatten()
    net.dense(64, activation=Activation.RELU)
    net.dense(10)
    net.softmax()
    model, calib = work / f"{out.name}.onnx", work / f"{out.name}.npz"
    model.write_bytes(write_onnx(net.graph()).SerializeToString())
    np.savez(calib, x=images[:256, ..., None].astype(np.float32) / 255)
    compile_model(Options(model, "native", out, cut=cut, calib=calib, train="full"))
    return out


def accuracy(library: TwinLibrary, server: ServerModel, kept: list[Weights], test: Shard) -> float:
    """The mean over device parts that differ."""
    packed = [pack(library.bundle, weights) for weights in kept]
    found: dict[bytes, float] = {}
    for raw in set(packed):
        twin = library.create()
        twin.set_params(raw)
        z = twin.forward(test.inputs)[0]
        logits = np.concatenate([server.forward(part, logits=True) for part in np.array_split(z, 10)])
        found[raw] = float((logits.reshape(len(z), -1).argmax(1) == test.labels).mean())
    return float(np.mean([found[raw] for raw in packed]))


async def run(out: Path, row: str, how: str, rounds: int, seed: int, whole: Shard, test: Shard) -> dict[str, Any]:
    library, server = TwinLibrary(out), ServerModel(out)
    count = 1 if row == "central" else DEVICES
    shards = deal(whole, count, "iid" if row == "central" else how, seed=0)  # type: ignore[arg-type]
    settings = plan(
        {"rounds": rounds, "batches": 100, "batch": 16, "lr": 0.05, "seed": seed, "exchange": "batch", **ROWS[row]}
    )
    devices = [TwinDevice(library.create(number + 1), f"twin {number + 1}") for number in range(count)]
    began = time.monotonic()
    async with ServerWorker(server) as worker:
        loop: Loop = assemble(settings, worker, devices, shards)
        async for event in loop.events():
            if hasattr(event, "devices"):
                print(
                    f"    round {event.round + 1}: loss {event.loss:.3f}, {event.accuracy:.1%}",
                    file=sys.stderr,
                    flush=True,
                )
        members = loop.cohort.members
        kept = [member.kept for member in members if member.kept is not None]
        if row == "vsl":  # one T, which has been with each
            kept = kept[-1:]
        reached = await worker.call(accuracy, library, server, kept, test)
    return {"accuracy": reached, "seconds": time.monotonic() - began}


def table(results: list[dict[str, Any]]) -> None:
    """Mean and range over the seeds."""
    print("| | " + " | ".join(COLUMNS) + " |\n| --- |" + " ---: |" * len(COLUMNS))
    for row in ROWS:
        cells = []
        for column in COLUMNS:
            found = [100 * r["accuracy"] for r in results if (r["row"], r["column"]) == (row, column)]
            if not found:
                cells.append("")
            elif len(found) == 1:
                cells.append(f"{found[0]:.1f} (1)")
            else:
                cells.append(f"{np.mean(found):.1f} ({min(found):.1f} to {max(found):.1f}, {len(found)})")
        print(f"| {row} | " + " | ".join(cells) + " |")


def main() -> None:
    """Runs what is not there yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default=",".join(ROWS))
    parser.add_argument("--column", default=",".join(COLUMNS))
    parser.add_argument("--work", type=Path, default=Path("build/calibration"))
    parser.add_argument("--results", type=Path, default=Path("build/calibration/results.jsonl"))
    options = parser.parse_args()
    if "TLC_DATA" not in os.environ:
        parser.error("set TLC_DATA to the data directory")
    options.work.mkdir(parents=True, exist_ok=True)
    results = (
        [json.loads(line) for line in options.results.read_text().splitlines()] if options.results.exists() else []
    )
    done = {(r["row"], r["column"], r["seed"]) for r in results}
    for seed in range(options.seeds):
        for column in options.column.split(","):
            data, how, rounds = COLUMNS[column]
            with np.load(Path(os.environ["TLC_DATA"]) / data) as arrays:
                x, y, x_test, y_test = (arrays[name] for name in ("x_train", "y_train", "x_test", "y_test"))
            out = project(options.work, data, x, seed)
            edge = TwinLibrary(out).bundle.inputs[0]

            def quantized(images: np.ndarray, edge: Any = edge) -> np.ndarray:
                real = images[..., None].astype(np.float32) / 255
                return np.asarray(edge.to_device(real.reshape(len(images), *edge.file_shape[1:])))

            whole, test = Shard(quantized(x), y.astype(np.int64)), Shard(quantized(x_test), y_test.astype(np.int64))
            for row in options.only.split(","):
                if (row, column, seed) in done:
                    continue
                found = asyncio.run(run(out, row, how, rounds, seed, whole, test))
                result = {"row": row, "column": column, "seed": seed, **found}
                print(json.dumps(result), file=sys.stderr, flush=True)
                results.append(result)
                with options.results.open("a") as file:
                    file.write(json.dumps(result) + "\n")
    table(results)


if __name__ == "__main__":
    main()
