# SPDX-License-Identifier: Apache-2.0
"""The host's half of a split network: inference by ONNX Runtime, training by TensorFlow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc import bundle as bundles
from tlc.bundle import Bundle
from tlc.errors import ConfigError, DataError

__all__ = ["TRAINED_FILE", "ServerModel", "StepResult"]

TRAINED_FILE = "host.trained.onnx"
"""In a project: the host segment as ``tlc train`` left it."""

Float = NDArray[np.float32]


@dataclass(frozen=True)
class StepResult:
    """What a training step of the host segment gives."""

    loss: float
    correct: int
    gradient: Float
    """d loss / d smashed, in the device's layout: (samples, ...)."""


class ServerModel:
    """The host segment of a bundle. Smashed data comes and gradients go in the device's layout.

    Args:
        directory: the project that ``tlc compile`` wrote.
        trained: with the weights that ``tlc train`` left there.

    Raises:
        BundleError: the project is damaged.
        DataError: it was not trained.
    """

    def __init__(self, directory: Path, *, trained: bool = False) -> None:
        self.directory = Path(directory)
        self.bundle: Bundle = bundles.load(directory)
        self._onnx: bytes | None = self._read(trained) if self.bundle.split else None
        self._session: Any = None
        self._trainer: _Trainer | None = None

    def _read(self, trained: bool) -> bytes:
        path = self.directory / (TRAINED_FILE if trained else "host.onnx")
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(
                f"there is no trained host segment ({error.strerror})",
                where=str(path),
                remedy="train it first: tlc train DIR --data FILE.npz",
            ) from None

    def onnx(self) -> bytes:
        """The host segment with its weights as they are now.

        Raises:
            DataError: there is none.
        """
        if self._onnx is None:
            raise DataError("the whole network is on the device", remedy="compile with another --cut")
        return self._trainer.onnx() if self._trainer else self._onnx

    def infer(self, smashed: NDArray[np.int8]) -> list[Float]:
        """The network's outputs in the model file's order, for (samples, ...) int8 tensors at the cut."""
        edge = self.bundle.outputs[0]
        real = edge.to_file(smashed)
        if self._onnx is None:
            return [real]
        session = self._runtime()
        name = session.get_inputs()[0].name
        if _fixed_batch(session):
            parts = [session.run(None, {name: real[i : i + 1]}) for i in range(len(real))]
            return [np.concatenate(column) for column in zip(*parts, strict=True)]
        return list(session.run(None, {name: real}))

    def require_trainable(self) -> None:
        """Refuses a project that cannot be trained by both sides.

        Raises:
            ConfigError: there is no host segment, or nothing learns on the device.
        """
        if not self.bundle.split:
            raise ConfigError(
                "the whole network is on the device: there is no host segment to train",
                where=str(self.directory),
                remedy="compile with another --cut",
            )
        if not self.bundle.learned:
            raise ConfigError(
                "nothing learns on the device", where=str(self.directory), remedy="compile with --train last"
            )

    def check_labels(self, labels: NDArray[Any], where: str = "") -> None:
        """Holds labels to the network's classes.

        Raises:
            DataError: one is out of range.
        """
        if labels.min() < 0 or labels.max() >= self.classes > 0:
            raise DataError(
                f"labels run from {labels.min()} to {labels.max()}, but the network has {self.classes} classes",
                where=where,
                remedy="number the classes from 0",
            )

    def gradient(self, smashed: NDArray[np.int8], labels: NDArray[Any]) -> StepResult:
        """Loss and gradients of a batch's mean softmax cross-entropy at the weights as they are; :meth:`apply` steps.

        May be called several times before a step: then the step is on the mean over all samples.

        Raises:
            DataError: a label is out of range, or there is no host segment.
            UnsupportedOperator: the segment holds an operator that cannot be trained.
        """
        if self._trainer is None:
            if self._onnx is None:
                raise DataError(
                    "the whole network is on the device: there is no host segment to train",
                    remedy="compile with another --cut",
                )
            self._trainer = _Trainer(self._onnx)
        self.check_labels(labels)
        edge = self.bundle.outputs[0]
        result = self._trainer.gradient(edge.to_file(smashed), labels)
        return StepResult(result.loss, result.correct, edge.origin.from_file(result.gradient, edge.shape))

    def apply(self, learning_rate: float) -> None:
        """One SGD step on the gradients since the last one."""
        assert self._trainer is not None, "no gradient yet"
        self._trainer.apply(learning_rate)
        self._session = None  # its weights are old now

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """The trained weights by name; empty where training has not begun."""
        return self._trainer.module.arrays() if self._trainer else {}

    def restore(self, snapshot: dict[str, NDArray[Any]]) -> None:
        """Back to a snapshot; gradients since the last step are forgotten."""
        self._session = None
        if not snapshot:
            self._trainer = None
        elif self._trainer:
            self._trainer.restore(snapshot)

    @cached_property
    def classes(self) -> int:
        """Values of the network's first output; 0 where the model file leaves its shape open."""
        if self._onnx is None:
            return math.prod(self.bundle.outputs[0].shape)
        from tlc.frontends.onnx import read_onnx

        graph = read_onnx(self._onnx)
        return graph[graph.outputs[0]].elements

    def _runtime(self) -> Any:
        if self._session is None:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            content = self._trainer.onnx() if self._trainer else self._onnx
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return self._session


