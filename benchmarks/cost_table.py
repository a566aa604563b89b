# SPDX-License-Identifier: Apache-2.0
"""What a board's kernels cost: counts instructions in its emulator, layer by layer, and fits the board file's cost tables.

    python benchmarks/cost_table.py BOARD... [--write] [--models]

Small networks with every operator in several shapes are compiled, built and booted. Per operator, the instructions of its
layers are fitted by ``per_mac * elements + per_run * runs + per_output * outputs + per_call`` (elements and runs as
``tlc.ops.base.Operator.work`` counts them), coefficients not negative. What packed weights take to decode is what layers cost
more with them than without.

Prints TOML; ``--write`` puts it into ``boards/BOARD.toml``. ``--models`` then compares the estimate with ``tlc bench`` on the int8
models of MLPerf Tiny (``TLC_DATA``) that fit.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import re
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from tlc import resources
from tlc.builder import Builder
from tlc.errors import FitError
from tlc.frontends.onnx_writer import write_onnx
from tlc.frontends.tflite import read_tflite
from tlc.graph import Graph
from tlc.ops import REGISTRY
from tlc.ops.base import Activation
from tlc.passes.canonicalize import canonicalize
from tlc.passes.pack import DecodeCost, FrozenWeights, PackMode, decode_instructions
from tlc.passes.schedule import schedule
from tlc.pipeline import Compiled, Options, compile_model
from tlc_host.bench import bench

MODELS = ("kws", "ic_resnet8", "ad_autoencoder", "vww_mobilenet")
TERMS = ("per_mac", "per_run", "per_output", "per_call")
DECODE_TERMS = ("weight", "longer_code", "length_step", "row")
RELU = Activation.RELU


@dataclass(frozen=True)
class Sample:
    """One layer: what the cost table multiplies, and what it took."""

    operator: str
    features: tuple[float, ...]
    instructions: int


def convolutions() -> Graph:
    net = Builder("convolutions", (1, 12, 12, 3), seed=1)
    net.conv2d(8, 3, activation=RELU)
    net.conv2d(16, 1, activation=RELU)
    net.depthwise_conv2d(3, activation=RELU)
    net.conv2d(16, 3, stride=2, activation=RELU)
    net.conv2d(32, 1, activation=RELU)
    net.depthwise_conv2d(3, activation=RELU)
    net.conv2d(16, (1, 5), activation=RELU)
    net.conv2d(16, 3, activation=RELU)
    net.conv2d(40, 1, activation=RELU)
    net.mean()
    net.dense(12)
    net.softmax()
    return net.graph()


def spectrogram() -> Graph:
    net = Builder("spectrogram", (1, 24, 10, 1), seed=2)
    net.conv2d(16, (10, 4), stride=2, activation=RELU)
    net.depthwise_conv2d(3, activation=RELU)
    net.conv2d(32, 1, activation=RELU)
    net.depthwise_conv2d(3, stride=2, activation=RELU)
    net.conv2d(64, 1, activation=RELU)
    net.node("average_pool2d", [net.last], REGISTRY["average_pool2d"].Attrs(kernel=(3, 3), strides=(3, 3)))
    net.flatten()
    net.dense(48, activation=RELU)
    net.dense(10)
    net.softmax()
    return net.graph()


def elementwise() -> Graph:
    net = Builder("elementwise", (1, 12, 8, 4), seed=3)
    for size in range(2):
        first = net.conv2d(8, 1)
        second = net.conv2d(8, (3, 1), activation=RELU)
        joined = net.node("add", [first, second], REGISTRY["add"].Attrs())
        gate = net.node("sub", [joined, first], REGISTRY["sub"].Attrs(activation=RELU))
        net.node("mul", [joined, gate], REGISTRY["mul"].Attrs())
        net.node("clamp", [net.last], REGISTRY["clamp"].Attrs(activation=RELU))
        net.node("transpose", [net.last], REGISTRY["transpose"].Attrs(perm=(0, 2, 1, 3)))
        net.node("pad", [net.last], REGISTRY["pad"].Attrs(pads=((0, 0), (1, 0), (0, 2), (0, 0))))
        net.node(
            "average_pool2d", [net.last], REGISTRY["average_pool2d"].Attrs(kernel=(2, 2), strides=(1 + size, 1 + size))
        )
        net.max_pool2d(2 + size)
        kept = net.last
    net.mean()
    net.node("reshape", [net.last], REGISTRY["reshape"].Attrs(shape=(1, 1, 1, 8)))
    net.node("mul", [kept, net.last], REGISTRY["mul"].Attrs())
    net.mean()
    net.dense(3)
    net.softmax()
    return net.graph()


def packable() -> Graph:
    """Dense layers with rows of several lengths, of few distinct values and of many."""
    net = Builder("packable", (1, 96), seed=4)
    rng = np.random.default_rng(5)
    for units, power in ((64, 5.0), (96, 2.0), (48, 1.2), (160, 3.0), (32, 4.0), (128, 1.5), (24, 6.0), (64, 2.5)):
        net.dense(units, activation=RELU)
        weight = net.graph()[net.graph().producer(net.last).inputs[1]]  # type: ignore[union-attr]
        values = rng.standard_normal(weight.shape)
        weight.data = (np.sign(values) * np.abs(values) ** power).astype(np.float32)
    return net.graph()


def run(graph: Graph, board: str, directory: Path, pack: PackMode) -> tuple[Compiled, list[int], Path]:
    """Compiles and boots: the instructions of each layer."""
    model, out = directory / f"{graph.name}.onnx", directory / f"{graph.name}-{pack}"
    onnx.save(write_onnx(graph), model)
    compiled = compile_model(Options(model, board, out, cut="none", pack=pack))
    return compiled, [layer.instructions for layer in asyncio.run(bench(out)).layers], out


def samples(graph: Graph, board: str, directory: Path) -> list[Sample]:
    """The layers of a network."""
    _, counts, out = run(graph, board, directory, "none")
    program = schedule(canonicalize(read_tflite(out / "device.tflite")))
    steps = [step for step in program.forward if step.call]
    found = []
    for step, count in zip(steps, counts, strict=True):
        elements, runs = REGISTRY[step.node.op].work(program.graph, step.node)
        outputs = program.graph[step.node.output].elements
        found.append(Sample(step.node.op, (elements, runs, outputs, 1.0), count))
    return found


def fit(rows: list[tuple[float, ...]], counts: list[int]) -> NDArray[np.float64]:
    """Coefficients, none negative, no more of them than samples."""
    weights = 1.0 / np.sqrt(np.array(counts, float))  # between absolute errors and relative ones
    scaled, wanted = np.array(rows, float) * weights[:, None], np.array(counts, float) * weights
    best, least = np.zeros(scaled.shape[1]), np.inf
    for size in range(1, min(len(counts), scaled.shape[1]) + 1):
        for chosen in itertools.combinations(range(scaled.shape[1]), size):
            part = scaled[:, chosen]
            if np.linalg.matrix_rank(part) < size:
                continue
            values = np.linalg.lstsq(part, wanted, rcond=None)[0]
            error = float(np.sum((part @ values - wanted) ** 2))
            if values.min() >= 0 and error < least * 0.98:
                best, least = np.zeros(scaled.shape[1]), error
                best[list(chosen)] = values
    return best


def cost_tables(board: str, directory: Path) -> dict[str, NDArray[np.float64]]:
    """Per operator, and ``default`` for what moves or combines elements."""
    by_operator: dict[str, list[Sample]] = defaultdict(list)
    for network in (convolutions, spectrogram, elementwise):
        for sample in samples(network(), board, directory):
            by_operator[sample.operator].append(sample)
    tables = {}
    for operator, found in sorted(by_operator.items()):
        counts = [sample.instructions for sample in found]
        tables[operator] = fit([sample.features for sample in found], counts)
        worst = max(abs(np.dot(sample.features, tables[operator]) / sample.instructions - 1.0) for sample in found)
        print(f"{board}: {operator}: {len(found)} layers, within {worst:.0%}", file=sys.stderr)
    simple = [sample for op in ("add", "clamp", "mul", "pad", "sub", "transpose") for sample in by_operator[op]]
    default = fit([(0.0, 0.0, *sample.features[2:]) for sample in simple], [sample.instructions for sample in simple])
    return {"default": default, **tables}


def code_lengths(tables: object) -> NDArray[np.int8]:
    """The code's lengths by value + 128 (-1: no code), from the decoder's tables."""
    lengths = np.full(256, -1, np.int8)
    ahead = 0  # the next code, left-aligned in 16 bits
    for entry in sorted(set(tables.lookup[tables.lookup >= 0].tolist())):  # type: ignore[attr-defined]
        lengths[((entry & 0xFF) + 128) & 0xFF] = entry >> 8
        ahead += 1 << (16 - (entry >> 8))
    level = 0
    for value in tables.symbols.tolist():  # type: ignore[attr-defined]
        while ahead > tables.last[level]:  # type: ignore[attr-defined]
            level += 1
        lengths[value + 128] = tables.first + level  # type: ignore[attr-defined]
        ahead += 1 << (16 - tables.first - level)  # type: ignore[attr-defined]
    return lengths


def decode_table(board: str, directory: Path) -> NDArray[np.float64]:
    """``[decode]`` of the board file."""
    raw, without, _ = run(packable(), board, directory, "none")
    packed, with_code, _ = run(packable(), board, directory, "size")
    rows, counts = [], []
    for (name, plain), before, after in zip(raw.packing.weights.items(), without, with_code, strict=True):
        code = packed.packing.weights[name].code
        if code is None:
            continue
        tables = packed.packing.codes[code]
        weights = FrozenWeights(plain.data.astype(np.int8), 0.0)
        units = np.eye(len(DECODE_TERMS))
        lengths = code_lengths(tables)
        rows.append(tuple(decode_instructions(weights, lengths, tables, DecodeCost(*unit)) for unit in units))
        counts.append(after - before)
    found = fit(rows, counts)
    worst = max(abs(np.dot(row, found) / count - 1.0) for row, count in zip(rows, counts, strict=True))
    print(f"{board}: decoding: {len(counts)} layers, within {worst:.0%}", file=sys.stderr)
    return found


def as_toml(tables: dict[str, NDArray[np.float64]], decode: NDArray[np.float64]) -> str:
    """The board file's tables; a coefficient of 0 is left out."""
    lines = ["# Measured by benchmarks/cost_table.py."]
    named = {f"cost.{name}": (TERMS, values) for name, values in tables.items()}
    for header, (terms, values) in {**named, "decode": (DECODE_TERMS, decode)}.items():
        lines.append(f"[{header}]")
        keep = zip(terms, values, strict=True)
        lines += [f"{term} = {rounded(value)}" for term, value in keep if value > 0 or header == "decode"]
        lines.append("")
    return "\n".join(lines)


