# SPDX-License-Identifier: Apache-2.0
"""What a device learns: five ways to update an int8 network on the device, against none and against float on the host.

    TLC_DATA=... python -m benchmarks.learning [TASK ...] [--seeds N] [--cache DIR] [--table FILE]
    TLC_DATA=... python -m benchmarks.learning [TASK ...] --tune

Every network is trained here, exported to ONNX, compiled by ``tlc compile --cut none`` (all of it on the device, which computes the
loss from labels by itself), and adapts as its twin, the generated C, to data that it was not trained for. All ways see the same
samples in the same order, eight to a step. ``--tune`` tries three learning rates for each way on a seed of its own, and writes the best
to rates.json. What was measured is kept in the cache, so that a run can be continued, or shared by processes. ``TLC_DATA`` is a
directory with the data sets that the tasks' files name; ``exercises`` needs the package seglearn.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tlc.frontends.onnx_writer import write_onnx

from . import classes, exercises, fashion, networks, rotated, speaker
from .methods import BATCH, METHODS, SHARE, Method, Variant, accuracy, compile_variant, learn_float, learn_int8
from .table import tables
from .task import SEEDS, TUNING, Setting, Task

TASKS = {task.name: task for task in (speaker.TASK, exercises.TASK, fashion.TASK, *rotated.TASKS, *classes.TASKS)}
RATES = Path(__file__).with_name("rates.json")
NO_LIMIT = 10**12


class Run:
    """One task with one seed.

    Args:
        task: what is learned.
        seed: of everything that is drawn.
        cache: where networks and results are kept.
        scratch: where projects are written.
    """

    def __init__(self, task: Task, seed: int, cache: Path, scratch: Path) -> None:
        self.task, self.seed, self.cache, self.scratch = task, seed, cache, scratch
        self._setting: Setting | None = None
        self._variants: dict[str, Variant] = {}

    @property
    def setting(self) -> Setting:
        """The data, when it is needed."""
        if self._setting is None:
            self._setting = self.task.setting(self.seed)
        return self._setting

    def model(self) -> Path:
        """The trained network, once."""
        path = self.cache / f"{self.task.pretrained_as or self.task.name}-{self.seed}.onnx"
        if not path.exists():
            graph = networks.pretrain(self.task.network(self.seed), self.setting.pretrain, self.task.epochs, self.seed)
            path.write_bytes(write_onnx(graph).SerializeToString())
        return path

    def variant(self, method: Method) -> Variant:
        """A compiled network, once."""
        if method.name not in self._variants:
            options: dict[str, Any] = {} if method.train == "none" else {"train_macs": NO_LIMIT}
            if method.train == "auto":
                options["train_ram"] = self.extra(self.variant(METHODS["full"])) // SHARE
            out = self.scratch / f"{self.task.name}-{self.seed}-{method.name}"
            self._variants[method.name] = compile_variant(
                self.model(), self.setting.calibration, out, method, **options
            )
        return self._variants[method.name]

    def extra(self, variant: Variant) -> int:
        """Bytes of RAM beyond inference."""
        return variant.ram - self.variant(METHODS["none"]).ram

    def measure(self, method: Method, rate: float) -> dict[str, Any]:
        """What the method reaches, and what it takes."""
        started = time.monotonic()
        found: dict[str, Any] = {"task": self.task.name, "method": method.name, "seed": self.seed, "rate": rate}
        if method.train:
            variant = self.variant(method)
            training = variant.compiled.training
            found["extra_ram"] = self.extra(variant)
            found["backward_macs"] = training.used.macs if training else 0
            found["learned"] = [tensor.name for tensor in variant.compiled.bundle.learned]
            learned: Any = learn_int8(variant, self.setting.adapt, self.task.steps if rate else 0, rate, self.seed)
        else:
            learned = learn_float(self.model(), self.setting.adapt, self.task.steps, rate, self.seed)
        found["accuracy"] = {name: accuracy(learned, test) for name, test in self.setting.tests.items()}
        found["steps"] = self.task.steps
        found["seconds"] = round(time.monotonic() - started, 1)
        return found


def cached(run: Run, method: Method, rate: float) -> dict[str, Any]:
    """The result of the cache, or measured now."""
    tried = f"-{rate:g}" if run.seed == TUNING else ""
    path = run.cache / f"{run.task.name}-{method.name}-{run.seed}{tried}.json"
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text())
        if (kept["rate"], kept["steps"]) == (rate, run.task.steps):
            return kept
    found = run.measure(method, rate)
    path.write_text(json.dumps(found) + "\n")
    what = ", ".join(f"{name} {value:.1f}" for name, value in found["accuracy"].items())
    print(
        f"{run.task.name} {method.name} seed {run.seed} rate {rate:g}: {what} ({found['seconds']} s)", file=sys.stderr
    )
    return found


def tune(run: Run, methods: list[Method]) -> dict[str, float]:
    """The best rate of each method by the task's first figure, the smaller of equals."""
    best = {}
    for method in methods:
        if method.rates:
            reached = {rate: cached(run, method, rate)["accuracy"] for rate in method.rates}
            best[method.name] = max(method.rates, key=lambda rate: next(iter(reached[rate].values())))
    return best


def main() -> None:
    """Runs what is not in the cache, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--methods", default=",".join(METHODS), help="the default: %(default)s")
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--cache", type=Path, default=Path("build/learning"))
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--table", type=Path, help="write the tables (Markdown) there, not to the terminal")
    arguments = parser.parse_args()
    if "TLC_DATA" not in os.environ:
        sys.exit("set TLC_DATA to the directory with the data sets")
    wrong = (set(arguments.tasks) - set(TASKS)) | (set(arguments.methods.split(",")) - set(METHODS))
    if wrong:
        sys.exit(f"no such task or method: {', '.join(sorted(wrong))}; known: {', '.join([*TASKS, *METHODS])}")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tasks = [TASKS[name] for name in arguments.tasks or TASKS]
    if not arguments.tune and not RATES.exists():
        sys.exit(f"there are no learning rates in {RATES}: run with --tune first")
    methods = [METHODS[name] for name in arguments.methods.split(",")]
    arguments.cache.mkdir(parents=True, exist_ok=True)
    results = []
    if arguments.tune:
        tasks = [task for task in tasks if task.tuned_as in ("", task.name)]
    for seed in [TUNING] if arguments.tune else SEEDS[: arguments.seeds]:
        for task in tasks:
            with tempfile.TemporaryDirectory() as scratch:
                run = Run(task, seed, arguments.cache, Path(scratch))
                if arguments.tune:
                    best = tune(run, methods)
                    rates = (
                        json.loads(RATES.read_text()) if RATES.exists() else {}
                    )  # another process may have written it
                    rates[task.name] = {**rates.get(task.name, {}), **best}
                    RATES.write_text(json.dumps(rates, indent=2) + "\n")
                    continue
                rates = json.loads(RATES.read_text())[task.tuned_as or task.name]
                results += [cached(run, method, rates.get(method.name, 0.0)) for method in methods]
    if results:
        text = tables(results, {task.name: task for task in tasks}, BATCH)
        if arguments.table:
            arguments.table.write_text(text)
        else:
            print(text)


if __name__ == "__main__":
    main()
