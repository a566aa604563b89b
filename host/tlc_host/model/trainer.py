# SPDX-License-Identifier: Apache-2.0
"""The host segment in training: gradients, optimizer steps and their state. One trace a batch shape; not thread-safe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
from numpy.typing import NDArray

from tlc.errors import DataError, ModelError
from tlc_host.model.losses import LOSSES
from tlc_host.model.module import OnnxModule
from tlc_host.model.ops.base import Run
from tlc_host.model.optimizers import OPTIMIZERS, Settings

__all__ = ["LossResult", "Trainer"]

Float = NDArray[np.float32]
BATCH_KEY = "tlc.batch"
"""Metadata of host.onnx: ``1`` where it takes one sample at a time."""


@dataclass(frozen=True)
class LossResult:
    """A batch's mean loss, how many samples were right, and d loss / d input in the file's layout, float32."""

    loss: float
    correct: int
    gradient: Float


class Trainer:
    """A model with one input, its optimizer, and the gradients since the last step.

    Args:
        model: the file's bytes.
        settings: how it learns.
        where: what errors name.

    Raises:
        UnsupportedOperator: the model holds an operator that cannot be trained.
        ModelError: batch normalization cannot train on a model that takes one sample at a time.
    """

    def __init__(self, model: bytes, settings: Settings, where: str = "host.onnx") -> None:
        # One order of summation whatever the threads do: the same bits from the same seed.
        tf.config.experimental.enable_op_determinism()
        self.module = OnnxModule(model, where=where)
        self.settings = settings
        self.where = where
        self.single = _takes_one(self.module.proto)
        if self.single and settings.batch_norm == "training" and self.module.statistics:
            raise ModelError(
                "takes one sample at a time, which has no batch statistics",
                where=where,
                remedy="set batch_norm to frozen, or export with a free batch axis",
            )
        (self.input,) = self.module.inputs
        self.output = self.module.outputs[0]
        self.finish, self.before = self.module.finish(self.output)
        self.module.require_gradient(self.before, self.input)
        self.variables = list(self.module.parameters.values())
        self.totals = [tf.Variable(tf.zeros_like(v), trainable=False) for v in self.variables]
        names = OPTIMIZERS[settings.optimizer].slots
        self.slots = [[tf.Variable(tf.zeros_like(v), trainable=False) for _ in names] for v in self.variables]
        self.samples = 0
        """Behind the gradients since the last step."""
        self.steps = 0
        """Optimizer steps done."""
        self.draws = 0
        """Training passes done: with the seed, the state of dropout."""
        self.traces = 0
        """How many functions TensorFlow has built."""
        self._compiled: dict[Any, Any] = {}
        self._dry_run()

    # ---- passes ------------------------------------------------------------------------------------------------------

    def gradient(self, x: Float, targets: NDArray[Any], loss: str = "cross_entropy") -> LossResult:
        """A batch's mean loss and its gradients, at the parameters as they are.

        The parameters' gradients add up, weighted by samples, until :meth:`apply`.

        Args:
            x: (samples, ...) in the file's layout.
            targets: (samples,) class numbers, or (samples, values): see ``LOSSES``.
        """
        kind = LOSSES[loss]
        y = np.asarray(targets, np.int64 if kind.integer_targets else np.float32)
        y = y.reshape(len(x)) if kind.integer_targets else y.reshape(len(x), -1)
        goal = self.before if self.finish in kind.before else self.output

        def passes(x: Any, y: Any, draw: Any) -> Any:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch([x, *self.variables])
                out, updates = self._forward(x, goal, draw)
                out = tf.reshape(out, [x.shape[0], -1])
                value = kind.value(out, y)
            at_input = self._accumulate(tape, value, x, x.shape[0])
            self._assign(updates)
            return value, kind.correct(out, y), at_input

        value, correct, at_input = self._call(("loss", loss), passes, self._real(x), tf.constant(y), self._draw())
        self.samples += len(x)
        return LossResult(float(value), int(correct), at_input.numpy())

    def forward(self, x: Float, *, logits: bool = False) -> Float:
        """The first output, or what its last activation reads; as training sees it, but statistics stay."""
        goal = self.before if logits else self.output

        def passes(x: Any, draw: Any) -> Any:
            return self._forward(x, goal, draw)[0]

        result: Float = self._call(("forward", goal), passes, self._real(x), self._draw(keep=True)).numpy()
        return result

    def backward(self, x: Float, gradient: Float, *, logits: bool = False, samples: int | None = None) -> Float:
        """d loss / d input from d loss / d output (of the loss, which may be a mean): for losses that lie elsewhere.

        The parameters' gradients add up until :meth:`apply`; each call counts as its samples, or as ``samples`` of them.
        """
        goal = self.before if logits else self.output
        stands_for = len(x) if samples is None else samples

        def passes(x: Any, g: Any, count: Any, draw: Any) -> Any:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch([x, *self.variables])
                out, updates = self._forward(x, goal, draw)
                value = tf.reduce_sum(tf.reshape(out, [x.shape[0], -1]) * g)
            at_input = self._accumulate(tape, value, x, count)
            self._assign(updates)
            return at_input

        flat = self._real(np.reshape(gradient, [len(x), -1]))
        count = tf.constant(stands_for, tf.float32)
        result: Float = self._call(("backward", goal), passes, self._real(x), flat, count, self._draw()).numpy()
        self.samples += stands_for
        return result

    def apply(self, learning_rate: float | None = None) -> float:
        """One optimizer step on the mean gradient since the last one.

        Args:
            learning_rate: None: that of the settings. The schedule's factor is on it either way.

        Returns:
            The gradient's norm over all parameters, before clipping.

        Raises:
            DataError: there is no gradient.
        """
        if not self.samples:
            raise DataError("no gradient since the last step", where=self.where, remedy="compute one first")
        rate = (self.settings.learning_rate if learning_rate is None else learning_rate) * self.settings.schedule(
            self.steps
        )
        scalars = (tf.constant(rate, tf.float32), tf.constant(1.0 / self.samples, tf.float32))
        norm = self._call(("apply",), self._apply, *scalars, tf.constant(self.steps + 1))
        self.samples = 0
        self.steps += 1
        return float(norm)

    def discard(self) -> None:
        """Forgets the gradients since the last step."""
        for total in self.totals:
            total.assign(tf.zeros_like(total))
        self.samples = 0

    def gradients(self) -> dict[str, Float]:
        """The mean gradient since the last step, by the file's names."""
        count = max(1, self.samples)
        return {name: total.numpy() / count for name, total in zip(self.module.parameters, self.totals, strict=True)}

    # ---- state -------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything that the next step depends on."""
        names = OPTIMIZERS[self.settings.optimizer].slots
        result = {f"weight/{name}": value for name, value in self.module.arrays().items()}
        for name, slots, total in zip(self.module.parameters, self.slots, self.totals, strict=True):
            result |= {f"{slot}/{name}": v.numpy() for slot, v in zip(names, slots, strict=True)}
            if self.samples:
                result[f"total/{name}"] = total.numpy()
        counters = {"samples": self.samples, "steps": self.steps, "draws": self.draws, "seed": self.settings.seed}
        return result | {name: np.array(value, np.int64) for name, value in counters.items()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Back to a :meth:`state`.

        Raises:
            DataError: it is of another model, optimizer or seed.
        """
        names = OPTIMIZERS[self.settings.optimizer].slots
        own = self.state()
        missing = [name for name in own if name not in state and not name.startswith("total/")]
        extra = [name for name in state if name not in own and not name.startswith("total/")]
        if missing or extra:
            name, how = (missing[0], "lacks") if missing else (extra[0], "holds")
            raise DataError(
                f"the state {how} '{name}': it is of another model or optimizer than {self.settings.optimizer}",
                where=self.where,
                remedy="take the settings that it was saved with",
            )
        if int(state["seed"]) != self.settings.seed:
            raise DataError(
                f"the state is of seed {int(state['seed'])}, not {self.settings.seed}",
                where=self.where,
                remedy="take the settings that it was saved with",
            )
        self.module.load({name[7:]: value for name, value in state.items() if name.startswith("weight/")})
        self.samples, self.steps, self.draws = (int(state[name]) for name in ("samples", "steps", "draws"))
        for name, slots, total in zip(self.module.parameters, self.slots, self.totals, strict=True):
            for slot, variable in zip(names, slots, strict=True):
                variable.assign(state[f"{slot}/{name}"])
            total.assign(state[f"total/{name}"] if self.samples else tf.zeros_like(total))

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _forward(self, x: Any, goal: str, draw: Any) -> tuple[Any, dict[str, Any]]:
        trains = self.settings.batch_norm == "training"

        def one(x: Any) -> tuple[Any, dict[str, Any]]:
            run = Run(batch_statistics=trains, seed=self.settings.seed, draw=draw)
            return self.module({self.input: x}, [goal], run)[goal], run.updates

        if not self.single or x.shape[0] == 1:
            return one(x)
        rows = [one(x[i : i + 1])[0] for i in range(x.shape[0])]
        return tf.stack([tf.reshape(row, [-1]) for row in rows]), {}

    def _accumulate(self, tape: Any, value: Any, x: Any, samples: Any) -> Any:
        """Adds the parameters' gradients of ``samples`` · the mean loss up; gives that of the input."""
        *of_variables, at_input = tape.gradient(value, [*self.variables, x])
        for total, gradient in zip(self.totals, of_variables, strict=True):
            if gradient is not None:
                total.assign_add(tf.convert_to_tensor(gradient) * samples)
        return tf.zeros_like(x) if at_input is None else at_input

    def _assign(self, updates: Mapping[str, Any]) -> None:
        for name, value in updates.items():
            self.module.statistics[name].assign(value)

    def _apply(self, rate: Any, mean: Any, step: Any) -> Any:
        gradients = [total * mean for total in self.totals]
        norm = tf.linalg.global_norm(gradients) if gradients else tf.constant(0.0)
        if self.settings.clip_norm:
            factor = self.settings.clip_norm / tf.maximum(norm, self.settings.clip_norm)
            gradients = [gradient * factor for gradient in gradients]
        update = OPTIMIZERS[self.settings.optimizer].update
        for variable, gradient, slots in zip(self.variables, gradients, self.slots, strict=True):
            update(self.settings, variable, gradient, slots, rate, step)
        for total in self.totals:
            total.assign(tf.zeros_like(total))
        return norm

    def _call(self, kind: tuple[str, ...], function: Callable[..., Any], *arguments: Any) -> Any:
        """Runs a function compiled for its arguments' shapes."""
        key = (*kind, *(tuple(a.shape) for a in arguments))
        if key not in self._compiled:
            specs = [tf.TensorSpec(a.shape, a.dtype) for a in arguments]
            self._compiled[key] = tf.function(function, autograph=False).get_concrete_function(*specs)
            self.traces += 1
        return self._compiled[key](*arguments)

    def _draw(self, *, keep: bool = False) -> Any:
        draw = tf.constant(self.draws % (1 << 31), tf.int32)
        self.draws += not keep
        return draw

    @staticmethod
    def _real(x: NDArray[Any]) -> Any:
        return tf.constant(np.ascontiguousarray(x, np.float32))

    def _dry_run(self) -> None:
        """Finds what cannot be trained before a device is opened."""
        shape = self._input_shape()
        if shape is not None:
            self.module({self.input: tf.zeros(shape)}, [self.before])

    def _input_shape(self) -> list[int] | None:
        for value in self.module.proto.graph.input:
            if value.name == self.input:
                dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
                if dims and all(dims[1:]):
                    return [1, *dims[1:]]
        return None


def _takes_one(proto: onnx.ModelProto) -> bool:
    for entry in proto.metadata_props:
        if entry.key == BATCH_KEY:
            return bool(entry.value == "1")
    names = {tensor.name for tensor in proto.graph.initializer}
    first = next(value for value in proto.graph.input if value.name not in names)
    dims = first.type.tensor_type.shape.dim
    return bool(dims) and dims[0].dim_value == 1
