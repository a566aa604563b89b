# SPDX-License-Identifier: Apache-2.0
"""Whether everything that runs an int8 model gives the same bytes.

    TLC_DATA=... python benchmarks/exactness.py [MODEL ...] [--stages reference,export,twin] [--samples N] [--json]

The oracle is TFLite Micro's interpreter on the model file itself. Each stage runs the same random inputs (int8, all
values; the first two are all -128 and all 127) and is compared with it byte for byte. ``TLC_DATA`` is a directory with
``models/mlperf_tiny/*_int8.tflite``. Exit code 1 where a single output differs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.frontends.tflite import read_tflite
from tlc.frontends.tflite_writer import write_tflite
from tlc.graph import Graph
from tlc.pipeline import Options, compile_model
from tlc.reference import run_int8
from tlc.twin import Twin

Int8 = NDArray[np.int8]


@dataclass(frozen=True)
class Job:
    """One model with its inputs, (samples, ...) each in the order of the graph's inputs."""

    path: Path
    graph: Graph
    inputs: list[Int8]

    def first(self, samples: int) -> Job:
        """The same with fewer samples."""
        return Job(self.path, self.graph, [x[:samples] for x in self.inputs])


def interpret(model: bytes, job: Job) -> list[Int8]:
    """TFLite Micro's interpreter: each output, (samples, ...)."""
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(model)
    rows: list[list[Int8]] = [[] for _ in job.graph.outputs]
    for sample in zip(*job.inputs, strict=True):
        for index, value in enumerate(sample):
            interpreter.set_input(value[None], index)
        interpreter.invoke()
        for index, row in enumerate(rows):
            row.append(interpreter.get_output(index)[0].copy())
    return [np.stack(row) for row in rows]


# ---- stages: a job to its outputs ------------------------------------------------------------------------------------


def reference(job: Job) -> list[Int8]:
    """The NumPy reference on the graph as it was read."""
    outputs = run_int8(job.graph, dict(zip(job.graph.inputs, job.inputs, strict=True)))
    return [outputs[name] for name in job.graph.outputs]


def export(job: Job) -> list[Int8]:
    """TFLite Micro's interpreter on the model read and written again."""
    return interpret(write_tflite(job.graph), job)


def twin(job: Job) -> list[Int8]:
    """The compiled model's C as a shared library in this process, all of it on the device."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "project"
        compile_model(Options(job.path, "native", out, cut="none"))
        return [np.asarray(output) for output in Twin(out).forward(*job.inputs)]


@dataclass(frozen=True)
class Stage:
    """A way to run a model; ``samples`` bounds how many inputs a slow one gets."""

    run: Callable[[Job], list[Int8]]
    samples: int | None = None


STAGES = {"reference": Stage(reference), "export": Stage(export), "twin": Stage(twin)}


# ---- comparison ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """How one stage did on one model."""

    model: str
    stage: str
    samples: int
    values: int
    different_samples: int
    different_values: int
    seconds: float


def compare(stage: str, job: Job, expected: Sequence[Int8]) -> Result:
    """Runs one stage and counts what differs from the oracle."""
    limit = STAGES[stage].samples
    samples = min(len(job.inputs[0]), limit or len(job.inputs[0]))
    start = time.perf_counter()
    outputs = STAGES[stage].run(job.first(samples))
    seconds = time.perf_counter() - start
    pairs = [(y.reshape(samples, -1), e[:samples].reshape(samples, -1)) for y, e in zip(outputs, expected, strict=True)]
    wrong = np.concatenate([y != e for y, e in pairs], axis=1)
    return Result(
        job.path.stem, stage, samples, wrong.size, int(wrong.any(axis=1).sum()), int(wrong.sum()), round(seconds, 2)
    )


def load(path: Path, samples: int, seed: int) -> Job:
    """A model and its inputs."""
    graph = read_tflite(path)
    rng = np.random.default_rng(seed)
    inputs = [rng.integers(-128, 128, (samples, *graph[name].shape[1:]), np.int8) for name in graph.inputs]
    for x in inputs:
        x[:1], x[1:2] = -128, 127
    return Job(path, graph, inputs)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="names of models, such as kws_int8; all of them without")
    parser.add_argument("--stages", default=",".join(STAGES), help=f"of {', '.join(STAGES)}")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    root = os.environ.get("TLC_DATA")
    if not root:
        parser.error("TLC_DATA must name a directory with models/mlperf_tiny/*_int8.tflite, but is not set")
    paths = {path.stem: path for path in sorted((Path(root) / "models" / "mlperf_tiny").glob("*_int8.tflite"))}
    stages = options.stages.split(",")
    for name in options.models:
        if name not in paths:
            parser.error(f"no model '{name}' in {root}: there are {', '.join(paths)}")
    for name in stages:
        if name not in STAGES:
            parser.error(f"no stage '{name}': there are {', '.join(STAGES)}")
    if not paths or options.samples < 1:
        parser.error(f"nothing to do: {len(paths)} models in {root}, {options.samples} samples")

    results: list[Result] = []
    for name in options.models or paths:
        job = load(paths[name], options.samples, options.seed)
        expected = interpret(job.path.read_bytes(), job)
        for stage in stages:
            result = compare(stage, job, expected)
            results.append(result)
            if not options.json:
                verdict = "equal" if not result.different_samples else f"{result.different_samples} samples DIFFER"
                print(f"{name:24} {stage:10} {result.samples:6} samples {result.seconds:8.2f} s  {verdict}", flush=True)
    exact = not any(result.different_samples for result in results)
    if options.json:
        report: dict[str, Any] = {"exact": exact, "results": [asdict(result) for result in results]}
        print(json.dumps(report, indent=2))
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
