# SPDX-License-Identifier: Apache-2.0
"""Parallel split learning and EdgeSplit with a float network in TensorFlow, on the shares of ``calibration.py``: what the shares and the
initial weights do to the accuracy, without anything int8.

    TLC_DATA=<data directory> python benchmarks/algorithms/float_shares.py [--column fashion-dir] [--rows psl,edgesplit] [--seeds 5] [--deals 1]

The network, batches, rates and rounds are those of ``calibration.py``. ``--seeds`` are those of initial weights and draws, ``--deals`` those of the
Dirichlet shares; the calibration's is 0.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from calibration import COLUMNS, DEVICES

from tlc_host.shards import Shard, deal

BATCH, BATCHES, RATE = 16, 100, 0.05


def initial(seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """T and L by He et al.; zero biases."""
    rng = np.random.default_rng(seed)
    shapes = [(3, 3, 1, 8), (3, 3, 8, 16), (784, 64), (64, 10)]
    layers = [
        [(rng.standard_normal(s) * np.sqrt(2 / np.prod(s[:-1]))).astype(np.float32), np.zeros(s[-1], np.float32)]
        for s in shapes
    ]
    return layers[0] + layers[1], layers[2] + layers[3]


def device(t: Any, x: Any) -> Any:
    """z = T(x)."""
    for kernel, bias in zip(t[::2], t[1::2], strict=True):
        x = tf.nn.relu(tf.nn.conv2d(x, kernel, 2, "SAME") + bias)
    return tf.reshape(x, [-1, 784])


def host(part: Any, z: Any) -> Any:
    """The logits L(z)."""
    return tf.nn.relu(z @ part[0] + part[1]) @ part[2] + part[3]


def train(x: Any, y: Any, shards: list[Any], rounds: int, seed: int, *, average: bool) -> tuple[Any, Any]:
    """T of each device, and L."""
    start, last = initial(seed)
    parts = [[tf.Variable(value) for value in start] for _ in shards]
    server = [tf.Variable(value) for value in last]
    every = [variable for part in parts for variable in part]

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def step(images: Any, labels: Any) -> None:
        with tf.GradientTape(persistent=True) as tape:
            z = tf.concat([device(part, images[n]) for n, part in enumerate(parts)], 0)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.reshape(labels, [-1]), host(server, z))
            mean, own = tf.reduce_mean(losses), tf.reduce_sum(losses) / BATCH
        for goal, variables in ((mean, server), (own, every)):
            for variable, gradient in zip(variables, tape.gradient(goal, variables), strict=True):
                variable.assign_sub(RATE * gradient)

    rng = np.random.default_rng([seed, 7])
    shares = np.array([len(shard) for shard in shards]) / sum(len(shard) for shard in shards)
    for _ in range(rounds):
        for _ in range(BATCHES):
            places = np.stack([rng.choice(shard, BATCH) for shard in shards])
            step(tf.constant(x[places]), tf.constant(y[places]))
        if average:
            for copies in zip(*parts, strict=True):
                value = sum(share * copy.numpy() for share, copy in zip(shares, copies, strict=True))
                for copy in copies:
                    copy.assign(value)
    return parts, server


def main() -> None:
    """Prints a line a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--column", default="fashion-dir", choices=list(COLUMNS))
    parser.add_argument("--rows", default="psl,edgesplit")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--deals", type=int, default=1)
    options = parser.parse_args()
    if "TLC_DATA" not in os.environ:
        parser.error("set TLC_DATA to the data directory")
    data, how, rounds = COLUMNS[options.column]
    with np.load(Path(os.environ["TLC_DATA"]) / data) as arrays:
        x, x_test = (arrays[name][..., None].astype(np.float32) / 255 for name in ("x_train", "x_test"))
        y, y_test = arrays["y_train"].astype(np.int64), arrays["y_test"]
    whole = Shard(np.arange(len(y)), y)  # places in the place of samples
    for row in options.rows.split(","):
        for number in range(options.deals):
            shards = [shard.inputs for shard in deal(whole, DEVICES, how, seed=number)]  # type: ignore[arg-type]
            for seed in range(options.seeds):
                parts, server = train(x, y, shards, rounds, seed, average=row == "edgesplit")
                found = [
                    np.mean(
                        [
                            host(server, device(part, images)).numpy().argmax(1) == labels
                            for images, labels in zip(np.split(x_test, 10), np.split(y_test, 10), strict=True)
                        ]
                    )
                    for part in parts[: 1 if row == "edgesplit" else None]
                ]
                print(f"{row}, shares {number}, seed {seed}: {100 * np.mean(found):.1f}", flush=True)


if __name__ == "__main__":
    main()
