# SPDX-License-Identifier: Apache-2.0
"""The ways to learn that are compared. All see the same samples in the same order, eight to a step of plain SGD, with gradients that
are clipped. Where updates are interleaved, each of the eight is a step.

On the device: what ``tlc compile --train`` made, as its twin (the generated C). On the host: the float network in TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tlc.frontends import read_model
from tlc.learning import Learning, Schedule
from tlc.passes.canonicalize import canonicalize
from tlc.pipeline import Compiled, Options, compile_model
from tlc.twin import OptimizerStep, Twin

from .task import Array, Set

__all__ = [
    "BATCH",
    "METHODS",
    "SHARE",
    "Method",
    "Variant",
    "accuracy",
    "batches",
    "compile_variant",
    "learn_float",
    "learn_int8",
    "schedule",
]

BATCH = 8
CLIP, CLIP_ONE = 1.0, 4.0
"""The norm of a tensor's gradient, at most: the mean's of eight samples, or that of one, which is longer."""
SHARE = 10
"""``auto`` may take one part in so many of the RAM that learning everything takes."""


@dataclass(frozen=True)
class Method:
    """One column of the table."""

    name: str
    title: str
    train: str
    """``--train``; "" where nothing is compiled."""
    rates: tuple[float, ...] = ()
    """The learning rates that were tried on the tuning seed, as many for each method."""
    qas: bool = True
    batch: Literal["many", "1"] = "many"
    """``--train-batch``"""


GRID = (0.03, 0.1, 0.3)
METHODS = {
    method.name: method
    for method in (
        Method("none", "no adaptation", "none"),
        Method("last", "last layer", "last", GRID),
        Method("bias", "biases only", "bias", (0.1, 0.3, 1.0)),
        Method("auto", "sparse, `auto`", "auto", (0.01, 0.03, 0.1), batch="1"),
        Method("plain", "full, int8 without QAS", "full", (3e3, 1e4, 3e4), qas=False),
        Method("full", "full, int8", "full", GRID),
        Method("float", "full, float on the host", "", GRID),
    )
}


@dataclass(frozen=True)
class Variant:
    """A compiled model."""

    directory: Path
    compiled: Compiled
    interleaved: bool

    @property
    def ram(self) -> int:
        """All that it takes."""
        return self.compiled.bundle.certificate.ram_bytes


def compile_variant(model: Path, calibration: Set, out: Path, method: Method, **options: Any) -> Variant:
    """``tlc compile MODEL --board native --cut none --calib … --train … --train-batch … --loss softmax-ce``."""
    file = out.with_suffix(".calib.npz")
    np.savez(file, x=calibration.x, y=calibration.y)
    learning = Learning(method.batch, "none" if method.train == "none" else "softmax-ce", qas=method.qas)
    every = Options(model, "native", out, cut="none", calib=file, train=method.train, learning=learning, **options)
    return Variant(out, compile_model(every), learning.interleaved)


def batches(count: int, steps: int, seed: int) -> Iterator[Array]:
    """Numbers of samples, each once in a round."""
    rng = np.random.default_rng(1000 + seed)
    left = np.empty(0, np.int64)
    for _ in range(steps):
        while len(left) < BATCH:
            left = np.concatenate([left, rng.permutation(count)])
        yield left[:BATCH]
        left = left[BATCH:]


def schedule(steps: int) -> Schedule:
    """Up to the rate in the first twentieth of the steps, then a half wave down to zero."""
    warm_up = steps // 20
    return Schedule("cosine", warm_up, steps - warm_up)


def learn_int8(variant: Variant, samples: Set, steps: int, rate: float, seed: int) -> Twin:
    """The device after its steps, each on the labels of a batch: the loss and its gradient are the device's own."""
    twin, rates = Twin(variant.directory), schedule(steps)
    inputs = twin.bundle.inputs[0].to_device(samples.x)
    for step, picked in enumerate(batches(len(samples), steps, seed), 1):
        now = rates.rate(rate, step)
        for done, number in enumerate(picked, (step - 1) * BATCH + 1):
            twin.forward(inputs[number : number + 1])
            told = OptimizerStep(now, done, seed, 0.0, 0.0, CLIP_ONE, 0.0) if variant.interleaved else None
            twin.learn(int(samples.y[number]), told)
        if not variant.interleaved:
            twin.update(now, step, seed, clip=CLIP)
    return twin


def learn_float(model: Path, samples: Set, steps: int, rate: float, seed: int) -> Any:
    """The float network after the same steps, a ``GraphModule``."""
    import tensorflow as tf

    from tlc.learn.module import GraphModule

    module = GraphModule(canonicalize(read_model(model)))
    name = module.graph.inputs[0]
    variables, rates = list(module.trainable_variables), schedule(steps)

    @tf.function(reduce_retracing=True)
    def learn(x: Any, y: Any, now: Any) -> None:
        with tf.GradientTape() as tape:
            logits = module({name: x}, [module.logits])[module.logits]
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
        for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            variable.assign_sub(now * tf.clip_by_norm(gradient, CLIP))

    x = samples.x if module.graph[name].origin is None else _in_layout(module.graph, name, samples.x)
    for step, picked in enumerate(batches(len(samples), steps, seed), 1):
        learn(tf.constant(x[picked]), tf.constant(samples.y[picked]), tf.constant(rates.rate(rate, step), tf.float32))
    return module


def _in_layout(graph: Any, name: str, x: Array) -> Array:
    tensor = graph[name]
    result: Array = tensor.origin.from_file(x, tensor.shape)
    return result


def accuracy(learned: Any, test: Set) -> float:
    """In percent, of a twin or of a float network."""
    if isinstance(learned, Twin):
        logits = learned.forward(learned.bundle.inputs[0].to_device(test.x))[0]
    else:
        name = learned.graph.inputs[0]
        x = test.x if learned.graph[name].origin is None else _in_layout(learned.graph, name, test.x)
        logits = learned({name: x})[learned.graph.outputs[0]].numpy()
    return 100.0 * float((logits.reshape(len(test), -1).argmax(1) == test.y).mean())
