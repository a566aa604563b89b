# SPDX-License-Identifier: Apache-2.0
"""Whether everything that runs a model gives the same bytes, and how far the int8 network is from the float one.

    TLC_DATA=... python benchmarks/exactness.py [MODEL ...] [--parts int8,float,cuts] [--stages ...] [--samples N] [--json]

``TLC_DATA`` is a directory with ``models/{mlperf_tiny,trained,peers}`` and data sets. Exit code 1 where anything differs.

**int8**: each ``*_int8.tflite``, all of it on the device. The oracle is TFLite Micro's interpreter on the file itself. Each
stage runs the same inputs (all -128, all 127, real ones where there is a data set, then random ones) and is compared byte for
byte: ``reference`` (NumPy), ``export`` (the interpreter on what our writer made of it), ``twin`` (the generated C on this
machine), ``qemu-m4`` and ``qemu-rv32`` (the firmware in an emulator, on the first ``--emulated`` inputs).

**float**: each float ONNX file, quantized with calibration data. The canonical float graph must give what ONNX Runtime gives on
the file (to float32's rounding); the twin must give the NumPy reference's bytes; and every layer must be off by no more than its
own rounding: ``rounding.py`` states the bound and why. The difference of the whole network from ONNX Runtime is told; a bound
on it would be the product of all layers' gains, and say nothing.

**cuts**: for every legal cut of a few models, the twin's half must give the bytes that the uncut integer network has there, and the
host's half on them must give exactly what ONNX Runtime gives on the float rest of the file.
"""

from __future__ import annotations

import argparse
import asyncio
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

sys.path.insert(0, str(Path(__file__).parent))

import accuracy
from rounding import layer_errors

from tlc.frontends import read_model
from tlc.frontends.onnx_writer import write_onnx
from tlc.frontends.tflite import read_tflite
from tlc.frontends.tflite_writer import write_tflite
from tlc.graph import Graph
from tlc.passes.calibrate import calibrate
from tlc.passes.canonicalize import canonicalize
from tlc.passes.quantize import quantize
from tlc.passes.split import Cut, cut_named, legal_cuts, split
from tlc.pipeline import Options, compile_model
from tlc.reference import run_int8
from tlc.reference_float import run_float, session
from tlc.twin import Twin
from tlc_host.server_model import ServerModel

Int8 = NDArray[np.int8]
Float = NDArray[np.float32]

REAL = 50
"""Real inputs among a model's, where there are."""
LAYER_VALUES = 1 << 22
"""Of all activations together, for the layers' bounds: limits the samples."""
RANDOM = {"ad_autoencoder": (-70.0, 5.0), "mcunetv3_mbv2_w035_128": (-1.0, 1.0), "tinyengine_train_mcunet": (-1.0, 1.0)}
"""Range of the inputs of models without a data set; else [0, 1)."""
CUT_MODELS = ("lenet5_mnist", "har_cnn1d", "fsdd_dscnn", "ic_resnet8", "kws_int8")


# ---- int8 ------------------------------------------------------------------------------------------------------------


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


def emulated(board: str) -> Callable[[Job], list[Int8]]:
    """The firmware in a board's emulator, over its UART."""

    def run(job: Job) -> list[Int8]:
        from tlc_host.devices import open_device
        from tlc_host.run import infer_on_device

        async def infer(out: Path, bundle: Any) -> list[Int8]:
            async with open_device(out, "emulator") as device:
                outputs, _ = await infer_on_device(device, bundle, job.inputs)
                return outputs

        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "project"
            bundle = compile_model(Options(job.path, board, out, cut="none")).bundle
            return asyncio.run(infer(out, bundle))

    return run


@dataclass(frozen=True)
class Stage:
    """A way to run a model; ``slow``: on few inputs."""

    run: Callable[[Job], list[Int8]]
    slow: bool = False


STAGES = {
    "reference": Stage(reference),
    "export": Stage(export),
    "twin": Stage(twin),
    "qemu-m4": Stage(emulated("qemu-m4"), slow=True),
    "qemu-rv32": Stage(emulated("qemu-rv32"), slow=True),
}


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

    @property
    def holds(self) -> bool:
        """Whether nothing differs."""
        return self.different_values == 0

    def __str__(self) -> str:
        verdict = "equal" if self.holds else f"{self.different_samples} samples DIFFER"
        return f"{self.model:24} {self.stage:10} {self.samples:6} samples {self.values:8} values {self.seconds:8.2f} s  {verdict}"


