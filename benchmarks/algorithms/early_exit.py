# SPDX-License-Identifier: Apache-2.0
"""Early exit: accuracy against what is sent, over the threshold, with heads that were fitted when the project was compiled.

    TLC_DATA=... python benchmarks/algorithms/early_exit.py [NAME ...] [--json]

Each trained model is cut in the middle, compiled with ``--aux-head`` and labelled training samples, and its twin answers the test
set. Bytes are the tensors' alone. ``TLC_DATA`` is a directory with the data sets and models named below.
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
from tlc_host.exits import is_sure
from tlc_host.server_model import ServerModel

Array = NDArray[Any]
THRESHOLDS = (1.0, 0.99, 0.95, 0.9, 0.8, 0.6, 0.0)
FITTED = 3000


@dataclass(frozen=True)
class Case:
    """A model, where it is cut, and how its data reaches it."""

    model: str
    data: str
    cut: str
    prepare: Callable[[Array], Array]


def unit(x: Array) -> Array:
    """Pixels 0..255 to 0..1, with a channel axis."""
    return (x / 255.0).astype(np.float32)[..., None]


CASES = {
    "lenet5": Case("lenet5_mnist.onnx", "mnist.npz", "lenet5_1/flatten_1/Reshape:0", unit),
    "har_cnn1d": Case("har_cnn1d.onnx", "har_uci_small.npz", "har_1/max_pooling1d_1_2/MaxPool1d:0", lambda x: x),
    "fsdd_dscnn": Case(
        "fsdd_dscnn.onnx", "fsdd_mfcc.npz", "fsdd_1/re_lu_4_1/Relu:0", lambda x: x.astype(np.float32)[..., None]
    ),
}


def measure(name: str, root: Path) -> list[dict[str, Any]]:
    """A row for each threshold."""
    case = CASES[name]
    with np.load(root / case.data) as arrays:
        every = max(1, len(arrays["x_train"]) // FITTED)
        fitted = {"x": case.prepare(arrays["x_train"][::every]), "y": arrays["y_train"][::every]}
        x, y = case.prepare(arrays["x_test"]).astype(np.float32), arrays["y_test"].astype(np.int64)
    with tempfile.TemporaryDirectory() as scratch:
        calibration, out = Path(scratch) / "calib.npz", Path(scratch) / "project"
        np.savez(calibration, **fitted)
        compile_model(
            Options(root / "models" / "trained" / case.model, "native", out, case.cut, calibration, aux_head=True)
        )
        twin, server = Twin(out), ServerModel(out)
        smashed, heads = [], []
        for sample in twin.bundle.inputs[0].to_device(x):
            smashed.append(twin.forward(sample[np.newaxis])[0])
            heads.append(twin.head())
        z, p = np.concatenate(smashed), np.concatenate(heads).reshape(len(x), -1)
        hosts = server.infer(z)[0].reshape(len(x), -1).argmax(1)
    rows = []
    for threshold in THRESHOLDS:
        sure = is_sure(p, threshold)
        right = np.where(sure, p.argmax(1), hosts) == y
        sent = float((~sure).mean() * z[0].size)
        rows.append(
            {
                "model": name,
                "threshold": threshold,
                "samples": len(x),
                "exits": float(sure.mean()),
                "accuracy": float(right.mean()),
                "bytes": sent,
            }
        )
    return rows


def main() -> None:
    """Prints a row for each model and threshold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=", ".join(CASES))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if "TLC_DATA" not in os.environ:
        sys.exit("set TLC_DATA to the directory with the data sets")
    unknown = set(arguments.names) - set(CASES)
    if unknown:
        sys.exit(f"no such case: {', '.join(unknown)}; known: {', '.join(CASES)}")
    rows = [row for name in arguments.names or CASES for row in measure(name, Path(os.environ["TLC_DATA"]))]
    if arguments.json:
        print(json.dumps(rows))
        return
    print(f"{'model':12} {'threshold':>9} {'exits':>7} {'right':>7} {'bytes sent per sample':>22}")
    for row in rows:
        print("{model:12} {threshold:9.2f} {exits:7.1%} {accuracy:7.2%} {bytes:22.0f}".format(**row))


if __name__ == "__main__":
    main()
