# SPDX-License-Identifier: Apache-2.0
"""What post-training int8 quantization costs: float ONNX (ONNX Runtime) against the compiled model's twin.

    TLC_DATA=... python benchmarks/accuracy.py [NAME ...] [--json]

Each model is compiled with ``--cut none`` for ``native`` and run on its whole test set. Where a set has only a test part, every tenth
sample calibrates and the rest is measured. ``TLC_DATA`` is a directory with the data sets and models named below.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.pipeline import Options, compile_model
from tlc.twin import Twin

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """A model, and how its test data reaches it."""

    model: str
    data: str
    prepare: Callable[[Array], Array]
    has_train: bool = True


def unit(x: Array) -> Array:
    """Pixels 0..255 to 0..1, with a channel axis."""
    return (x / 255.0).astype(np.float32)[..., None]


CASES = {
    "lenet5_mnist": Case("trained/lenet5_mnist.onnx", "mnist.npz", unit),
    "lenet300_100_mnist": Case("trained/lenet300_100_mnist.onnx", "mnist.npz", lambda x: unit(x).reshape(-1, 784)),
    "har_cnn1d": Case("trained/har_cnn1d.onnx", "har_uci_small.npz", lambda x: x),
    "fsdd_dscnn": Case("trained/fsdd_dscnn.onnx", "fsdd_mfcc.npz", lambda x: x.astype(np.float32)[..., None]),
    "kws": Case("mlperf_tiny/kws.onnx", "kws_mlperf_test.npz", lambda x: x, False),
    "ic_resnet8": Case("mlperf_tiny/ic_resnet8.onnx", "cifar10_jpeg_test.npz", lambda x: x.astype(np.float32), False),
}


def load(case: Case, root: Path) -> tuple[Array, Array, Array]:
    """Calibration inputs, test inputs, test labels."""
    with np.load(root / case.data) as arrays:
        if "x_test_int8" in arrays:
            x = (arrays["x_test_int8"].astype(np.float32) - arrays["input_zero_point"]) * arrays["input_scale"]
        else:
            x = arrays["x_test"]
        y = arrays["y_test"].astype(np.int64)
        x = case.prepare(x)
        if case.has_train:
            return case.prepare(arrays["x_train"][:: max(1, len(arrays["x_train"]) // 1000)]), x, y
    tenth = np.arange(len(x)) % 10 == 0
    return x[tenth], x[~tenth], y[~tenth]


def measure(name: str, root: Path) -> dict[str, Any]:
    """Accuracies in percent."""
    import onnxruntime

    case = CASES[name]
    model = root / "models" / case.model
    calibration, x, y = load(case, root)
    session = onnxruntime.InferenceSession(model.read_bytes(), providers=["CPUExecutionProvider"])
    reals = np.concatenate([session.run(None, {"input": x[i : i + 1].astype(np.float32)})[0] for i in range(len(x))])
    with tempfile.TemporaryDirectory() as scratch:
        np.savez(Path(scratch) / "calib.npz", x=calibration)
        out = Path(scratch) / "project"
        compile_model(Options(model, "native", out, cut="none", calib=Path(scratch) / "calib.npz"))
        twin = Twin(out)
        ours = twin.bundle.outputs[0].to_file(twin.forward(twin.bundle.inputs[0].to_device(x.astype(np.float32)))[0])
    a, b = reals.reshape(len(x), -1).argmax(1), ours.reshape(len(x), -1).argmax(1)
    return {
        "model": name,
        "samples": len(x),
        "float": round(100 * float((a == y).mean()), 2),
        "int8_twin": round(100 * float((b == y).mean()), 2),
        "agree": round(100 * float((a == b).mean()), 2),
        "largest_difference": round(float(np.abs(reals.reshape(len(x), -1) - ours.reshape(len(x), -1)).max()), 4),
    }


def main() -> None:
    """Prints a row a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=", ".join(CASES))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if "TLC_DATA" not in os.environ:
        sys.exit("set TLC_DATA to the directory with the data sets")
    unknown = set(arguments.names) - set(CASES)
    if unknown:
        sys.exit(f"no such case: {', '.join(unknown)}; known: {', '.join(CASES)}")
    rows = [measure(name, Path(os.environ["TLC_DATA"])) for name in arguments.names or CASES]
    if arguments.json:
        print(json.dumps(rows))
        return
    print(f"{'model':20} {'samples':>8} {'float %':>8} {'int8 %':>8} {'agree %':>8} {'max diff':>9}")
    for row in rows:
        print(
            "{model:20} {samples:8} {float:8.2f} {int8_twin:8.2f} {agree:8.2f} {largest_difference:9.4f}".format(**row)
        )


if __name__ == "__main__":
    main()