def compare(stage: str, job: Job, expected: Sequence[Int8]) -> Result:
    """Runs one stage and counts what differs from the oracle."""
    samples = len(job.inputs[0])
    start = time.perf_counter()
    outputs = STAGES[stage].run(job)
    seconds = time.perf_counter() - start
    pairs = [(y.reshape(samples, -1), e[:samples].reshape(samples, -1)) for y, e in zip(outputs, expected, strict=True)]
    wrong = np.concatenate([y != e for y, e in pairs], axis=1)
    return Result(
        job.path.stem, stage, samples, wrong.size, int(wrong.any(axis=1).sum()), int(wrong.sum()), round(seconds, 2)
    )


def load(path: Path, samples: int, seed: int, root: Path | None = None) -> Job:
    """A model and its inputs: the extremes, real ones, random ones."""
    graph = read_tflite(path)
    rng = np.random.default_rng(seed)
    inputs = [rng.integers(-128, 128, (samples, *graph[name].shape[1:]), np.int8) for name in graph.inputs]
    for x in inputs:
        x[:1], x[1:2] = -128, 127
    if root is not None and len(inputs) == 1:
        real = real_inputs(path.stem.removesuffix("_int8"), root)
        quant = graph[graph.inputs[0]].quant
        if real is not None and quant is not None:
            some = quant.quantize(real[1][: max(0, min(REAL, samples - 3))])
            inputs[0][2 : 2 + len(some)] = some.reshape(-1, *inputs[0].shape[1:])
    return Job(path, graph, inputs)


def real_inputs(name: str, root: Path) -> tuple[Float, Float] | None:
    """Calibration and test inputs from a model's data set; None where there is none."""
    if name == "sww":
        x = np.load(root / "sww_mlperf_calibration.npz")["x"].astype(np.float32)
        return x, x
    if name not in accuracy.CASES:
        return None
    calibration, x, _ = accuracy.load(accuracy.CASES[name], root)
    order = np.random.default_rng(0).permutation(len(x))
    return calibration.astype(np.float32), x[order].astype(np.float32)


# ---- float -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FloatResult:
    """How the int8 form of one float model did."""

    model: str
    data: str
    samples: int
    graph_difference: float
    """Largest difference of the canonical float graph from ONNX Runtime on the file, of the largest output."""
    twin_differs: int
    """Values in which the twin and the NumPy reference differ."""
    layers: int
    layer_samples: int
    layer_values: int
    worst_layer: str
    worst_used: float
    """Largest share of its bound that any value of any layer took."""
    layers_beyond: int
    largest_difference: float
    """Of the whole network's output from ONNX Runtime's."""
    mean_difference: float
    largest_output: float
    agree: float
    """Percent of the samples with the same largest output; of regressions it says nothing."""
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether all of it is as it must be."""
        return self.twin_differs == 0 and self.layers_beyond == 0 and self.graph_difference < 1e-4

    def __str__(self) -> str:
        verdict = "within its rounding" if self.holds else "BEYOND its rounding"
        return (
            f"{self.model:24} {self.layers:3} layers x {self.layer_samples:3} {self.data:6} samples: worst {self.worst_used:.3f} of the"
            f" bound ({self.worst_layer}); twin differs in {self.twin_differs}; file to graph {self.graph_difference:.1e};"
            f" whole network max {self.largest_difference:.4g} mean {self.mean_difference:.4g} of {self.largest_output:.4g},"
            f" same class {self.agree:.1f}%  {self.seconds:.1f} s  {verdict}"
        )


def judge_float(path: Path, root: Path | None, samples: int, seed: int) -> FloatResult:
    """Quantizes one float model and judges every layer, and the whole."""
    start = time.perf_counter()
    real = canonicalize(read_model(path))
    (name,) = real.inputs
    origin = real[name].origin
    assert origin is not None
    calibration, x = float_inputs(path.stem, root, origin.shape, samples, seed)
    ours = origin.from_file(x, real[name].shape)
    integer = quantize(real, calibrate(real, {name: origin.from_file(calibration, real[name].shape)}))
    quant = integer[name].quant
    assert quant is not None
    q = quant.quantize(ours)

    runtime = session(path.read_bytes())
    expected = np.concatenate([runtime.run(None, {origin.name: one[None]})[0] for one in x]).reshape(len(x), -1)
    (output,) = real.outputs
    edge = real[output].origin
    assert edge is not None
    graph_output = edge.to_file(run_float(real, {name: ours})[output]).reshape(len(x), -1)
    largest = float(np.abs(expected).max())

    with tempfile.TemporaryDirectory() as scratch:
        np.savez(Path(scratch) / "calib.npz", x=calibration)
        out = Path(scratch) / "project"
        compile_model(Options(path, "native", out, cut="none", calib=Path(scratch) / "calib.npz"))
        made = Twin(out)
        from_twin = made.forward(q)[0]
        twins = made.bundle.outputs[0].to_file(from_twin).reshape(len(x), -1)
    from_reference = run_int8(integer, {name: q})[output]

    total = sum(tensor.elements for tensor in integer.tensors.values() if not tensor.is_constant)
    few = max(1, min(len(x), LAYER_VALUES // total))
    activations = [node.output for node in integer.nodes]
    values = run_int8(integer, {name: q[:few]}, activations) | {name: q[:few]}
    errors = layer_errors(real, integer, values)
    worst = max(errors, key=lambda error: error.used)
    return FloatResult(
        model=path.stem,
        data="random" if root is None or real_inputs(path.stem, root) is None else "real",
        samples=len(x),
        graph_difference=float(np.abs(graph_output - expected).max()) / largest,
        twin_differs=int((from_twin.reshape(len(x), -1) != from_reference.reshape(len(x), -1)).sum()),
        layers=len(errors),
        layer_samples=few,
        layer_values=sum(error.values for error in errors),
        worst_layer=f"{worst.op} {worst.node}",
        worst_used=round(worst.used, 4),
        layers_beyond=sum(not error.holds for error in errors),
        largest_difference=float(np.abs(twins - expected).max()),
        mean_difference=float(np.abs(twins - expected).mean()),
        largest_output=largest,
        agree=round(100 * float((twins.argmax(1) == expected.argmax(1)).mean()), 2),
        seconds=round(time.perf_counter() - start, 1),
    )


def float_inputs(name: str, root: Path | None, shape: Sequence[int], samples: int, seed: int) -> tuple[Float, Float]:
    """Calibration and test inputs in the file's layout."""
    found = real_inputs(name, root) if root is not None else None
    if found is not None:
        calibration, x = found
        return calibration.reshape(-1, *shape[1:])[:500], x.reshape(-1, *shape[1:])[:samples]
    rng = np.random.default_rng(seed)
    low, high = RANDOM.get(name, (0.0, 1.0))
    made = rng.uniform(low, high, (16 + min(samples, 100), *shape[1:])).astype(np.float32)
    return made[:16], made[16:]


