# SPDX-License-Identifier: Apache-2.0
"""Federated averaging, centralized and by gossip, of a dense layer with softmax that is all on the device and computes its own loss.

    TLC_DATA=<data directory> python benchmarks/algorithms/topologies.py [--seeds 5]

``TLC_DATA`` holds ``mnist.npz``. Eight twins, each a random eighth of the training set; batch 16, SGD, 100 batches a device and round,
eight rounds; int8 weights that begin at random. Accuracy is the mean over the devices on the whole test set, and the lowest one's.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tlc.builder import Builder
from tlc.frontends.onnx_writer import write_onnx
from tlc.learning import Learning
from tlc.pipeline import Options, compile_model
from tlc.twin import TwinLibrary
from tlc_host.algorithms.base import RoundDone
from tlc_host.cohort import TwinDevice
from tlc_host.config import plan
from tlc_host.serve import assemble
from tlc_host.server_model import ServerModel
from tlc_host.server_worker import ServerWorker
from tlc_host.shards import Shard, deal
from tlc_host.weights import pack

DEVICES = 8
ROWS: dict[str, dict[str, Any]] = {
    "alone": {"algorithm": "local"},
    "centralized: FedAvg": {"algorithm": "fedavg"},
    "centralized: FedAsync": {"algorithm": "fedasync"},
    "gossip, everyone": {"algorithm": "gossip", "topology": "full"},
    "gossip, ring": {"algorithm": "gossip", "topology": "ring"},
    "gossip, line": {"algorithm": "gossip", "topology": "line"},
}


def project(work: Path, seed: int, images: np.ndarray) -> Path:
    net = Builder("dense", (1, 784), seed=seed)
    net.dense(10)
    net.softmax()
    model, calib, out = work / f"{seed}.onnx", work / "calib.npz", work / f"project-{seed}"
    model.write_bytes(write_onnx(net.graph()).SerializeToString())
    np.savez(calib, x=images[:256].reshape(-1, 784).astype(np.float32) / 255)
    learning = Learning(loss="softmax-ce")
    compile_model(Options(model, "native", out, cut="none", calib=calib, train="full", learning=learning))
    return out


async def run(out: Path, settings: dict[str, Any], seed: int, whole: Shard, test: Shard) -> tuple[list[float], float]:
    library = TwinLibrary(out)
    chosen = plan({"rounds": 8, "batches": 100, "batch": 16, "lr": 0.05, "seed": seed, **settings})
    devices = [TwinDevice(library.create(number + 1), f"twin {number + 1}") for number in range(DEVICES)]
    began = time.monotonic()
    async with ServerWorker(ServerModel(out)) as worker:
        loop = assemble(chosen, worker, devices, deal(whole, DEVICES, "iid", seed=seed))
        rounds = [event async for event in loop.events() if isinstance(event, RoundDone)]
    assert not any(done.left_out for done in rounds)
    seconds, found = time.monotonic() - began, []
    for member in loop.cohort.members:
        twin = library.create()
        twin.set_params(pack(library.bundle, await member.device.get()))
        found.append(float((twin.forward(test.inputs)[0].reshape(len(test), -1).argmax(1) == test.labels).mean()))
    return found, seconds


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    if "TLC_DATA" not in os.environ:
        parser.error("set TLC_DATA to the data directory")
    with np.load(Path(os.environ["TLC_DATA"]) / "mnist.npz") as arrays:
        x, y, x_test, y_test = (arrays[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    print("| topology | mean, % | lowest device of all seeds, % | s a run |\n| --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as work:
        projects = [project(Path(work), seed, x) for seed in range(options.seeds)]
        edge = TwinLibrary(projects[0]).bundle.inputs[0]
        whole, test = (
            Shard(edge.to_device(images.reshape(-1, 784).astype(np.float32) / 255), labels.astype(np.int64))
            for images, labels in ((x, y), (x_test, y_test))
        )
        for name, settings in ROWS.items():
            runs = [asyncio.run(run(out, settings, seed, whole, test)) for seed, out in enumerate(projects)]
            found = [100 * accuracy for accuracies, _ in runs for accuracy in accuracies]
            seconds = np.mean([seconds for _, seconds in runs])
            print(f"| {name} | {np.mean(found):.1f} | {min(found):.1f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
