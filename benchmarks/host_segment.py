# SPDX-License-Identifier: Apache-2.0
"""The host segment in TensorFlow against ONNX Runtime, on whole models: values, a training step, and its speed.

    TLC_DATA=... python benchmarks/host_segment.py [NAME ...] [--samples 512] [--json]

``TLC_DATA`` is a directory with ``models/**/*.onnx`` and ``*.tflite``; for some of them its data sets give the samples, for the rest they
are drawn from a normal distribution. A ``.tflite`` is taken as tlc writes it into host.onnx: dequantized, in float.

- ``own error``: the largest difference between ONNX Runtime in float32 and ONNX's reference evaluator in float64.
- ``difference``: the largest between TensorFlow and ONNX Runtime, both in float32. It must not exceed twice the own error.
  Both are taken at the output and, where that is a softmax, which hides much, also before it; the worse ratio is shown.
- ``round trip``: the same after one step of SGD, with what is exported then run by ONNX Runtime.
- ``step``: milliseconds of gradient and Adam step on 16 samples, the shortest of 5, once it is traced.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from accuracy import CASES, load
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from tlc.graph import Graph, Tensor
from tlc.learn import quiet_tensorflow

BATCH = 16
SMALL = 1500
"""Values of an input; of larger ones at most 64 samples are taken. A network that is sure of most samples needs many, as its
softmax shows a difference only where it is not."""
FLOOR = float(np.finfo(np.float32).eps)
"""A step of float32 at one: of the largest value, half a step is the least error that is counted."""


def host_model(path: Path) -> bytes:
    """The file as a host segment: batch free, constants folded."""
    from tlc.frontends import read_model
    from tlc.frontends.onnx_extract import _with_any_batch
    from tlc.frontends.onnx_load import load_onnx
    from tlc.frontends.onnx_writer import write_onnx
    from tlc.passes.canonicalize import canonicalize

    if path.suffix == ".onnx":
        return bytes(_with_any_batch(load_onnx(path)).SerializeToString())
    return bytes(write_onnx(dequantized(canonicalize(read_model(path)))).SerializeToString())


def dequantized(graph: Graph) -> Graph:
    """An integer graph's reals, as a float graph."""
    result = graph.copy()
    for name, tensor in graph.tensors.items():
        if tensor.quant is not None:
            data = None if tensor.data is None else tensor.quant.dequantize(tensor.data)
            result.tensors[name] = Tensor(name, tensor.shape, "float32", None, data, tensor.origin)
    for node in [node for node in result.nodes if node.op == "quantize"]:
        result.replace_uses(node.output, node.inputs[0])
        result.nodes.remove(node)
    return result


def in_double(model: bytes) -> onnx.ModelProto:
    """The model with every float32 made float64."""
    proto = onnx.load_model_from_string(model)

    def widen(tensor: TensorProto) -> None:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))

    for tensor in proto.graph.initializer:
        widen(tensor)
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                widen(attribute.t)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
    return proto


def samples(name: str, shape: list[int], root: Path, count: int) -> NDArray[np.float32]:
    """Real ones where there are any."""
    if name in CASES and (root / CASES[name].data).is_file():
        _, x, _ = load(CASES[name], root)
        return np.asarray(x[:: max(1, len(x) // count)][:count], np.float32).reshape(-1, *shape)
    return np.random.default_rng(0).standard_normal((count, *shape)).astype(np.float32)


def with_output(model: bytes, name: str) -> bytes:
    """The model with another tensor for its output."""
    proto = onnx.load_model_from_string(model)
    del proto.graph.output[:]
    proto.graph.output.append(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return bytes(proto.SerializeToString())


def runtime(model: bytes, x: NDArray[np.float32]) -> NDArray[np.float32]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: row[np.newaxis]})[0] for row in x])


def measure(path: Path, root: Path, count: int) -> dict[str, Any]:
    from onnx.reference import ReferenceEvaluator

    from tlc_host.model.optimizers import Settings
    from tlc_host.model.trainer import Trainer

    model = host_model(path)
    shape = [d.dim_value for d in onnx.load_model_from_string(model).graph.input[0].type.tensor_type.shape.dim][1:]
    x = samples(path.stem, shape, root, count if np.prod(shape) <= SMALL else min(count, 64))
    trainer = Trainer(model, Settings(), path.name)
    places = []
    for goal in dict.fromkeys((trainer.output, trainer.before)):
        part = with_output(model, goal)
        evaluator = ReferenceEvaluator(in_double(part))
        theirs, exact = runtime(part, x), evaluator.run(None, {trainer.input: x.astype(np.float64)})[0]
        own = float(np.abs(theirs - exact).max())
        difference = float(np.abs(theirs - trainer.forward(x, logits=goal != trainer.output)).max())
        floor = FLOOR * max(1.0, float(np.abs(exact).max()))
        places.append((difference / max(own, floor / 2), own, difference))
    ratio, own, difference = max(places)
    ours = trainer.forward(x)
    targets: Any = np.zeros(len(x), np.int64) if trainer.finish == "Softmax" else np.zeros_like(ours)
    loss = "cross_entropy" if trainer.finish == "Softmax" else "mse"
    trainer.gradient(x, targets, loss)
    trainer.apply(1e-4)
    after = float(np.abs(runtime(trainer.module.onnx(), x) - trainer.forward(x)).max())
    row = {
        "model": path.name,
        "samples": len(x),
        "operators": len(onnx.load_model_from_string(model).graph.node),
        "parameters": sum(int(np.prod(v.shape)) for v in trainer.variables),
        "own_error": own,
        "difference": difference,
        "ratio": ratio,
        "round_trip": after,
    }
    timed = Trainer(model, Settings(optimizer="adam"), path.name)
    x = np.random.default_rng(1).standard_normal((BATCH, *shape)).astype(np.float32)
    targets = np.zeros(BATCH, np.int64) if loss == "cross_entropy" else np.zeros((BATCH, *ours.shape[1:]), np.float32)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        timed.gradient(x, targets, loss)
        timed.apply(1e-4)
        times.append(1e3 * (time.perf_counter() - start))
    return row | {"trace_ms": round(times[0], 1), "step_ms": round(min(times[1:]), 2)}


def main() -> None:
    """Prints a row a model; exit code 1 where one is beyond twice its own error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="models by file name without its ending")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if "TLC_DATA" not in os.environ:
        sys.exit("set TLC_DATA to the directory with the data sets")
    root = Path(os.environ["TLC_DATA"])
    quiet_tensorflow()
    paths = [p for p in sorted((root / "models").rglob("*")) if p.suffix in (".onnx", ".tflite")]
    rows = [measure(p, root, arguments.samples) for p in paths if not arguments.names or p.stem in arguments.names]
    if arguments.json:
        print(json.dumps(rows))
    else:
        head = f"{'model':34} {'samples':>7} {'nodes':>5} {'parameters':>10} {'own error':>9} {'difference':>10} {'ratio':>6}"
        print(f"{head} {'round trip':>10} {'step ms':>8}")
        for row in rows:
            print(
                "{model:34} {samples:7} {operators:5} {parameters:10,} {own_error:9.1e} {difference:10.1e} {ratio:6.2f} "
                "{round_trip:10.1e} {step_ms:8.2f}".format(**row)
            )
    worst = max(row["ratio"] for row in rows)
    if worst > 2:
        sys.exit(f"the largest difference is {worst:.2f} times the own error, more than 2")


if __name__ == "__main__":
    main()