# ---- cuts ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CutResult:
    """How one cut did."""

    model: str
    cut: str
    samples: int
    device_differs: int
    """Values at the cut in which the twin's half and the uncut integer network differ."""
    host_differs: int
    """Values of the output in which the host's half and the float rest of the file differ."""

    @property
    def holds(self) -> bool:
        """Whether nothing differs."""
        return self.device_differs == 0 and self.host_differs == 0

    def __str__(self) -> str:
        verdict = (
            "equal" if self.holds else f"DIFFERS: {self.device_differs} on the device, {self.host_differs} on the host"
        )
        return f"{self.model:24} cut {self.cut:60} {self.samples:4} samples  {verdict}"


def judge_cuts(path: Path, root: Path | None, samples: int, seed: int, limit: int | None = None) -> list[CutResult]:
    """Every legal cut of one model; ``limit``: so many of them, evenly spread."""
    graph = canonicalize(read_model(path))
    (name,) = graph.inputs
    edge = graph[name].origin
    assert edge is not None
    with tempfile.TemporaryDirectory() as scratch:
        options: dict[str, Any] = {}
        if graph[name].quant is None:
            calibration, x = float_inputs(path.stem, root, edge.shape, samples, seed)
            np.savez(Path(scratch) / "calib.npz", x=calibration)
            options["calib"] = Path(scratch) / "calib.npz"
            integer = quantize(graph, calibrate(graph, {name: edge.from_file(calibration, graph[name].shape)}))
            quant = integer[name].quant
            assert quant is not None
            q = quant.quantize(edge.from_file(x, graph[name].shape))
        else:
            integer = graph
            q = load(path, samples, seed, root).inputs[0].reshape(-1, *graph[name].shape[1:])
        # A tensor of the file may be two of ours, before and after a transpose; a name means one of them.
        names = dict.fromkeys(cut.file_name for cut in legal_cuts(graph) if cut.tensor)
        cuts = [cut_named(graph, cut_name) for cut_name in names]
        if limit is not None:
            cuts = [cuts[i] for i in np.linspace(0, len(cuts) - 1, limit).astype(int)]
        values = run_int8(integer, {name: q}, [cut.tensor for cut in cuts if cut.tensor])
        results = []
        for number, cut in enumerate(cuts):
            out = Path(scratch) / f"cut{number}"
            compile_model(Options(path, "native", out, cut=cut.file_name, **options))
            results.append(_judge_cut(path, graph, cut, out, q, values[cut.tensor or ""]))
    return results


