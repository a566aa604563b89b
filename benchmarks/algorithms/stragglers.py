# SPDX-License-Identifier: Apache-2.0
"""Federated averaging where one of eight devices is ten times slower: who waits, who leaves it out, and who does not wait.

    TLC_DATA=<data directory> python benchmarks/algorithms/stragglers.py [--seeds 1] [--slower 10] [--until 4000]

``TLC_DATA`` holds ``mnist.npz``. A dense layer with softmax that is all on the device and computes its own loss (784 to 10, int8 weights that
begin at random, SGD 0.05, batch 16), on eight twins; 20 batches between two exchanges. Shares are random eighths, or of each class a part by
Dirichlet(0.3).

Time is simulated: the event loop's clock leaps to the next timer, a step takes a second, ten on the slow device (the one with most samples); the
link takes none. So the figures are those of any machine, and the same again from the same seed. Accuracy is that of the server's T on the whole test
set, after each round (of FedAsync: after eight updates).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import selectors
import tempfile
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
from topologies import project

from tlc.twin import Twin, TwinLibrary
from tlc_host.algorithms.base import RoundDone
from tlc_host.algorithms.fedasync import FedAsync
from tlc_host.averaging import Weights
from tlc_host.cohort import TwinDevice
from tlc_host.config import plan
from tlc_host.loop import Loop
from tlc_host.serve import assemble
from tlc_host.server_model import ServerModel
from tlc_host.server_worker import ServerWorker
from tlc_host.shards import Shard, deal
from tlc_host.weights import pack

DEVICES, BATCHES, STEP_S = 8, 20, 1.0
TARGETS = (80, 85, 87, 88)
ROWS: dict[str, dict[str, Any]] = {
    "FedAvg": {"algorithm": "fedavg"},
    "FedAvg, who is late is left out": {"algorithm": "fedavg", "deadline_s": 1.5 * BATCHES * STEP_S},
    "FedAsync": {"algorithm": "fedasync"},
    "FedAsync, a = 0": {"algorithm": "fedasync", "a": 0.0},
}


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock leaps to the next timer where it would wait."""

    def __init__(self) -> None:
        self.now = 0.0
        loop = self

        class Leaping(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
            def select(self, timeout: float | None = None) -> Any:
                if timeout is not None and timeout > 0:
                    loop.now += timeout
                    timeout = 0
                return super().select(timeout)

        super().__init__(Leaping())

    def time(self) -> float:
        """Simulated seconds."""
        return self.now


class Paced(TwinDevice):
    """A twin whose steps take time."""

    pace = STEP_S

    async def learn(self, samples: Shard, learning_rate: float) -> tuple[float, int]:
        await asyncio.sleep(self.pace)
        return await super().learn(samples, learning_rate)


def common(loop: Loop) -> Weights:
    """The server's T."""
    algorithm = loop.algorithm
    kept = loop.cohort.present[0].kept
    assert kept is not None
    if isinstance(algorithm, FedAsync):
        return {name: np.rint(value).astype(kept[name].dtype) for name, value in algorithm.current.items()}
    return kept


def accuracy(twin: Twin, weights: Weights, test: Shard) -> float:
    twin.set_params(pack(twin.bundle, weights))
    return 100 * float((twin.forward(test.inputs)[0].reshape(len(test), -1).argmax(1) == test.labels).mean())


async def run(
    out: Path, settings: dict[str, Any], seed: int, shards: list[Shard], test: Shard, slower: float, until: float
) -> list[tuple[float, float]]:
    """Simulated seconds and accuracy after each round."""
    library = TwinLibrary(out)
    rounds = int(until / (BATCHES * STEP_S)) + 1  # more than there is time for
    chosen = plan({"rounds": rounds, "batches": BATCHES, "batch": 16, "lr": 0.05, "seed": seed, **settings})
    devices = [Paced(library.create(number + 1), f"twin {number + 1}") for number in range(DEVICES)]
    devices[max(range(DEVICES), key=lambda number: len(shards[number]))].pace = slower * STEP_S
    judge, found = library.create(), []
    async with ServerWorker(ServerModel(out)) as worker:
        loop = assemble(chosen, worker, devices, shards)
        async with aclosing(loop.events()) as events:
            async for event in events:
                if isinstance(event, RoundDone):
                    now = asyncio.get_running_loop().time()
                    if now > until:
                        break
                    found.append((now, accuracy(judge, common(loop), test)))
    return found


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--slower", type=float, default=10.0)
    parser.add_argument("--until", type=float, default=4000.0, help="simulated seconds")
    options = parser.parse_args()
    if "TLC_DATA" not in os.environ:
        parser.error("set TLC_DATA to the data directory")
    with np.load(Path(os.environ["TLC_DATA"]) / "mnist.npz") as arrays:
        x, y, x_test, y_test = (arrays[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    with tempfile.TemporaryDirectory() as work:
        projects = [project(Path(work), seed, x) for seed in range(options.seeds)]
        edge = TwinLibrary(projects[0]).bundle.inputs[0]
        whole, test = (
            Shard(edge.to_device(images.reshape(-1, 784).astype(np.float32) / 255), labels.astype(np.int64))
            for images, labels in ((x, y), (x_test, y_test))
        )
        for how in ("iid", "dirichlet"):
            heads = [*(f"s to {target}%" for target in TARGETS), f"% after {options.until:g} s", "rounds"]
            print(f"\n{how}\n\n| | {' | '.join(heads)} |\n| --- |{' ---: |' * len(heads)}")
            for name, settings in ROWS.items():
                cells: list[list[float]] = []
                for seed, out in enumerate(projects):
                    shards = deal(whole, DEVICES, how, seed=seed)  # type: ignore[arg-type]
                    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
                        found = runner.run(run(out, settings, seed, shards, test, options.slower, options.until))
                    times = [next((now for now, got in found if got >= target), np.inf) for target in TARGETS]
                    cells.append([*times, found[-1][1], len(found)])
                *times, last, count = np.median(cells, axis=0)
                shown = [f"{time:,.0f}" if np.isfinite(time) else "never" for time in times]
                print(f"| {name} | {' | '.join(shown)} | {last:.1f} | {count:.0f} |", flush=True)


if __name__ == "__main__":
    main()