class _Trainer:
    """``host.onnx`` as a TensorFlow module."""

    def __init__(self, onnx_bytes: bytes) -> None:
        from tlc.learn import quiet_tensorflow

        quiet_tensorflow()
        import tensorflow as tf

        from tlc.frontends.onnx import read_onnx
        from tlc.learn.module import GraphModule
        from tlc.passes.canonicalize import canonicalize

        self.tf = tf
        self.module = GraphModule(canonicalize(read_onnx(onnx_bytes)))
        self.input = self.module.graph[self.module.graph.inputs[0]]
        self.totals = [tf.Variable(tf.zeros_like(v), trainable=False) for v in self.module.trainable_variables]
        self.samples = 0
        self._compiled = tf.function(self._gradients, reduce_retracing=True)

    def gradient(self, real: Float, labels: NDArray[Any]) -> StepResult:
        """``real`` and the gradient are in the file's layout."""
        tf = self.tf
        x = self.input.origin.from_file(real, self.input.shape) if self.input.origin else real
        loss, correct, gradients, at_cut = self._compiled(tf.constant(x), tf.constant(labels, tf.int64))
        for total, gradient in zip(self.totals, gradients, strict=True):
            if gradient is not None:
                total.assign_add(gradient * len(labels))
        self.samples += len(labels)
        back = at_cut.numpy()
        return StepResult(float(loss), int(correct), self.input.origin.to_file(back) if self.input.origin else back)

    def apply(self, learning_rate: float) -> None:
        """Plain SGD on the mean gradient."""
        for variable, total in zip(self.module.trainable_variables, self.totals, strict=True):
            variable.assign_sub(learning_rate / self.samples * total)
            total.assign(self.tf.zeros_like(total))
        self.samples = 0

    def restore(self, snapshot: dict[str, NDArray[Any]]) -> None:
        """Sets the weights, and clears the gradients."""
        self.module.load(snapshot)
        for total in self.totals:
            total.assign(self.tf.zeros_like(total))
        self.samples = 0

    def _gradients(self, x: Any, labels: Any) -> Any:
        tf = self.tf
        with tf.GradientTape() as tape:
            tape.watch(x)
            logits = self.module({self.input.name: x}, [self.module.logits])[self.module.logits]
            logits = tf.reshape(logits, [tf.shape(x)[0], -1])
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        correct = tf.reduce_sum(tf.cast(tf.argmax(logits, 1) == labels, tf.int32))
        gradients = tape.gradient(loss, [*self.module.trainable_variables, x])
        return loss, correct, gradients[:-1], gradients[-1]

    def onnx(self) -> bytes:
        """The segment with the weights as they are now."""
        from tlc.frontends.onnx_writer import write_onnx

        content: bytes = write_onnx(self.module.trained()).SerializeToString()
        return content


def _fixed_batch(session: Any) -> bool:
    shape = session.get_inputs()[0].shape
    return bool(shape) and shape[0] == 1