def _judge_cut(path: Path, graph: Graph, cut: Cut, out: Path, q: Int8, expected: Int8) -> CutResult:
    made = Twin(out)
    (smashed,) = made.forward(q)
    edge = made.bundle.outputs[0]
    real = edge.to_file(expected.reshape(-1, *edge.shape[1:]))
    if path.suffix == ".onnx":
        rest, source = _rest_of_file(path, edge.file_name, list(made.bundle.model_outputs)), edge.file_name
    else:  # a file of integers: its float form is the dequantized graph
        host = split(graph, cut)[1]
        assert host is not None
        rest, source = session(write_onnx(host).SerializeToString()), str(cut.tensor)
    server = ServerModel(out)
    differs = 0
    for index in range(len(q)):
        feed = {
            rest.get_inputs()[0].name if source not in [i.name for i in rest.get_inputs()] else source: real[
                index : index + 1
            ]
        }
        for ours, theirs in zip(server.infer(smashed[index : index + 1]), rest.run(None, feed), strict=True):
            differs += int((np.ravel(ours) != np.ravel(theirs)).sum())
    return CutResult(
        path.stem,
        cut.file_name,
        len(q),
        int((smashed.reshape(len(q), -1) != expected.reshape(len(q), -1)).sum()),
        differs,
    )


def _rest_of_file(path: Path, cut: str, outputs: list[str]) -> Any:
    """ONNX Runtime on what lies behind a tensor, taken from the file by the ONNX project's own extractor."""
    import onnx
    from onnx.utils import Extractor

    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    return session(Extractor(model).extract_model([cut], outputs).SerializeToString())


# ---- all of it -------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="names of models, such as kws_int8 or kws; all of them without")
    parser.add_argument("--parts", default="int8,float,cuts")
    parser.add_argument("--stages", default=",".join(STAGES), help=f"of part int8: of {', '.join(STAGES)}")
    parser.add_argument("--samples", type=int, default=1000, help="inputs of each model (cuts: a tenth)")
    parser.add_argument("--emulated", type=int, default=5, help="inputs of each model in an emulator")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    root = Path(os.environ.get("TLC_DATA") or "")
    if not os.environ.get("TLC_DATA"):
        parser.error("TLC_DATA must name a directory with models/mlperf_tiny/*_int8.tflite, but is not set")
    integers = {path.stem: path for path in sorted((root / "models" / "mlperf_tiny").glob("*_int8.tflite"))}
    floats = {
        path.stem: path
        for folder in ("mlperf_tiny", "trained", "peers")
        for path in sorted((root / "models" / folder).glob("*.onnx"))
    }
    known = integers | floats
    stages, parts = options.stages.split(","), options.parts.split(",")
    for name in options.models:
        if name not in known:
            parser.error(f"no model '{name}' in {root}: there are {', '.join(known)}")
    for name in stages:
        if name not in STAGES:
            parser.error(f"no stage '{name}': there are {', '.join(STAGES)}")
    for name in parts:
        if name not in ("int8", "float", "cuts"):
            parser.error(f"no part '{name}': there are int8, float, cuts")
    if not known or options.samples < 1:
        parser.error(f"nothing to do: {len(known)} models in {root}, {options.samples} samples")

    report: dict[str, list[Any]] = {part: [] for part in parts}
    chosen = options.models or list(known)

    def add(part: str, result: Result | FloatResult | CutResult) -> None:
        report[part].append(result)
        if not options.json:
            print(result, flush=True)

    if "int8" in parts:
        for name in (n for n in chosen if n in integers):
            job = load(integers[name], options.samples, options.seed, root)
            expected = interpret(job.path.read_bytes(), job)
            for stage in stages:
                few = job.first(options.emulated) if STAGES[stage].slow else job
                add("int8", compare(stage, few, expected))
    if "float" in parts:
        for name in (n for n in chosen if n in floats):
            add("float", judge_float(floats[name], root, options.samples, options.seed))
    if "cuts" in parts:
        for name in (n for n in chosen if n in CUT_MODELS or n in options.models):
            for result in judge_cuts(known[name], root, max(1, options.samples // 10), options.seed):
                add("cuts", result)
    exact = all(result.holds for results in report.values() for result in results)
    if options.json:
        rows = {
            part: [asdict(result) | {"holds": result.holds} for result in results] for part, results in report.items()
        }
        print(json.dumps({"exact": exact, **rows}, indent=2))
    else:
        held = ", ".join(
            f"{part} {sum(r.holds for r in results)} of {len(results)}" for part, results in report.items()
        )
        print(f"{'all hold' if exact else 'NOT ALL HOLD'}: {held}")
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