def rounded(value: float) -> str:
    """Three digits are more than the model is worth."""
    return repr(float(f"{value:.3g}"))


def write(board: str, text: str) -> None:
    """Replaces the tables in ``boards/BOARD.toml``, which lie between ``[memory]`` and ``[link]``."""
    path = resources.boards_dir() / f"{board}.toml"
    old = path.read_text()
    new, count = re.subn(
        r"(?ms)^(# Measured by [^\n]*\n)?\[cost\..*?(?=^\[link\])", lambda _: text + "\n", old, count=1
    )
    if count != 1:
        sys.exit(f"{path}: there are no tables [cost....] before [link]")
    path.write_text(new)


def compare(board: str, root: Path, directory: Path) -> None:
    """The estimate beside ``tlc bench``."""
    for name in MODELS:
        out = directory / name
        model = root / "models" / "mlperf_tiny" / f"{name}_int8.tflite"
        try:
            compiled = compile_model(Options(model, board, out, cut="none", pack="auto"))
        except FitError:
            print(f"{board}: {name} does not fit")
            continue
        counted = asyncio.run(bench(out)).instructions
        estimate = compiled.estimate.instructions
        print(f"{board}: {name}: {counted:,} instructions, estimate {estimate:,} ({estimate / counted - 1:+.0%})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("board", nargs="+")
    parser.add_argument("--write", action="store_true", help="into boards/BOARD.toml")
    parser.add_argument("--models", action="store_true", help="compare with MLPerf Tiny's")
    arguments = parser.parse_args()
    for board in arguments.board:
        with tempfile.TemporaryDirectory() as scratch:
            directory = Path(scratch)
            text = as_toml(cost_tables(board, directory), decode_table(board, directory))
            print(text)
            if arguments.write:
                write(board, text)
            if arguments.models:
                if "TLC_DATA" not in os.environ:
                    sys.exit("TLC_DATA does not name the data")
                compare(board, Path(os.environ["TLC_DATA"]), directory)


if __name__ == "__main__":
    main()
